/*
 * Restore: open and verify, plan, build, switch; to be read from engine_restore at the end upwards.
 *
 * The plan is one batch of system calls a thread (agent/batch.h), in an arena that the coordinator shares with all tasks at
 * the same address. The root is born by clone3(2) from the coordinator and runs its batch, which makes all others; each ends parked.
 * The coordinator then gives every thread its registers by ptrace and lets them go.
 */
#include "engine/restore.h"

#include "base/log.h"
#include "engine/cgroups.h"
#include "engine/cuda/cuda.h"
#include "engine/engine.h"
#include "engine/kinds/external.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/tcp.h"
#include "engine/kinds/udp.h"
#include "engine/kinds/uring.h"
#include "engine/load.h"
#include "engine/memory/aio.h"
#include "engine/memory/feed.h"
#include "engine/memory/lazy.h"
#include "engine/memory/parents.h"
#include "engine/memory/restore.h"
#include "engine/memory/shmem.h"
#include "engine/memory/sysv.h"
#include "engine/memory/vdso.h"
#include "engine/memory/vma.h"
#include "engine/ns/ns.h"
#include "engine/ns/relay.h"
#include "engine/ns/seed.h"
#include "engine/plan/rest.h"
#include "engine/plan/spawn.h"
#include "engine/task/calls.h"
#include "engine/task/clocks.h"
#include "engine/task/state.h"
#include "engine/task/sysv_ipc.h"
#include "engine/watch.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define STACK_SIZE (16UL << 10)
#define USUAL_DESCRIPTORS 1000
#define WATCH_NS 100000000
#define REAP_NS 5000000
#define REAP_TRIES 400
#define END_TRIES 12000 /* a killed process of hundreds of GiB takes most of a minute to end */
#define PF_EXITING 0x4	/* in the flags of proc_pid_stat(5); include/linux/sched.h */

/* ---- plan ---- */

static int compare_numbers(const void *a, const void *b)
{
	const int x = *(const int *)a, y = *(const int *)b;

	return (x > y) - (x < y);
}

struct numbers {
	VEC(int) list;
};

static bool add_number(struct numbers *n, uint32_t fd)
{
	int *slot = VEC_PUSH(&n->list);

	if (slot)
		*slot = (int)MIN(fd, FD_MAX);
	return slot;
}

/* Those of descriptors of tasks, and those under which epoll sets know what has another by now; in ascending order. */
static int collect_numbers(const struct restore *s, struct numbers *ret)
{
	bool enough = add_number(ret, 63);

	for (size_t i = 0; i < s->tasks.count; i++) {
		const struct rtask *table;
		for (size_t k = 0; (table = rtask_table(s->tasks.data[i], k)); k++)
			VEC_FOREACH(&table->fds, e)
				enough = enough && add_number(ret, (*e)->fd);
	}
	VEC_FOREACH(&s->files, f)
		for (size_t i = 0; f->entry->epfd && i < f->entry->epfd->n_tfd; i++)
			enough = enough && add_number(ret, f->entry->epfd->tfd[i]->tfd);
	if (enough)
		qsort(ret->list.data, ret->list.count, sizeof(*ret->list.data), compare_numbers);
	return enough ? 0 : -ENOMEM;
}

/* Ours begin above those of all tasks. Where these go up to the limit, which may not be raised, in the widest gap between them. */
static int place_numbers(struct restore *s, const struct numbers *n, size_t room)
{
	const int highest = n->list.data[n->list.count - 1];
	rlim_t need = (rlim_t)highest + 2 + room;
	struct rlimit limit;

	s->fd_base = highest + 2; /* the number below it is for putting one aside */
	s->fd_top = INT_MAX;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= need)
		return 0;
	struct rlimit more = { need, MAX(limit.rlim_max, need) };
	if (setrlimit(RLIMIT_NOFILE, &more) == 0)
		return 0;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	s->fd_base = s->fd_top = 0;
	for (size_t i = 0; (rlim_t)highest < limit.rlim_cur && i + 1 < n->list.count; i++) {
		const int from = n->list.data[i] + 2, to = MIN(n->list.data[i + 1], (int)MIN(limit.rlim_cur, FD_MAX));
		if (to - from > s->fd_top - s->fd_base) {
			s->fd_base = from;
			s->fd_top = to;
		}
	}
	return (size_t)(s->fd_top - s->fd_base) >= room ? 0 : error_set(s->e, -EMFILE, "%lu descriptors are needed, more than the limit of %lu; see ulimit -n",
									(unsigned long)need, (unsigned long)limit.rlim_cur);
}

