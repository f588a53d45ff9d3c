/*
 * How a thread is scheduled: class, priority and nice value (sched_getattr(2)), CPU affinity, io priority (ioprio_get(2)),
 * timer slack, memory policy (set_mempolicy(2)), utilisation clamps. Put back before the credentials, while the agent may still raise them.
 *
 * A core scheduling group (prctl(2), PR_SCHED_CORE) of the thread's own is refused.
 */
#include "engine/task/state.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define IOPRIO_WHO_PROCESS 1
#define AFFINITY_MAX 1024

struct attributes { /* struct sched_attr of sched_setattr(2) */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max; /* since Linux 5.3 */
};
#define FIRST_VERSION 48
#define UTIL_FULL 1024
#define FLAGS_CLAMP 0x78 /* keep policy and parameters; clamp the least and the most */

/* What a thread has that was not bound, and not given a time slice of its own; asked once. */
static int all_processors(void)
{
	static int n;

	if (!n)
		n = (int)sysconf(_SC_NPROCESSORS_ONLN);
	return n;
}

static const struct attributes *own_attributes(void)
{
	static struct attributes ours;

	if (!ours.size) {
		ours.size = sizeof(ours);
		if (syscall(__NR_sched_getattr, 0, &ours, sizeof(ours), 0) < 0)
			ours.policy = UINT32_MAX; /* not known */
		ours.size = sizeof(ours);
	}
	return &ours;
}

#ifndef PR_SCHED_CORE
#define PR_SCHED_CORE 62
#define PR_SCHED_CORE_GET 0
#endif

/* Whether it may share a core only with others of a group, which is not that of the coordinator. */
static bool has_core_group(const struct thread *th)
{
	uint64_t cookie = 0, ours = 0;

	if (prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, th->tid, 0, &cookie) < 0 || !cookie)
		return false;
	return prctl(PR_SCHED_CORE, PR_SCHED_CORE_GET, 0, 0, &ours) < 0 || cookie != ours;
}

/* What is asked of a thread. */
struct schedule_seen {
	struct attributes a;
	int nice;
	long io, mask_size;
	unsigned char mask[AFFINITY_MAX / 8];
};

static int look(struct dump *d, struct thread *th, struct schedule_seen *ret)
{
	struct attributes *a = &ret->a;

	*ret = (struct schedule_seen){ .a.size = sizeof(ret->a) };
	if (syscall(__NR_sched_getattr, th->tid, a, sizeof(*a), 0) < 0 ||
	    (ret->mask_size = syscall(__NR_sched_getaffinity, th->tid, sizeof(ret->mask), ret->mask)) < 0)
		return task_errno(d, th->task, -errno, "cannot read how thread %d is scheduled", th->tid);
	if (has_core_group(th))
		return task_error(d, th->task, -ENOTSUP, "thread %d is in a core scheduling group (PR_SCHED_CORE), which is not saved; start it without "
				  "one, as in coresched(1)", th->tid);
	ret->nice = a->policy == SCHED_FIFO || a->policy == SCHED_RR ? getpriority(PRIO_PROCESS, (id_t)th->tid) : a->nice;
	ret->io = syscall(__NR_ioprio_get, IOPRIO_WHO_PROCESS, th->tid);
	return 0;
}

/* As it is, or as the first thread of its process is where that is known to be the same. NULL: *ret_result says why. */
static const struct schedule_seen *see(struct dump *d, struct thread *th, struct schedule_seen *own, int *ret_result)
{
	struct task *t = th->task;

	if (th->insight.scheduled_alike && t->schedule)
		return t->schedule;
	*ret_result = look(d, th, own);
	if (!*ret_result && th == t->threads.data[0] && t->threads.count > 1 && (t->schedule = malloc(sizeof(*own))))
		*t->schedule = *own;
	return *ret_result ? NULL : own;
}

static int set_affinity(const struct schedule_seen *seen, struct pool *pool, ThreadCoreEntry *core)
{
	int bits = 0;

	for (long i = 0; i < seen->mask_size; i++)
		bits += __builtin_popcount(seen->mask[i]);
	if (bits >= all_processors())
		return 0; /* bound to none: what a new thread has */
	core->has_affinity = 1;
	core->affinity.len = (size_t)seen->mask_size;
	core->affinity.data = pool_copy(pool, seen->mask, (size_t)seen->mask_size);
	return core->affinity.data ? 0 : -ENOMEM;
}

