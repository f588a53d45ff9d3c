/*
 * See spawn.h. The order within a task, top to bottom as plan_task has it:
 *
 *	session and group; children (plan/births.h); memory; children that share it; [all are born] join groups; helpers and
 *	zombies end; advice, mm fields; descriptors; signal actions; limits; file locks; threads; [each thread] scheduling, name, areas;
 *	[all are traced, where there is seccomp] filters; credentials; pending signals; [leader] notification by message queues, dumpable, timers; park.
 */
#include "engine/plan/spawn.h"

#include "engine/agent/blob.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/procfile.h"
#include "engine/kinds/tty.h"
#include "engine/kinds/uring.h"
#include "engine/memory/restore.h"
#include "engine/ns/ns.h"
#include "engine/plan/births.h"
#include "engine/plan/rest.h"
#include "engine/task/state.h"
#include "engine/task/sysv_ipc.h"

#include <linux/sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define STACK_SIZE 2048UL
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

/* What a maker needs to know of who it makes. */
struct node {
	struct birth *birth;
	struct batch *batch; /* a task's is its leader's */
	struct rtask *task;  /* NULL: a helper */
	int first, next;     /* those it makes, as a list by index; -1 ends it */
	struct batch own;    /* a helper's */
};

struct births_plan {
	struct births births;
	struct node *nodes;
	uint32_t joiners, joiners_first; /* in all; without those who join last */
};

static uint64_t place_stack(struct restore *s)
{
	char *stack = arena_take(&s->arena, STACK_SIZE);

	return stack ? (uint64_t)stack + STACK_SIZE : 0;
}

/* `clear_tid`: the word that the kernel is to clear at the end of a thread (set_tid_address(2)), or 0. */
static void plan_clone(struct restore *s, struct batch *b, struct batch *child, pid_t pid, uint64_t flags, int exit_signal, uint64_t clear_tid)
{
	struct clone_args args = { .flags = flags | (clear_tid ? CLONE_CHILD_CLEARTID : 0), .child_tid = clear_tid, .exit_signal = flags & (CLONE_THREAD | CLONE_PARENT) ? 0 : (uint64_t)exit_signal };

	if (pid) {
		args.set_tid = arena_place(&s->arena, &pid, sizeof(pid));
		args.set_tid_size = 1;
	}
	struct agent_op *op = OP(b, AGENT_OP_FORK, arena_place(&s->arena, &args, sizeof(args)), sizeof(args), (uint64_t)child->final,
				 place_stack(s));
	if (pid) {
		op->flags |= AGENT_OP_EXPECT;
		op->expect = pid;
	}
}

static void plan_births(struct restore *s, struct node *n, bool late, enum birth_when when)
{
	struct node *nodes = s->births->nodes;

	for (int i = n->first; i >= 0; i = nodes[i].next) {
		const struct birth *b = nodes[i].birth;
		if (b->late != late || b->when != when)
			continue;
		batch_what(n->batch, "create process %d", b->pid);
		const struct rtask *t = nodes[i].task;
		plan_clone(s, n->batch, nodes[i].batch, b->pid, (b->clone_parent ? CLONE_PARENT : 0) |
			   (t && t->files_owner ? CLONE_FILES : 0) | (t && t->fs_owner ? CLONE_FS : 0) |
			   (t && t->vm_owner ? CLONE_VM : 0) | (t && t->shares_actions ? CLONE_SIGHAND : 0),
			   t && t->core->tc->has_exit_signal ? (int)t->core->tc->exit_signal : SIGCHLD, 0);
	}
}

static bool has_births(struct restore *s, struct node *n, bool late, enum birth_when when)
{
	for (int i = n->first; i >= 0; i = s->births->nodes[i].next)
		if (s->births->nodes[i].birth->late == late && s->births->nodes[i].birth->when == when)
			return true;
	return false;
}

/* Children that are born from here on have the session's terminal too. */
static void plan_session(struct restore *s, struct node *n)
{
	const struct birth *b = n->birth;
	bool external;
	pid_t pgrp;

	batch_what(n->batch, "make process %d leader of its session or group", b->pid);
	if (b->setsid)
		OP(n->batch, __NR_setsid);
	else if (b->setpgid)
		OP(n->batch, __NR_setpgid, 0, 0);
	int fd = b->setsid && n->task ? tty_of_session(s, b->pid, &pgrp, &external) : -1;
	if (fd < 0)
		return;
	batch_what(n->batch, "give session %d its controlling terminal", b->pid);
	struct agent_op *op = OP(n->batch, __NR_ioctl, fd, TIOCSCTTY, 0);
	if (external) /* the caller's session may want to keep it */
		op->flags |= AGENT_OP_MAY_FAIL;
}