static int choose_fd_base(struct restore *s)
{
	struct numbers numbers = {};
	size_t sources = 0;

	for (size_t i = 0; i < s->tasks.count; i++)
		sources += s->tasks.data[i]->sources.count;
	int r = collect_numbers(s, &numbers);
	/* Twice: a pipe, say, has an end that is held until all is connected. The limits of tasks are their own. */
	r = r ? error_errno(s->e, r, "cannot plan") : place_numbers(s, &numbers, 2 * s->files.count + s->tasks.count + sources + 64);
	VEC_FREE(&numbers.list);
	return r;
}

/* Killed, or exiting, and at work on that still. */
static bool is_ending(pid_t id, const struct proc_stat *stat)
{
	struct proc_status status;

	return (stat->flags & PF_EXITING) || (proc_read_status(id, &status) == 0 && ((status.sig_pnd | status.shd_pnd) & 1UL << (SIGKILL - 1)));
}

/* One id: free, or its holder is ending, or has and only waits to be reaped by its parent; both are given time. */
static int check_id(struct restore *s, pid_t id)
{
	for (int tries = 0, ended = 0;; tries++) {
		struct timespec while_reaped = { 0, REAP_NS };
		struct proc_stat stat;
		if (kill(id, 0) < 0 && errno == ESRCH)
			return 0;
		int r = proc_read_stat(id, &stat);
		if (r == -ENOENT || r == -ESRCH)
			return 0;
		if (r)
			return error_errno(s->e, r, "cannot look for process %d", id);
		if (stat.state == 'Z' || stat.state == 'X')
			ended++;
		else if (!is_ending(id, &stat) || tries == END_TRIES)
			return error_set(s->e, -EEXIST, "pid %d is taken by another process (%s); end that first", id, stat.comm);
		if (ended == REAP_TRIES)
			return error_set(s->e, -EEXIST, "pid %d is taken by a process that has ended and that its parent %d does not reap", id,
					 stat.ppid);
		nanosleep(&while_reaped, NULL);
	}
}

static int check_ids(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < s->tasks.count; i++)
		for (size_t k = s->ns.seed && i == 0; !r && k < s->tasks.data[i]->threads.count; k++)
			r = check_id(s, s->tasks.data[i]->threads.data[k].tid);
	return r;
}

static int tell(struct restore *s, const char *moment)
{
	const struct request_hook *hook = &s->request->hook;

	return hook->call ? hook->call(hook->data, moment, s->pid, s->e) : 0;
}

bool restore_has_id(const struct restore *s, pid_t id)
{
	for (size_t i = 0; i < s->tasks.count; i++) {
		const struct rtask *t = s->tasks.data[i];
		if (t->tree->pgid == (uint32_t)id || t->tree->sid == (uint32_t)id)
			return true;
		for (size_t k = 0; k < t->threads.count; k++)
			if (t->threads.data[k].tid == id)
				return true;
	}
	return false;
}

static int make_plan(struct restore *s)
{
	int r = check_ids(s);

	if (!r)
		r = choose_fd_base(s);
	if (!r && s->proc_fd && (s->proc_fd = restore_hold(s, s->proc_fd)) < 0)
		r = error_errno(s->e, s->proc_fd, "cannot hold /proc");
	if (!r && (r = proc_read_maps(getpid(), &s->self)))
		r = error_errno(s->e, r, "cannot read the maps");
	if (!r)
		r = process_read_own(s);
	if (!r)
		r = arena_make(s);
	if (!r)
		r = lazy_choose(s);
	if (!r)
		rest_place(s);
	if (!r)
		r = sysv_make(s);
	if (!r)
		r = sysv_ipc_make(s);
	if (!r)
		r = mqueues_make(s);
	if (!r)
		r = files_make(s);
	return r ? r : spawn_plan(s);
}

