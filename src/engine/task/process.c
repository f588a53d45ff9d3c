/*
 * What belongs to the process as a whole: resource limits, personality, OOM score, coredump filter, subreaper, THP switch, login uid, membarrier, states
 * of the processor that must be asked for.
 *
 * Left out: keyrings; it has the caller's (hidden.c refuses what would be lost).
 */
#include "base/log.h"
#include "engine/arch/x86_64/processor.h"
#include "engine/constants.h"
#include "engine/kernel.h"
#include "engine/task/inside.h"
#include "engine/task/state.h"

#include <fcntl.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/resource.h>


/* Every command to register with, membarrier(2); the last since Linux 5.10. */
#define MEMBARRIERS                                                                                                                                  \
	(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE | \
	 1U << 8)

static int read_number(pid_t pid, const char *name, int base, long *ret)
{
	_cleanup_free_ char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	int r = read_small_at(AT_FDCWD, path, 64, &text, NULL);
	if (!r)
		*ret = strtol(text, NULL, base);
	return r;
}

/*
 * States of the processor that it has asked for (ARCH_REQ_XCOMP_PERM), as its leader has them: right behind its task_struct (Linux 6.16) or in it. Where that can't be
 * read the agent has asked, if it was there.
 */
static uint64_t states_on_demand(struct dump *d, struct task *t)
{
	const uint64_t wanted = processor_on_demand();
	struct kernel *k = wanted ? dump_kernel(d) : NULL;
	uint64_t task, states = 0;

	if (!wanted || t->answers.xcomp)
		return t->answers.xcomp & wanted;
	int at = k ? kernel_offset(k, "task_struct", "thread.fpu.perm.__state_perm") : -1;
	if (k && at < 0 && (at = kernel_offset(k, "fpu", "perm.__state_perm")) >= 0)
		at += kernel_struct_size(k, "task_struct");
	if (at < 0 || inside_task(d, t->threads.data[0], &task) || kernel_read(k, task + (uint64_t)at, &states, sizeof(states)))
		return 0;
	return states & wanted;
}

int process_capture(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core)
{
	TaskRlimitsEntry *rlimits = POOL_NEW(pool, TaskRlimitsEntry, task_rlimits_entry__init);
	RlimitEntry *limit = pool_take(pool, 16 * sizeof(*limit)), **list = pool_take(pool, 16 * sizeof(*list));

	if (!rlimits || !limit || !list)
		return error_set(d->e, -ENOMEM, "out of memory");
	if (t->view.limits_result)
		return task_errno(d, t, t->view.limits_result, "cannot read its limits");
	for (int i = 0; i < 16; i++) {
		rlimit_entry__init(&limit[i]);
		limit[i].cur = t->view.limits[i][0];
		limit[i].max = t->view.limits[i][1];
		list[i] = &limit[i];
	}
	rlimits->rlimits = list;
	rlimits->n_rlimits = 16;
	core->rlimits = rlimits;
	core->has_cg_set = t->cg_set != 0;
	core->cg_set = t->cg_set;
	core->personality = t->threads.data[0]->answers.personality;
	if (t->view.oom_score_adj) {
		core->has_oom_score_adj = 1;
		core->oom_score_adj = (int32_t)strtol(t->view.oom_score_adj, NULL, 10);
	}
	long number = t->view.loginuid;
	if (t->view.loginuid_seen || !read_number(t->proc, "loginuid", 10, &number)) {
		core->has_loginuid = 1;
		core->loginuid = (uint32_t)number;
	}
	core->has_child_subreaper = 1;
	core->child_subreaper = t->answers.subreaper != 0;
	core->xcomp_permitted = states_on_demand(d, t);
	core->has_xcomp_permitted = core->xcomp_permitted != 0;
	return 0;
}

/* `path`: below /proc, ours, where the tree may have another or none. */
static void plan_write(struct restore *s, struct batch *b, const char *path, const char *text)
{
	path += s->proc_fd ? strlen("/proc/") : 0;
	struct agent_op *op = OP(b, __NR_openat, s->proc_fd ? s->proc_fd : AT_FDCWD, arena_place(&s->arena, path, strlen(path) + 1), O_WRONLY | O_CLOEXEC);
	uint64_t opened = (uint64_t)(op - b->ops.data);

	OP(b, __NR_write, opened, arena_place(&s->arena, text, strlen(text)), strlen(text))->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_close, opened)->flags |= AGENT_OP_REF_ARG0;
}