static bool has_group(struct restore *s, pid_t pgid)
{
	for (size_t i = 0; i < s->tasks.count; i++)
		if (s->tasks.data[i]->tree->pgid == (uint32_t)pgid)
			return true;
	return false;
}

/* Once all are in their groups. */
static void plan_foreground(struct restore *s, struct node *n)
{
	const struct birth *b = n->birth;
	bool external;
	pid_t pgrp = 0;
	int fd = b->setsid && n->task ? tty_of_session(s, b->pid, &pgrp, &external) : -1;

	if (fd < 0 || external || !has_group(s, pgrp))
		return;
	batch_what(n->batch, "bring process group %d to the foreground of its terminal", pgrp);
	OP(n->batch, AGENT_OP_AWAIT, (uint64_t)&s->words->joined, s->births->joiners);
	OP(n->batch, __NR_ioctl, fd, TIOCSPGRP, arena_place(&s->arena, &pgrp, sizeof(pgrp)));
}

/* Until everyone is there; then into the group. */
static void plan_join(struct restore *s, struct node *n)
{
	const struct birth *b = n->birth;

	if (s->births->births.count == 1)
		return;
	batch_what(n->batch, "wait for the other processes in process %d", b->pid);
	OP(n->batch, AGENT_OP_ARRIVE, (uint64_t)&s->words->born, s->births->births.count);
	OP(n->batch, AGENT_OP_AWAIT, (uint64_t)&s->words->born, s->births->births.count);
	if (!b->join)
		return;
	batch_what(n->batch, "join process group %d in process %d", b->join, b->pid);
	if (b->join_last)
		OP(n->batch, AGENT_OP_AWAIT, (uint64_t)&s->words->joined, s->births->joiners_first);
	OP(n->batch, __NR_setpgid, 0, b->join);
	OP(n->batch, AGENT_OP_ARRIVE, (uint64_t)&s->words->joined, s->births->joiners_first);
}

static void plan_start(struct restore *s, struct node *n)
{
	batch_what(n->batch, "start process %d", n->birth->pid);
	if (!n->birth->orphan)
		OP(n->batch, __NR_prctl, PR_SET_PDEATHSIG, SIGKILL);
	if (n->birth->subreaper)
		OP(n->batch, __NR_prctl, PR_SET_CHILD_SUBREAPER, 1);
	if (n == s->births->nodes && !n->task->leader_gone)
		OP(n->batch, AGENT_OP_AWAIT, (uint64_t)&s->words->held, 1);
}

static int plan_helper(struct restore *s, struct node *n)
{
	plan_start(s, n);
	plan_session(s, n);
	plan_births(s, n, false, BIRTH_AFTER_SESSION);
	plan_births(s, n, true, BIRTH_AFTER_SESSION);
	plan_join(s, n);
	batch_what(n->batch, "end helper %d", n->birth->pid);
	OP(n->batch, AGENT_OP_AWAIT, (uint64_t)&s->words->joined, s->births->joiners);
	OP(n->batch, __NR_exit_group, 0);
	return 0;
}

static int plan_zombie(struct restore *s, struct node *n)
{
	const TaskCoreEntry *tc = n->task->core->tc;
	int status = (int)tc->exit_code, sig = WTERMSIG(status);
	uint64_t mask = 0, limit[2] = {};

	if (WCOREDUMP(status))
		return error_set(s->e, -ENOTSUP, "process %d had ended with a core dump, which can't be had again", n->task->pid);
	plan_join(s, n);
	batch_what(n->batch, "end process %d as it had ended", n->task->pid);
	OP(n->batch, __NR_prctl, PR_SET_NAME, arena_place(&s->arena, tc->comm, strlen(tc->comm) + 1));
	if (!sig) {
		OP(n->batch, __NR_exit_group, WEXITSTATUS(status));
		return 0;
	}
	OP(n->batch, __NR_prlimit64, 0, 4 /* RLIMIT_CORE */, arena_place(&s->arena, limit, sizeof(limit)), 0);
	OP(n->batch, __NR_kill, n->task->pid, sig);
	OP(n->batch, __NR_rt_sigprocmask, SIG_SETMASK, arena_place(&s->arena, &mask, sizeof(mask)), 0, 8);
	return 0;
}

