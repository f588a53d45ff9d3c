/*
 * How a thread is scheduled: class, priority and nice value (sched_getattr(2)), CPU affinity, io priority (ioprio_get(2)),
 * timer slack, memory policy (set_mempolicy(2)). Put back before the credentials, while the agent may still raise them.
 */
#include "engine/task/state.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define IOPRIO_WHO_PROCESS 1
#define AFFINITY_MAX 1024

struct attributes { /* struct sched_attr of sched_setattr(2), its first version */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

/* What a thread has that was not bound, and not given a time slice of its own; asked once. */
static int all_processors(void)
{
	static int n;

	if (!n)
		n = (int)sysconf(_SC_NPROCESSORS_ONLN);
	return n;
}

static uint64_t usual_slice(void)
{
	static struct attributes ours;

	if (!ours.size) {
		ours.size = sizeof(ours);
		if (syscall(__NR_sched_getattr, 0, &ours, sizeof(ours), 0) < 0)
			ours.runtime = 0;
	}
	return ours.runtime;
}

static int capture_affinity(struct thread *th, struct pool *pool, ThreadCoreEntry *core)
{
	unsigned char mask[AFFINITY_MAX / 8] = {};
	int bits = 0;
	long n = syscall(__NR_sched_getaffinity, th->tid, sizeof(mask), mask);

	if (n < 0)
		return -errno;
	for (long i = 0; i < n; i++)
		bits += __builtin_popcount(mask[i]);
	if (bits >= all_processors())
		return 0; /* bound to none: what a new thread has */
	core->has_affinity = 1;
	core->affinity.len = (size_t)n;
	core->affinity.data = pool_copy(pool, mask, (size_t)n);
	return core->affinity.data ? 0 : -ENOMEM;
}

int sched_capture(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core)
{
	struct attributes a = { .size = sizeof(a) };
	int r = syscall(__NR_sched_getattr, th->tid, &a, sizeof(a), 0) < 0 ? -errno : capture_affinity(th, pool, core);

	if (r)
		return task_errno(d, th->task, r, "cannot read how thread %d is scheduled", th->tid);
	core->has_sched_policy = 1;
	core->sched_policy = a.policy;
	core->has_sched_nice = 1;
	core->sched_nice = a.policy == SCHED_FIFO || a.policy == SCHED_RR ? getpriority(PRIO_PROCESS, (id_t)th->tid) : a.nice;
	core->has_sched_prio = 1;
	core->sched_prio = a.priority;
	core->has_sched_flags = a.flags != 0;
	core->sched_flags = a.flags;
	if (a.policy == 6 /* SCHED_DEADLINE */) {
		core->has_sched_runtime_ns = core->has_sched_deadline_ns = core->has_sched_period_ns = 1;
		core->sched_runtime_ns = a.runtime;
		core->sched_deadline_ns = a.deadline;
		core->sched_period_ns = a.period;
	}
	if (a.policy != 6 && a.runtime && usual_slice() && a.runtime != usual_slice()) {
		core->has_sched_runtime_ns = 1; /* a time slice of its own (Linux 6.12) */
		core->sched_runtime_ns = a.runtime;
	}
	long io = syscall(__NR_ioprio_get, IOPRIO_WHO_PROCESS, th->tid);
	core->has_io_priority = io > 0;
	core->io_priority = io > 0 ? (uint32_t)io : 0;
	core->has_timer_slack_ns = 1;
	core->timer_slack_ns = th->answers.timer_slack;
	if (th->answers.mempolicy) {
		core->has_mempolicy = core->has_mempolicy_nodes = 1;
		core->mempolicy = (uint32_t)th->answers.mempolicy;
		core->mempolicy_nodes.len = sizeof(th->answers.mempolicy_nodes);
		core->mempolicy_nodes.data = (uint8_t *)th->answers.mempolicy_nodes;
	}
	return 0;
}

int sched_plan(struct restore *s, struct rtask *t, struct rthread *th)
{
	const ThreadCoreEntry *c = th->core->thread_core;
	struct batch *b = &th->batch;

	if (c->has_sched_policy) {
		struct attributes a = { sizeof(a), c->sched_policy, c->sched_flags, c->sched_nice, c->sched_prio,
					c->sched_runtime_ns, c->sched_deadline_ns, c->sched_period_ns };
		batch_what(b, "set scheduling class %u, nice %d of thread %d", a.policy, a.nice, th->tid);
		OP(b, __NR_setpriority, PRIO_PROCESS, 0, (int64_t)c->sched_nice);
		if (a.policy || a.flags || a.runtime)
			OP(b, __NR_sched_setattr, 0, arena_place(&s->arena, &a, sizeof(a)), 0);
	}
	if (c->has_affinity && c->affinity.len <= AFFINITY_MAX / 8) {
		batch_what(b, "bind thread %d to its processors", th->tid);
		OP(b, __NR_sched_setaffinity, 0, c->affinity.len, arena_place(&s->arena, c->affinity.data, c->affinity.len));
	}
	if (c->has_io_priority) {
		batch_what(b, "set the io priority of thread %d", th->tid);
		OP(b, __NR_ioprio_set, IOPRIO_WHO_PROCESS, 0, c->io_priority);
	}
	if (c->mempolicy) {
		batch_what(b, "set the memory policy of thread %d", th->tid);
		OP(b, __NR_set_mempolicy, c->mempolicy, arena_place(&s->arena, c->mempolicy_nodes.data, c->mempolicy_nodes.len),
		   c->mempolicy_nodes.len * 8);
	}
	/* A real-time thread has no slack of its own: 0, which would mean the default. */
	if (c->has_timer_slack_ns && c->timer_slack_ns) {
		batch_what(b, "set the timer slack of thread %d", th->tid);
		OP(b, __NR_prctl, PR_SET_TIMERSLACK, c->timer_slack_ns);
	}
	return 0;
}