int process_read_own(struct restore *s)
{
	struct own *own = &s->own;

	if (proc_read_status(getpid(), &own->status))
		return error_set(s->e, -EIO, "cannot read the capabilities of the coordinator");
	own->securebits = (uint32_t)prctl(PR_GET_SECUREBITS);
	own->personality = (uint32_t)personality(0xffffffff);
	own->timer_slack = (uint64_t)prctl(PR_GET_TIMERSLACK);
	own->has_nice = sched_getscheduler(0) == SCHED_OTHER; /* without SCHED_RESET_ON_FORK */
	own->nice = getpriority(PRIO_PROCESS, 0);
	own->thp_disabled = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) > 0;
	sched_read_own(own);
	own->has_oom_score_adj = read_number(getpid(), "oom_score_adj", 10, &own->oom_score_adj) == 0;
	own->has_loginuid = read_number(getpid(), "loginuid", 10, &own->loginuid) == 0;
	own->has_coredump_filter = read_number(getpid(), "coredump_filter", 16, &own->coredump_filter) == 0;
	for (int i = 0; i < 16; i++) {
		struct rlimit limit;
		if (getrlimit(i, &limit) < 0)
			return error_errno(s->e, -errno, "cannot read the limits of the coordinator");
		own->limits[i][0] = limit.rlim_cur;
		own->limits[i][1] = limit.rlim_max;
	}
	return 0;
}

static int plan_limits(struct restore *s, struct rtask *t)
{
	const TaskRlimitsEntry *rlimits = t->core->tc->rlimits;
	struct batch *b = &t->threads.data[0].batch;

	for (uint64_t i = 0; rlimits && i < rlimits->n_rlimits && i < 16; i++) {
		uint64_t limit[2] = { rlimits->rlimits[i]->cur, rlimits->rlimits[i]->max };
		if (!memcmp(limit, s->own.limits[i], sizeof(limit)))
			continue;
		batch_what(b, "set limit %d of process %d", (int)i, t->pid);
		OP(b, __NR_prlimit64, 0, i, arena_place(&s->arena, limit, sizeof(limit)), 0);
	}
	return 0;
}

int process_plan(struct restore *s, struct rtask *t)
{
	const TaskCoreEntry *tc = t->core->tc;
	struct batch *b = &t->threads.data[0].batch;
	char text[24];
	const struct own *own = &s->own;

	if (tc->has_oom_score_adj && !(own->has_oom_score_adj && own->oom_score_adj == tc->oom_score_adj)) {
		batch_what(b, "set the OOM score of process %d", t->pid);
		snprintf(text, sizeof(text), "%d", tc->oom_score_adj);
		plan_write(s, b, "/proc/self/oom_score_adj", text);
	}
	if (!t->vm_owner && t->mm->has_coredump_filter && !(own->has_coredump_filter && own->coredump_filter == (long)t->mm->coredump_filter)) {
		batch_what(b, "set the coredump filter of process %d", t->pid);
		snprintf(text, sizeof(text), "0x%x", t->mm->coredump_filter);
		plan_write(s, b, "/proc/self/coredump_filter", text);
	}
	bool other_login = tc->has_loginuid && own->has_loginuid && (uint32_t)own->loginuid != tc->loginuid;
	if (other_login && !(own->status.cap_eff & 1ULL << CAP_AUDIT_CONTROL)) {
		log_warning("process %d gets the login uid of the caller: CAP_AUDIT_CONTROL is missing", t->pid);
	} else if (other_login) {
		batch_what(b, "set the login uid of process %d", t->pid);
		snprintf(text, sizeof(text), "%u", tc->loginuid);
		plan_write(s, b, "/proc/self/loginuid", text);
	}
	if (tc->xcomp_permitted & ~processor_on_demand())
		return error_set(s->e, -ENOTSUP, "process %d has asked for states of the processor (ARCH_REQ_XCOMP_PERM, tiles of AMX) that this one or its kernel lacks; restore it "
				 "where they are", t->pid);
	for (uint64_t i = 0; tc->xcomp_permitted >> i && i < 64; i++)
		if (tc->xcomp_permitted >> i & 1) {
			batch_what(b, "ask for state %d of the processor for process %d (ARCH_REQ_XCOMP_PERM)", (int)i, t->pid);
			OP(b, __NR_arch_prctl, ARCH_REQ_XCOMP_PERM, i);
		}
	batch_what(b, "set the subreaper flag of process %d", t->pid);
	OP(b, __NR_prctl, PR_SET_CHILD_SUBREAPER, tc->child_subreaper);
	if (t->vm_owner)
		return plan_limits(s, t);
	if (t->mm->thp_disabled || s->own.thp_disabled)
		OP(b, __NR_prctl, PR_SET_THP_DISABLE, t->mm->has_thp_disabled && t->mm->thp_disabled, 0, 0, 0);
	if (t->mm->memory_merge) {
		batch_what(b, "set the memory merge switch of process %d", t->pid);
		OP(b, __NR_prctl, PR_SET_MEMORY_MERGE, 1);
	}
	if (t->mm->mlockall_flags) {
		batch_what(b, "lock the later memory of process %d", t->pid);
		OP(b, __NR_mlockall, t->mm->mlockall_flags & (MCL_FUTURE | MCL_ONFAULT));
	}
	for (uint32_t commands = t->mm->membarrier & MEMBARRIERS, one; (one = commands & -commands); commands ^= one) {
		batch_what(b, "register process %d for memory barriers (membarrier)", t->pid);
		OP(b, __NR_membarrier, one, 0, 0);
	}
	if (t->mm->mdwe) {
		batch_what(b, "forbid process %d to gain executable memory", t->pid);
		OP(b, __NR_prctl, PR_SET_MDWE, t->mm->mdwe);
	}
	return plan_limits(s, t);
}