/* Children that are dead must be so before the SIGCHLD they sent is dropped; helpers are waited for. */
static void plan_reap(struct restore *s, struct node *n)
{
	struct births_plan *p = s->births;
	siginfo_t *info = arena_take(&s->arena, sizeof(*info));

	for (size_t i = 0; i < p->births.count; i++) {
		struct node *child = &p->nodes[i];
		if (!child->task && &p->nodes[child->birth->reaper] == n) {
			batch_what(n->batch, "wait for helper %d", child->birth->pid);
			struct agent_op *op = OP(n->batch, __NR_waitid, child->birth->pid ? P_PID : P_ALL, child->birth->pid,
						 (uint64_t)info, WEXITED, 0);
			op->flags = 0;
		} else if (child->task && child->task->dead && child->task->parent == n->task) {
			batch_what(n->batch, "wait for the end of process %d", child->birth->pid);
			OP(n->batch, __NR_waitid, P_PID, child->birth->pid, (uint64_t)info, WEXITED | WNOWAIT | __WALL, 0);
		}
	}
}

/* Nobody gives up what ends it with its parent (PR_SET_PDEATHSIG, which credentials reset) before the coordinator holds every process: otherwise
 * one that waits would be left behind by a coordinator that is killed. */
static void plan_seized(struct restore *s, const struct rtask *t, struct rthread *th)
{
	struct batch *b = &th->batch;
	const bool first = th == &t->threads.data[t->leader_gone];

	if (!(s->seccomp || (first && s->processes > 1)) || (t->leader_gone && th == &t->threads.data[0]))
		return;
	batch_what(b, "wait until thread %d is traced", th->tid);
	OP(b, AGENT_OP_ARRIVE, (uint64_t)&s->words->seizable);
	OP(b, AGENT_OP_ARRIVE, (uint64_t)&s->status->change);
	OP(b, AGENT_OP_AWAIT, (uint64_t)&s->words->seized, 1);
}

/* What the leader and every other thread do for themselves. */
static int plan_thread(struct restore *s, struct rtask *t, struct rthread *th)
{
	const ThreadCoreEntry *c = th->core->thread_core;
	int r = sched_plan(s, t, th);

	if (!r)
		r = threads_plan_state(s, t, th);
	if (r)
		return r;
	r = uring_plan_thread(s, t, th);
	if (r)
		return r;
	plan_seized(s, t, th);
	r = seccomp_plan(s, t, th);
	if (!r)
		r = creds_plan(s, t, th);
	if (r)
		return r;
	batch_what(&th->batch, "set the parent-death signal of thread %d", th->tid);
	if (c->pdeath_sig || th == &t->threads.data[0]) /* where plan_start has set one */
		OP(&th->batch, __NR_prctl, PR_SET_PDEATHSIG, c->pdeath_sig);
	r = signals_plan_queues(s, t, th);
	return r ? r : seccomp_plan_strict(s, th);
}

static int plan_threads(struct restore *s, struct rtask *t)
{
	struct batch *leader = &t->threads.data[0].batch;
	int r = 0;

	t->threads_done = arena_take(&s->arena, sizeof(*t->threads_done));
	batch_what(leader, "name process %d", t->pid);
	if (t->threads.count > 1)
		threads_plan_name(s, t, &t->threads.data[0], leader);
	for (size_t i = 1; !r && i < t->threads.count; i++) {
		struct rthread *th = &t->threads.data[i];
		r = plan_thread(s, t, th);
		if (r)
			return r;
		r = threads_plan_fpu(s, th);
		if (r)
			return r;
		batch_what(&th->batch, "wait for the registers of thread %d", th->tid);
		OP(&th->batch, AGENT_OP_ARRIVE, (uint64_t)t->threads_done, t->threads.count - 1);
		OP(&th->batch, AGENT_OP_PARK);
		if (batch_finish(&th->batch, &s->arena, (uint64_t)s->status))
			return error_set(s->e, -ENOMEM, "out of memory");
		batch_what(leader, "create thread %d of process %d", th->tid, t->pid);
		plan_clone(s, leader, &th->batch, th->tid, THREAD_FLAGS, 0, th->core->thread_info->clear_tid_addr);
	}
	return r;
}