static void enter(struct restore *s, enum stage stage)
{
	if (s->watch)
		watch_enter(s->watch, stage);
}

/* Before anything is made. */
static int read_images(struct restore *s)
{
	int r = restore_open(s->request->images_dir, s->request->packing.key, &s->dir, s->e);

	if (!r)
		r = restore_load(s);
	if (!r)
		r = external_check(s);
	if (!r)
		r = cuda_prepare(s);
	/* Threads that verify do not come along into namespaces. */
	if (!r && (s->request->hook.call || s->ns.any)) {
		enter(s, STAGE_VERIFY);
		r = restore_verified(s, r);
	}
	enter(s, STAGE_PLAN);
	return r ? r : tell(s, "pre-restore");
}

int restore_prepare(struct restore *s)
{
	int r = read_images(s);

	if (!r)
		r = clocks_prepare(s);
	return r ? r : make_plan(s);
}

/* ---- build ---- */

_Noreturn void restore_become(const struct agent_batch *batch, char *stack, const char *entry)
{
	asm volatile("mov %[stack], %%rsp\n\t"
		     "xor %%ebp, %%ebp\n\t"
		     "jmp *%[entry]"
		     :
		     : "D"(batch), [stack] "r"(stack), [entry] "r"(entry)
		     : "memory");
	__builtin_unreachable();
}

static int failure(struct restore *s)
{
	const struct agent_batch *final = (const void *)s->status->failed_batch;
	struct batch *b = final ? spawn_find_batch(s, final) : NULL;

	if (!b)
		return error_set(s->e, -EIO, "a new process failed");
	const struct agent_op *op = &agent_batch_ops(final)[final->failed];
	int r = op->result < 0 && op->result > -4096 ? (int)op->result : -EIO;
	const char *what = batch_name(b, (size_t)final->failed);
	if (op->nr == AGENT_OP_FORK && r == -EEXIST)
		return error_set(s->e, r, "cannot %s: the id is taken by another task (or group or session); end that first", what);
	if (op->nr == __NR_ioctl && op->arg[1] == TIOCSCTTY && r == -EPERM)
		return error_set(s->e, r, "cannot %s: it is another session's already; it must be no session's", what);
	if (op->nr == AGENT_OP_FILLED && r == -EIO)
		return error_set(s->e, r, "cannot %s: the image has too few pages", what);
	if ((op->nr == __NR_flock || op->nr == __NR_fcntl) && (r == -EAGAIN || r == -EACCES))
		return error_set(s->e, r, "cannot %s: another process has locked or opened it since the dump", what);
	if (op->nr == __NR_mmap && r == -ENOMEM && op->arg[3] & MAP_HUGETLB)
		return error_set(s->e, r, "cannot %s: not enough huge pages are free; see /proc/sys/vm/nr_hugepages", what);
	return error_errno(s->e, r, "cannot %s", what);
}

/* A task that died before it was done: nobody else would tell. */
static int look_for_dead(struct restore *s)
{
	for (size_t i = 0; i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		struct proc_stat stat;
		int r = proc_read_stat(t->pid, &stat);
		if (t->dead || t->leader_gone)
			continue;
		if (r && !t->seen)
			continue;
		if (r || stat.state == 'Z' || stat.state == 'X')
			return error_set(s->e, -ECHILD, "process %d died while it was built (it was to %s); was it killed, because memory or the limit "
					 "of its control group did not suffice?", t->pid,
					 batch_name(&t->threads.data[0].batch, t->threads.data[0].batch.final->done));
		t->seen = true;
	}
	return 0;
}

