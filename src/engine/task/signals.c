/*
 * Signal actions, and the signals that wait: process-wide and of each thread, with their siginfo, read with
 * PTRACE_PEEKSIGINFO (Linux 3.10) and queued again by the task itself, the only one who may say where a signal came from.
 * They are looked for in every thread: timers go on while a task is stopped, so that what its status said at first is old.
 */
#include "engine/task/state.h"

#include <signal.h>
#include <sys/ptrace.h>

#define SIGINFO_SIZE 128
#define PEEK_AT_ONCE 32
#define QUEUE_MAX 100000

int signals_capture_task(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core)
{
	SaEntry *actions = pool_take(pool, 62 * sizeof(*actions)), **list = pool_take(pool, 62 * sizeof(*list));

	if (!actions || !list)
		return error_set(d->e, -ENOMEM, "out of memory");
	for (int sig = 1; sig <= 64; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		SaEntry *a = &actions[core->n_sigactions];
		sa_entry__init(a);
		a->sigaction = t->answers.action[sig - 1].handler;
		a->flags = t->answers.action[sig - 1].flags;
		a->restorer = t->answers.action[sig - 1].restorer;
		a->mask = t->answers.action[sig - 1].mask;
		list[core->n_sigactions++] = a;
	}
	core->sigactions = list;
	core->blk_sigset = t->threads.data[0]->tracee.sigmask;
	return 0;
}

/* One queue of a thread; `flags`: PTRACE_PEEKSIGINFO_SHARED for the one of the process. */
static int peek(struct dump *d, struct thread *th, uint32_t flags, struct pool *pool, SignalQueueEntry **ret)
{
	SignalQueueEntry *queue = POOL_NEW(pool, SignalQueueEntry, signal_queue_entry__init);
	VEC(SiginfoEntry *) list = {};
	unsigned char infos[PEEK_AT_ONCE][SIGINFO_SIZE];
	int r = queue ? 0 : -ENOMEM;

	while (!r) {
		struct __ptrace_peeksiginfo_args args = { .off = list.count, .flags = flags, .nr = PEEK_AT_ONCE };
		long n = ptrace(PTRACE_PEEKSIGINFO, th->tid, &args, infos);
		if (n < 0)
			r = -errno;
		if (n <= 0)
			break;
		for (long i = 0; i < n && !r; i++) {
			SiginfoEntry *entry = POOL_NEW(pool, SiginfoEntry, siginfo_entry__init), **slot = entry ? VEC_PUSH(&list) : NULL;
			if (!slot || !(entry->siginfo.data = pool_copy(pool, infos[i], SIGINFO_SIZE))) {
				r = -ENOMEM;
				break;
			}
			entry->siginfo.len = SIGINFO_SIZE;
			*slot = entry;
		}
	}
	if (!r && list.count) {
		queue->signals = pool_copy(pool, list.data, list.count * sizeof(*list.data));
		queue->n_signals = list.count;
		r = queue->signals ? 0 : -ENOMEM;
	}
	VEC_FREE(&list);
	if (r)
		return task_errno(d, th->task, r, "cannot read the pending signals of thread %d", th->tid);
	*ret = queue;
	return 0;
}

int signals_capture_thread(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core)
{
	core->has_blk_sigset = 1;
	core->blk_sigset = th->tracee.sigmask;
	if (th->insight.no_signals && th->task->view.timers_seen) { /* nor do any ring meanwhile */
		core->signals_p = POOL_NEW(pool, SignalQueueEntry, signal_queue_entry__init);
		return core->signals_p ? 0 : error_set(d->e, -ENOMEM, "out of memory");
	}
	return peek(d, th, 0, pool, &core->signals_p);
}

int signals_capture_shared(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core)
{
	return peek(d, t->threads.data[0], PTRACE_PEEKSIGINFO_SHARED, pool, &core->signals_s);
}

static void plan_take(struct restore *s, struct rtask *t, uint32_t signal)
{
	struct batch *b = &t->threads.data[0].batch;
	uint64_t set = 1ULL << (signal - 1), now[2] = {};

	batch_what(b, "take what the end of children told process %d", t->pid);
	OP_MAY_FAIL(b, __NR_rt_sigtimedwait, arena_place(&s->arena, &set, sizeof(set)), 0, arena_place(&s->arena, now, sizeof(now)), 8);
}

/* Of children that were born dead, where that is not SIGCHLD, or where its action is shared and must not be touched. */
static void plan_take_ends(struct restore *s, struct rtask *t)
{
	for (size_t i = 0; i < s->tasks.count; i++) {
		const struct rtask *child = s->tasks.data[i];
		uint32_t sig = child->core->tc->has_exit_signal ? child->core->tc->exit_signal : 0;
		if (child->parent == t && child->dead && sig)
			plan_take(s, t, sig);
	}
	if (t->shares_actions)
		plan_take(s, t, SIGCHLD);
}

int signals_plan_actions(struct restore *s, struct rtask *t)
{
	const TaskCoreEntry *tc = t->core->tc;
	struct batch *b = &t->threads.data[0].batch;
	uint64_t none[4] = {};

	plan_take_ends(s, t);
	if (t->shares_actions)
		return 0;
	/* Children that were born dead have queued SIGCHLD: setting the default action drops it. */
	batch_what(b, "set the signal actions of process %d", t->pid);
	OP(b, __NR_rt_sigaction, SIGCHLD, arena_place(&s->arena, none, sizeof(none)), 0, 8);
	for (size_t i = 0, sig = 1; i < tc->n_sigactions && sig <= 64; i++, sig++) {
		const SaEntry *a = tc->sigactions[i];
		while (sig == SIGKILL || sig == SIGSTOP)
			sig++;
		uint64_t action[4] = { a->sigaction, a->flags, a->restorer, a->mask };
		if (!a->sigaction && !a->flags && !a->mask)
			continue;
		OP(b, __NR_rt_sigaction, sig, arena_place(&s->arena, action, sizeof(action)), 0, 8);
	}
	return 0;
}

static int plan_queue(struct restore *s, struct batch *b, const SignalQueueEntry *queue, pid_t pid, pid_t tid)
{
	if (!queue)
		return 0;
	if (queue->n_signals > QUEUE_MAX)
		return error_set(s->e, -EBADMSG, "core-%d.img has too many pending signals", tid ? tid : pid);
	for (size_t i = 0; i < queue->n_signals; i++) {
		const ProtobufCBinaryData *info = &queue->signals[i]->siginfo;
		int32_t signal;
		if (info->len != SIGINFO_SIZE)
			return error_set(s->e, -EBADMSG, "core-%d.img has a pending signal of %zu bytes", tid ? tid : pid, info->len);
		memcpy(&signal, info->data, sizeof(signal));
		uint64_t at = arena_place(&s->arena, info->data, info->len);
		batch_what(b, "queue signal %d for %s %d", signal, tid ? "thread" : "process", tid ? tid : pid);
		if (tid)
			OP(b, __NR_rt_tgsigqueueinfo, pid, tid, signal, at);
		else
			OP(b, __NR_rt_sigqueueinfo, pid, signal, at);
	}
	return 0;
}

int signals_plan_queues(struct restore *s, struct rtask *t, struct rthread *th)
{
	int r = plan_queue(s, &th->batch, th->core->thread_core->signals_p, t->pid, th->tid);

	if (!r && th->tid == t->pid)
		r = plan_queue(s, &th->batch, t->core->tc->signals_s, t->pid, 0);
	return r;
}