static int plan_rest(struct restore *s, struct rtask *t)
{
	struct rthread *leader = &t->threads.data[0];
	struct batch *b = &leader->batch;
	int r = t->vm_owner ? 0 : memory_plan_finish(s, t);

	if (!r)
		r = files_plan(s, t);
	if (!r)
		r = signals_plan_actions(s, t);
	if (!r)
		r = process_plan(s, t);
	if (!r)
		r = sysv_ipc_plan(s, t);
	if (r)
		return r;
	batch_what(b, "close what process %d does not need", t->pid);
	if (!t->files_owner)
		files_plan_close(s, t, true);
	r = locks_plan(s, t);
	if (!r)
		r = plan_threads(s, t);
	if (!r)
		r = procfile_plan_threads(s, t);
	if (!r)
		r = plan_thread(s, t, leader);
	if (r)
		return r;
	batch_what(b, "wait for the threads of process %d", t->pid);
	if (t->threads.count > 1)
		OP(b, AGENT_OP_AWAIT, (uint64_t)t->threads_done, t->threads.count - 1);
	bool kept = false;
	for (size_t i = 0; i < t->threads.count; i++)
		kept |= t->threads.data[i].fs || t->threads.data[i].own_files;
	if (kept)
		files_plan_close(s, t, false);
	r = mqueues_plan(s, t);
	if (r)
		return r;
	/* Credentials reset it; what was suid-dumpable is root's own then. */
	OP_MAY_FAIL(b, __NR_prctl, PR_SET_DUMPABLE, t->mm->dumpable == 1);
	r = timers_plan(s, t);
	if (t->leader_gone) {
		batch_what(b, "end the main thread of process %d as it had ended", t->pid);
		OP(b, AGENT_OP_AWAIT, (uint64_t)&s->words->leave, 1);
		OP(b, __NR_exit, WEXITSTATUS(t->core->tc->leader_exit_code));
	}
	if (!r)
		r = threads_plan_fpu(s, leader);
	batch_what(b, "wait for the registers of process %d", t->pid);
	if (!rest_plan(s, t))
		OP(b, AGENT_OP_PARK);
	return r;
}

static int plan_task(struct restore *s, struct node *n)
{
	struct rtask *t = n->task;
	bool session_late = has_births(s, n, true, BIRTH_BEFORE_SESSION);
	int r = 0;

	plan_start(s, n);
	if (!t->parent)
		ns_plan_enter(s, n->batch);
	if (!t->parent)
		r = memory_plan_clear(s, t);
	else if (!t->vm_owner && (n->birth->late || (t->parent->vm_owner && !t->dead)))
		r = memory_plan_inherit(s, t, !has_births(s, n, false, BIRTH_BEFORE_SESSION) && !has_births(s, n, false, BIRTH_AFTER_SESSION));
	plan_births(s, n, false, BIRTH_BEFORE_SESSION);
	if (!session_late) {
		plan_session(s, n);
		plan_births(s, n, false, BIRTH_AFTER_SESSION);
	}
	if (r || t->dead)
		return r ? r : plan_zombie(s, n);
	r = t->vm_owner ? 0 : memory_plan(s, t);
	plan_births(s, n, true, BIRTH_BEFORE_SESSION);
	if (session_late) {
		plan_session(s, n);
		plan_births(s, n, false, BIRTH_AFTER_SESSION);
	}
	plan_births(s, n, true, BIRTH_AFTER_SESSION);
	plan_join(s, n);
	plan_foreground(s, n);
	plan_reap(s, n);
	return r ? r : plan_rest(s, t);
}

/* Whoever is made before its maker: the maker's batch refers to theirs. */
static int plan_node(struct restore *s, struct node *n)
{
	int r = 0;

	for (int i = n->first; !r && i >= 0; i = s->births->nodes[i].next)
		r = plan_node(s, &s->births->nodes[i]);
	if (!r)
		r = n->task ? plan_task(s, n) : plan_helper(s, n);
	if (!r && batch_finish(n->batch, &s->arena, (uint64_t)s->status))
		r = error_set(s->e, -ENOMEM, "the plan of process %d is too large", n->birth->pid);
	return r;
}