int restore_wait(struct restore *s, uint32_t *word, uint32_t count)
{
	for (;;) {
		struct timespec look = { 0, WATCH_NS };
		uint32_t change = __atomic_load_n(&s->status->change, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(word, __ATOMIC_SEQ_CST) >= count)
			return 0;
		if (__atomic_load_n(&s->status->failed, __ATOMIC_SEQ_CST))
			return failure(s);
		int fed = feed_failure(s);
		if (fed) {
			int dead = fed == -ESRCH ? look_for_dead(s) : 0;
			return dead ? dead : fed;
		}
		if (syscall(__NR_futex, &s->status->change, FUTEX_WAIT, change, &look, NULL, 0) < 0 && errno == ETIMEDOUT) {
			int r = look_for_dead(s);
			if (r && !__atomic_load_n(&s->status->failed, __ATOMIC_SEQ_CST))
				return r;
		}
	}
}

static int make_root(struct restore *s)
{
	pid_t pid = s->tasks.data[0]->pid;
	const bool sibling = s->request->sibling || s->ns.any; /* then the signal is our own's */
	struct clone_args args = { .exit_signal = sibling ? 0 : SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1,
				   .flags = CLONE_CLEAR_SIGHAND | (sibling ? CLONE_PARENT : 0) };
	struct agent_batch *batch = s->tasks.data[0]->threads.data[0].batch.final;
	char *stack = arena_take(&s->arena, STACK_SIZE);
	sigset_t all, before;

	if (!stack)
		return error_set(s->e, -ENOMEM, "out of memory");
	if (s->ns.seed) {
		s->pid = pid;
		return seed_grow(s, batch, stack + STACK_SIZE);
	}
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	long child = syscall(__NR_clone3, &args, sizeof(args));
	if (child == 0)
		restore_become(batch, stack + STACK_SIZE, s->arena.start);
	int r = child < 0 ? -errno : 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (r == -EEXIST)
		return error_set(s->e, r, "pid %d is taken by another process (or its group or session is); end that first", pid);
	if (r)
		return error_errno(s->e, r, "cannot create process %d", pid);
	s->pid = (pid_t)child;
	if (s->relay)
		relay_born(s->relay, s->pid);
	return 0;
}

/* With which thread a process ends when we do (PTRACE_O_EXITKILL): the first, from the time on that it alone is held; and the last, of which the
 * kernel lets go first: no other is to run for the moment that is left. */
static bool ends_with_us(const struct rtask *t, size_t thread)
{
	return thread == t->leader_gone || thread + 1 == t->threads.count;
}

/* Those that are not held yet: of each process the first `most` threads. */
static int seize(struct restore *s, size_t most)
{
	const int options = s->seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0;
	int r = 0;

	for (size_t i = 0; !r && i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		for (size_t k = t->leader_gone, n = 0; !r && !t->dead && n < most && k < t->threads.count; k++, n++)
			if (!t->threads.data[k].tracee.seized)
				r = tracee_seize(&t->threads.data[k].tracee, t->pid, t->threads.data[k].tid,
						 options | (ends_with_us(t, k) ? PTRACE_O_EXITKILL : 0), s->e);
	}
	return r;
}

/* The root ends with us as soon as it is there; the others with their parents, until they are held. */
static int seize_root(struct restore *s)
{
	struct rtask *root = s->tasks.data[0];
	struct rthread *leader = &root->threads.data[0];
	int options = PTRACE_O_EXITKILL | (s->seccomp ? PTRACE_O_SUSPEND_SECCOMP : 0);

	return root->leader_gone ? 0 : tracee_seize(&leader->tracee, root->pid, leader->tid, options, s->e);
}