int sched_capture(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core)
{
	struct schedule_seen own;
	int r = 0;
	const struct schedule_seen *seen = see(d, th, &own, &r);

	if (!seen)
		return r;
	if (set_affinity(seen, pool, core))
		return error_set(d->e, -ENOMEM, "out of memory");
	const struct attributes *a = &seen->a;
	core->has_sched_policy = 1;
	core->sched_policy = a->policy;
	core->has_sched_nice = 1;
	core->sched_nice = seen->nice;
	core->has_sched_prio = 1;
	core->sched_prio = a->priority;
	core->has_sched_flags = a->flags != 0;
	core->sched_flags = a->flags;
	if (a->policy == 6 /* SCHED_DEADLINE */) {
		core->has_sched_runtime_ns = core->has_sched_deadline_ns = core->has_sched_period_ns = 1;
		core->sched_runtime_ns = a->runtime;
		core->sched_deadline_ns = a->deadline;
		core->sched_period_ns = a->period;
	}
	const struct attributes *ours = own_attributes();
	bool compared = ours->policy != UINT32_MAX;
	if (a->policy != 6 && a->runtime && compared && a->runtime != ours->runtime) {
		core->has_sched_runtime_ns = 1; /* a time slice of its own (Linux 6.12) */
		core->sched_runtime_ns = a->runtime;
	}
	bool usual_for_real_time = (a->policy == SCHED_FIFO || a->policy == SCHED_RR) && a->util_min == UTIL_FULL && a->util_max == UTIL_FULL;
	if (compared && (a->util_min != ours->util_min || a->util_max != ours->util_max) && !usual_for_real_time) {
		core->has_util_min = core->has_util_max = 1;
		core->util_min = a->util_min;
		core->util_max = a->util_max;
	}
	core->has_io_priority = seen->io > 0;
	core->io_priority = seen->io > 0 ? (uint32_t)seen->io : 0;
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

void sched_read_own(struct own *own)
{
	unsigned char mask[AFFINITY_MAX / 8];
	int mode = 0, bits = 0;
	long size = syscall(__NR_sched_getaffinity, 0, sizeof(mask), mask);

	for (long i = 0; i < size; i++)
		bits += __builtin_popcount(mask[i]);
	own->bound = size > 0 && bits < all_processors();
	own->has_io_priority = syscall(__NR_ioprio_get, IOPRIO_WHO_PROCESS, 0) > 0;
	own->has_mempolicy = syscall(__NR_get_mempolicy, &mode, NULL, 0, NULL, 0) == 0 && mode;
}

static void plan_affinity(struct restore *s, const ThreadCoreEntry *c, struct batch *b)
{
	unsigned char all[AFFINITY_MAX / 8];

	memset(all, 0xff, sizeof(all));
	if (c->has_affinity && c->affinity.len <= AFFINITY_MAX / 8)
		OP(b, __NR_sched_setaffinity, 0, c->affinity.len, arena_place(&s->arena, c->affinity.data, c->affinity.len));
	else if (s->own.bound)
		OP(b, __NR_sched_setaffinity, 0, sizeof(all), arena_place(&s->arena, all, sizeof(all)));
}

/* Until all is made it is as quick as we are: on a busy machine a niced thread has its turn after seconds. */
static bool is_niced_last(const struct restore *s, const ThreadCoreEntry *c)
{
	return c->has_sched_policy && !c->sched_policy && !c->sched_flags && !c->sched_runtime_ns && s->own.has_nice && c->sched_nice > s->own.nice;
}

int sched_plan(struct restore *s, struct rtask *t, struct rthread *th)
{
	const ThreadCoreEntry *c = th->core->thread_core;
	struct batch *b = &th->batch;

	if (c->has_sched_policy) {
		/* CRIU has the policy as sched_getscheduler(2) gives it, with SCHED_RESET_ON_FORK in it. */
		const uint64_t reset = c->sched_policy & SCHED_RESET_ON_FORK ? 1 : 0;
		struct attributes a = { FIRST_VERSION, c->sched_policy & ~(uint32_t)SCHED_RESET_ON_FORK, c->sched_flags | reset, c->sched_nice, c->sched_prio,
					c->sched_runtime_ns, c->sched_deadline_ns, c->sched_period_ns, 0, 0 };
		batch_what(b, "set scheduling class %u, nice %d of thread %d", a.policy, a.nice, th->tid);
		if (!is_niced_last(s, c) && (!s->own.has_nice || s->own.nice != c->sched_nice))
			OP(b, __NR_setpriority, PRIO_PROCESS, 0, (int64_t)c->sched_nice);
		if (a.policy || a.flags || a.runtime || !s->own.has_nice) /* children have our class, which may not be the usual one */
			OP(b, __NR_sched_setattr, 0, arena_place(&s->arena, &a, sizeof(a)), 0);
	}
	if (c->has_util_min && c->has_util_max) {
		struct attributes a = { .size = sizeof(a), .flags = FLAGS_CLAMP | (c->sched_flags & 1), .util_min = c->util_min, .util_max = c->util_max };
		batch_what(b, "set the utilisation clamps of thread %d (they need a kernel with CONFIG_UCLAMP_TASK)", th->tid);
		OP(b, __NR_sched_setattr, 0, arena_place(&s->arena, &a, sizeof(a)), 0);
	}
	batch_what(b, "bind thread %d to its processors", th->tid);
	plan_affinity(s, c, b);
	if (c->has_io_priority || s->own.has_io_priority) {
		batch_what(b, "set the io priority of thread %d", th->tid);
		OP(b, __NR_ioprio_set, IOPRIO_WHO_PROCESS, 0, c->has_io_priority ? c->io_priority : 0);
	}
	if (c->mempolicy || s->own.has_mempolicy) {
		const size_t size = c->mempolicy ? c->mempolicy_nodes.len : 0;
		batch_what(b, "set the memory policy of thread %d", th->tid);
		OP(b, __NR_set_mempolicy, c->mempolicy, size ? arena_place(&s->arena, c->mempolicy_nodes.data, size) : 0, size * 8);
	}
	/* A real-time thread has no slack of its own: 0, which would mean the default. */
	if (c->has_timer_slack_ns && c->timer_slack_ns && c->timer_slack_ns != s->own.timer_slack) {
		batch_what(b, "set the timer slack of thread %d", th->tid);
		OP(b, __NR_prctl, PR_SET_TIMERSLACK, c->timer_slack_ns);
	}
	return 0;
}

int sched_finish(struct restore *s, struct rthread *th)
{
	const ThreadCoreEntry *c = th->core->thread_core;

	if (!is_niced_last(s, c) || setpriority(PRIO_PROCESS, (id_t)th->tid, c->sched_nice) == 0)
		return 0;
	return error_errno(s->e, -errno, "cannot set nice %d of thread %d", c->sched_nice, th->tid);
}