/* What a task shares with its parent by the images: it is the parent's, or that of whom the parent shares it with. */
static int find_owners(struct restore *s, struct rtask *t, bool by_parent)
{
	struct rtask *p = t->parent;

	if (!p || t->dead || p->dead)
		return 0;
	const TaskKobjIdsEntry *own = t->core->ids, *theirs = p->core->ids;
	if (own->files_id == theirs->files_id)
		t->files_owner = p->files_owner ? p->files_owner : p;
	if (own->fs_id == theirs->fs_id)
		t->fs_owner = p->fs_owner ? p->fs_owner : p;
	t->shares_actions = t->vm_owner && own->sighand_id == theirs->sighand_id;
	if (t->vm_owner)
		t->vm_owner->vm_shared = true;
	if ((t->files_owner || t->fs_owner || t->vm_owner) && !by_parent)
		return error_set(s->e, -EBADMSG, "ids-%d.img shares with a parent that it is not born by", t->pid);
	struct rtask *const owners[] = { t->files_owner, t->fs_owner };
	for (size_t i = 0; i < ARRAY_SIZE(owners); i++) {
		struct rtask *o = owners[i];
		if (o && !o->sharers++) {
			o->table_ready = arena_take(&s->arena, sizeof(*o->table_ready));
			o->sharers_done = arena_take(&s->arena, sizeof(*o->sharers_done));
			if (!o->table_ready || !o->sharers_done)
				return error_set(s->e, -ENOMEM, "out of memory");
		}
	}
	return 0;
}

static int plan_tree(struct restore *s)
{
	_cleanup_free_ struct birth_task *list = calloc(s->tasks.count, sizeof(*list));
	struct births_plan *p = s->births = calloc(1, sizeof(*s->births));
	pid_t external = 0;

	if (!list || !p)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < s->tasks.count; i++) {
		const struct rtask *t = s->tasks.data[i];
		list[i] = (struct birth_task){ t->pid, (pid_t)t->tree->pgid, (pid_t)t->tree->sid, -1, t->vm_owner || memory_is_shared(t) };
		for (size_t k = 0; k < i; k++)
			if (s->tasks.data[k] == t->parent)
				list[i].parent = (int)k;
	}
	if (list[0].sid != list[0].pid)
		external = list[0].sid;
	int r = births_plan(&p->births, list, s->tasks.count, external, s->e);
	if (r)
		return r;
	for (size_t i = 0; i < s->tasks.count; i++)
		if (list[i].late && (!births_from_parent(&p->births, list, i) || (memory_is_shared(s->tasks.data[i]) && s->tasks.data[i]->parent->vm_owner)))
			return error_set(s->e, -EBADMSG, "pagemap-%d.img has pages of a parent that it is not born from", list[i].pid);
	for (size_t i = 0; !r && i < s->tasks.count; i++)
		r = find_owners(s, s->tasks.data[i], births_by_parent(&p->births, list, i));
	if (r)
		return r;
	p->nodes = calloc(p->births.count, sizeof(*p->nodes));
	if (!p->nodes)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < p->births.count; i++) {
		struct node *n = &p->nodes[i];
		*n = (struct node){ .birth = &p->births.data[i], .first = -1, .next = -1 };
		n->task = n->birth->task >= 0 ? s->tasks.data[n->birth->task] : NULL;
		n->batch = n->task ? &n->task->threads.data[0].batch : &n->own;
		p->joiners += n->birth->join != 0;
		p->joiners_first += n->birth->join && !n->birth->join_last;
	}
	for (size_t i = p->births.count; i-- > 0;) {
		int maker = p->nodes[i].birth->maker;
		if (maker < 0)
			continue;
		p->nodes[i].next = p->nodes[maker].first;
		p->nodes[maker].first = (int)i;
	}
	return 0;
}

int spawn_plan(struct restore *s)
{
	int r = plan_tree(s);

	for (size_t i = 0; i < s->tasks.count; i++)
		if (!s->tasks.data[i]->dead) {
			s->processes++;
			s->threads += s->tasks.data[i]->threads.count - s->tasks.data[i]->leader_gone;
		}
	if (!r)
		r = plan_node(s, &s->births->nodes[0]);
	return r;
}

struct batch *spawn_find_batch(struct restore *s, const struct agent_batch *final)
{
	for (size_t i = 0; i < s->births->births.count; i++)
		if (s->births->nodes[i].batch->final == final)
			return s->births->nodes[i].batch;
	for (size_t i = 0; i < s->tasks.count; i++)
		for (size_t k = 0; k < s->tasks.data[i]->threads.count; k++)
			if (s->tasks.data[i]->threads.data[k].batch.final == final)
				return &s->tasks.data[i]->threads.data[k].batch;
	return NULL;
}

void spawn_release(struct restore *s)
{
	if (!s->births)
		return;
	for (size_t i = 0; s->births->nodes && i < s->births->births.count; i++)
		batch_free(&s->births->nodes[i].own);
	free(s->births->nodes);
	births_free(&s->births->births);
	free(s->births);
}