/* The leaders that had ended do so, now that nobody needs them; they must be out of the arena before it goes. */
static int let_leaders_go(struct restore *s)
{
	__atomic_store_n(&s->words->leave, 1, __ATOMIC_SEQ_CST);
	syscall(__NR_futex, &s->words->leave, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
	for (size_t i = 0; i < s->tasks.count; i++) {
		const struct rtask *t = s->tasks.data[i];
		struct proc_stat stat;
		for (int tries = 0; t->leader_gone; tries++) {
			struct timespec pause = { 0, REAP_NS / 10 };
			int r = proc_read_stat(t->pid, &stat);
			if (!r && stat.state == 'Z')
				break;
			if (r || tries == REAP_TRIES * 10)
				return error_errno(s->e, r ? r : -ETIMEDOUT, "the main thread of process %d does not end", t->pid);
			nanosleep(&pause, NULL);
		}
	}
	return 0;
}

/* A robust mutex in the arena, whose word the kernel marks when we die: processes that are not held yet look at it. Its place is found as the kernel
 * finds it: what was locked last is the first of this thread's robust list (set_robust_list(2)). */
static int own(struct restore *s)
{
	pthread_mutexattr_t attributes;
	struct robust_list_head *head = NULL;
	size_t size = 0;
	pthread_mutex_t *owner = arena_take(&s->arena, sizeof(*owner));

	if (!owner)
		return error_set(s->e, -ENOMEM, "out of memory");
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	int r = -pthread_mutex_init(owner, &attributes);
	pthread_mutexattr_destroy(&attributes);
	if (!r)
		r = -pthread_mutex_lock(owner);
	if (r)
		return error_errno(s->e, r, "cannot make a robust mutex");
	s->owner = owner;
	if (syscall(__NR_get_robust_list, 0, &head, &size) < 0 || !head)
		return error_errno(s->e, -errno, "cannot read the robust list");
	uint64_t word = (uint64_t)head->list.next + (uint64_t)head->futex_offset;
	if (word - (uint64_t)owner >= sizeof(*owner))
		return error_set(s->e, -EIO, "the C library keeps its robust mutexes in a way that is not known");
	s->status->owner = word;
	return 0;
}

static void disown(struct restore *s)
{
	pthread_mutex_t *owner = TAKE_PTR(s->owner);

	if (!owner)
		return;
	pthread_mutex_unlock(owner);
	pthread_mutex_destroy(owner);
}

static int restore_build(struct restore *s)
{
	s->status->threads = (uint32_t)s->threads;
	int r = own(s);

	if (!r)
		r = clocks_birth(s, make_root);

	rest_remove(s);
	if (!r)
		r = seize_root(s);
	if (!r) {
		__atomic_store_n(&s->words->held, 1, __ATOMIC_SEQ_CST);
		syscall(__NR_futex, &s->words->held, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
		r = feed_start(s);
	}
	if (!r)
		r = lazy_start(s);
	if (!r && (s->seccomp || s->processes > 1)) {
		r = restore_wait(s, &s->words->seizable, (uint32_t)(s->seccomp ? s->threads : s->processes));
		if (!r)
			r = seize(s, s->seccomp ? SIZE_MAX : 1);
		__atomic_store_n(&s->words->seized, 1, __ATOMIC_SEQ_CST);
		syscall(__NR_futex, &s->words->seized, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
	}
	if (!r)
		r = restore_wait(s, &s->status->parked, (uint32_t)s->threads);
	if (!r)
		r = seize(s, SIZE_MAX);
	return r ? r : let_leaders_go(s);
}

/* ---- switch ---- */

static uint64_t find_slack(struct rtask *t)
{
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		if (t->mm->vmas[i]->status & VMA_VDSO)
			return vdso_find_slack(t->mm->vmas[i]->start, t->mm->vmas[i]->end, t->mem_fd);
	return 0;
}

static int set_registers(struct rthread *th, struct error *e)
{
	if (ptrace(PTRACE_SETSIGMASK, th->tid, 8, &th->tracee.sigmask) < 0 || ptrace(PTRACE_SETREGS, th->tid, 0, &th->tracee.regs) < 0)
		return error_errno(e, -errno, "cannot set the registers of thread %d", th->tid);
	return 0;
}

/* What no batch may come behind. */
static int finish_threads(struct restore *s)
{
	int r = calls_give_back(s);

	for (size_t i = 0; i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		for (size_t k = t->leader_gone; !r && !t->dead && k < t->threads.count; k++)
			if (!(r = threads_set_dispatch(s, &t->threads.data[k])))
				r = sched_finish(s, &t->threads.data[k]);
	}
	return r;
}

/* A task that has left the arena itself. */
static int switch_resting(struct restore *s, struct rtask *t)
{
	struct rthread *th = &t->threads.data[0];
	int r = rest_wait(s, t);

	if (!r)
		r = threads_set_registers(s, th);
	if (!r)
		r = rest_clean(s, t);
	return r ? r : set_registers(th, s->e);
}

/* Every thread gets its registers; the leader (another where that has ended), which goes last, takes the arena away, unless the memory is
 * someone else's. */
static int switch_task(struct restore *s, struct rtask *t)
{
	const size_t first = t->leader_gone;
	struct rthread *leader = &t->threads.data[first];
	struct agent_seat seat;
	char path[64];
	int r = 0;

	if (t->rests)
		return switch_resting(s, t);
	for (size_t i = first; !r && i < t->threads.count; i++) {
		struct rthread *th = &t->threads.data[i];
		r = tracee_wait_parked(&th->tracee, s->e);
		if (!r)
			r = threads_set_registers(s, th);
		if (!r && (th != leader || t->vm_owner))
			r = set_registers(th, s->e);
	}
	if (r || t->vm_owner)
		return r;
	snprintf(path, sizeof(path), "/proc/%d/mem", leader->tid);
	t->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	if (t->mem_fd < 0)
		return error_errno(s->e, -errno, "cannot open %s", path);
	if ((r = vdso_check_threads(s, t)))
		return r;
	uint64_t slack = find_slack(t);
	if (!slack)
		return error_set(s->e, -ENOTSUP, "process %d has no vdso with room for the way out", t->pid);
	r = agent_seat_adopt(&seat, &leader->tracee, t->mem_fd, (uint64_t)s->arena.start, s->arena.size, slack, s->e);
	if (!r)
		r = agent_seat_leave(&seat, s->e);
	if (!r)
		r = agent_seat_left(&seat, s->e);
	return r ? r : rest_clean(s, t);
}

/* All at once: while one is waited for, the others stop. */
static int interrupt_all(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		for (size_t k = t->leader_gone; !t->dead && k < t->threads.count; k++)
			if ((r = tracee_interrupt(&t->threads.data[k].tracee)))
				return error_errno(s->e, r, "cannot stop thread %d", t->threads.data[k].tid);
	}
	return 0;
}

static void give_terminal(struct restore *s)
{
	const PstreeEntry *root = s->tasks.data[0]->tree;

	if (s->tty < 0 || root->pgid != root->pid)
		return;
	signal(SIGTTOU, SIG_IGN);
	tcsetpgrp(s->tty, (pid_t)root->pgid);
	signal(SIGTTOU, SIG_DFL);
}

/* The signal that stopped it, where that stops it again: its parent may ask. */
static int stop_signal_of(const struct rtask *t)
{
	const TaskCoreEntry *tc = t->core->tc;
	int sig = tc->has_stop_signal ? (int)tc->stop_signal : SIGSTOP;
	size_t i = (size_t)sig - 1 - (sig > SIGKILL) - (sig > SIGSTOP);

	if (sig != SIGTSTP && sig != SIGTTIN && sig != SIGTTOU)
		return SIGSTOP;
	return i < tc->n_sigactions && tc->sigactions[i]->sigaction ? SIGSTOP : sig;
}

/* From now on a tree without its coordinator runs: as one, not by and by as its threads are detached. */
static void let_live(struct restore *s)
{
	for (size_t i = 0; i < s->tasks.count; i++) {
		const struct rtask *t = s->tasks.data[i];
		for (size_t k = t->leader_gone; !t->dead && k < t->threads.count; k++)
			if (ends_with_us(t, k))
				ptrace(PTRACE_SETOPTIONS, t->threads.data[k].tid, 0, 0);
	}
}

static int restore_switch(struct restore *s)
{
	int r = files_settle(s);

	if (!r)
		r = locks_settle(s);
	if (!r)
		r = sysv_settle(s);
	if (!r)
		r = ns_settle(s);
	if (!r)
		r = cgroups_settle(s);
	if (!r)
		r = tell(s, "post-restore");
	if (!r)
		r = tell(s, "pre-resume");
	if (!r)
		r = interrupt_all(s);
	/* Whose memory others share takes the arena away: when these have left it. */
	for (size_t i = s->tasks.count; !r && i-- > 0;)
		if (!s->tasks.data[i]->dead)
			r = switch_task(s, s->tasks.data[i]);
	if (!r)
		r = finish_threads(s);
	if (!r)
		r = cuda_restore(s);
	if (r)
		return r;
	give_terminal(s);
	if (tcp_must_resume(s))
		tcp_end_repair(s);
	r = uring_go_on(s);
	if (r)
		return r;
	let_live(s);
	if (tcp_must_resume(s))
		tcp_resume(s);
	for (size_t i = s->tasks.count; i-- > 0;) {
		struct rtask *t = s->tasks.data[i];
		if (t->dead)
			continue;
		if (t->stopped)
			kill(t->pid, stop_signal_of(t));
		else if (s->request->leave_stopped)
			kill(t->pid, SIGSTOP);
		for (size_t k = t->threads.count; k-- > 0;)
			tracee_detach(&t->threads.data[k].tracee);
	}
	return 0;
}

/* After a failure: nothing of the new tree stays. Orphans of helpers too, which are nobody's children of ours. */
static void restore_kill(struct restore *s)
{
	int reaper = 0;

	if (!s->pid)
		return;
	/* Those whose parents go become ours to reap: nobody else waits for them. */
	prctl(PR_GET_CHILD_SUBREAPER, &reaper);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	for (size_t i = s->tasks.count; i-- > 0;) {
		struct proc_stat stat;
		struct rtask *t = s->tasks.data[i];
		/* Only what this restore made: its parent is of the tree. */
		if (t->pid != s->pid && (proc_read_stat(t->pid, &stat) || !t->parent || stat.ppid != t->parent->pid))
			continue;
		kill(t->pid, SIGKILL);
	}
	/* A main thread can be waited for once those of its threads that are traced were. */
	for (size_t i = s->tasks.count; i-- > 0;) {
		struct rtask *t = s->tasks.data[i];
		for (size_t k = t->threads.count; k-- > 1;) {
			int status;
			while (t->threads.data[k].tracee.seized && waitpid(t->threads.data[k].tid, &status, __WALL) > 0 &&
			       !WIFEXITED(status) && !WIFSIGNALED(status))
				;
		}
	}
	for (size_t i = 0; i < s->tasks.count; i++) {
		int status;
		while (waitpid(s->tasks.data[i]->pid, &status, __WALL) > 0 && !WIFEXITED(status) && !WIFSIGNALED(status))
			;
	}
	prctl(PR_SET_CHILD_SUBREAPER, reaper);
}

void restore_finish(struct restore *s)
{
	feed_stop(s);
	cuda_release(s);
	image_dir_verify_cancel(TAKE_PTR(s->verification));
	parents_cancel(s);
	rest_remove(s);
	disown(s);
	free(s->own.label);
	tcp_restore_release(s);
	udp_release(s);
	files_release(s);
	shmem_release(s);
	sysv_release(s);
	sysv_ipc_release(s);
	vdso_release(s);
	clocks_release(s);
	aio_release(s);
	ns_release(s);
	cgroups_release(s);
	if (s->succeeded && s->request->ends)
		return;
	spawn_release(s);
	restore_unload(s);
	if (s->arena.start)
		munmap(s->arena.start, s->arena.size);
	proc_maps_finish(&s->self);
	image_dir_free(s->dir);
	VEC_FREE(&s->fillings);
	VEC_FREE(&s->memory_times);
}

/* For the thread that tells of progress. */
static void count_bytes(void *data, uint64_t *ret_done, uint64_t *ret_total)
{
	const struct restore *s = data;

	*ret_done = __atomic_load_n(&s->pages_done, __ATOMIC_RELAXED);
	*ret_total = __atomic_load_n(&s->pages_total, __ATOMIC_RELAXED);
	if (!__atomic_load_n(&s->building, __ATOMIC_ACQUIRE))
		return;
	VEC_FOREACH(&s->fillings, f) {
		uint64_t next = __atomic_load_n(&f->fill->next, __ATOMIC_RELAXED);
		*ret_done += f->size * MIN(next, f->fill->count) / MAX(f->fill->count, 1U);
	}
}

static uint64_t nanoseconds(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000000 + (uint64_t)t->tv_nsec;
}

/* What of the building was pages that came: from the first of all to the last. */
static void part_memory(struct restore *s)
{
	uint64_t first = UINT64_MAX, last = 0;

	VEC_FOREACH(&s->memory_times, t) {
		if (!t->from || !t->to || !t->to->tv_sec)
			continue;
		first = MIN(first, nanoseconds(t->from));
		last = MAX(last, nanoseconds(t->to));
	}
	if (last > first)
		watch_move(s->watch, STAGE_BUILD, STAGE_MEMORY, last - first);
	s->watch->profile->pages_restored = s->pages_total / PAGE_SIZE;
}

static int build_and_verify(struct restore *s)
{
	enter(s, STAGE_BUILD);
	if (s->relay)
		watch_resume(s->watch, s->request);
	__atomic_store_n(&s->building, true, __ATOMIC_RELEASE);
	int r = restore_build(s);

	feed_stop(s);
	if (!r)
		fill_verify(s);
	enter(s, STAGE_MEMORY);
	part_memory(s);
	enter(s, STAGE_VERIFY);
	return restore_verified(s, r);
}

/* All that follows upon the images. */
static int make_tree(struct restore *s)
{
	int r = make_plan(s);

	if (!r)
		r = build_and_verify(s);
	enter(s, STAGE_SWITCH);
	if (!r)
		r = restore_switch(s);
	if (r && !s->ns.seed)
		restore_kill(s);
	s->succeeded = !r;
	return r;
}

/* The same in namespaces that are made for it. */
static int make_tree_apart(struct relay *relay, struct obstacles *obstacles, void *data, struct error *e)
{
	struct restore *s = data;

	relay->request.ends = true;
	s->request = &relay->request;
	s->e = e;
	s->relay = relay;
	relay->profile = *s->watch->profile;
	s->watch->profile = &relay->profile;
	int r = clocks_prepare(s);
	if (!r)
		r = ns_make(s);
	if (!r)
		r = make_tree(s);
	if (r && s->ns.seed) /* and we with it */
		relay_end_tree(relay, r, e);
	watch_quiet(s->watch);
	restore_finish(s);
	watch_end(s->watch);
	return r;
}

static int restore_traced(const struct request *request, pid_t *ret_pid, struct error *e)
{
	struct relay_job job = { .run = make_tree_apart, .root = -1 };
	struct watch watch;
	struct restore s = { .request = request, .e = e, .tty = -1, .watch = &watch };
	int r;

	descriptors_reserve(USUAL_DESCRIPTORS);
	watch_begin(&watch, request, STAGE_OPEN, count_bytes, &s);
	for (int fd = 0; fd < 3 && request->shell_job && s.tty < 0; fd++)
		s.tty = isatty(fd) ? fd : -1;
	r = read_images(&s);
	if (!r && s.ns.any) {
		job.data = &s;
		watch_quiet(&watch);
		r = relay_run(request, &job, &s.pid, e);
		watch.profile = &watch.own;
		while (r && s.pid && !request->sibling && waitpid(s.pid, NULL, __WALL) < 0 && errno == EINTR)
			;
	} else if (!r) {
		r = clocks_prepare(&s);
		r = r ? r : make_tree(&s);
	}
	watch_quiet(&watch);
	restore_finish(&s);
	watch_end(&watch);
	if (r)
		return error_prefix(e, r, "cannot restore from %s", request->images_dir);
	*ret_pid = s.pid;
	struct error late = {};
	s.e = &late;
	if (tell(&s, "post-resume"))
		log_warning("%s", late.text);
	log_info("Restore finished successfully. Tasks resumed.");
	return 0;
}

int engine_restore(const struct request *request, pid_t *ret_pid, struct error *e)
{
	struct tracing tracing;

	tracing_begin(&tracing);
	int r = restore_traced(request, ret_pid, e);
	tracing_end(&tracing);
	return r;
}
