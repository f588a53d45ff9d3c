/*
 * The parts of a task's state, one file each: `capture` fills the image's message on dump, `plan` adds to a thread's batch
 * what brings the state back. Memory for messages comes from the pool.
 */
#pragma once

#include "base/pool.h"
#include "engine/restore.h"
#include "engine/task/task.h"

/* creds.c: of one thread; those of the process are the same ones. */
int creds_capture(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core);
/* A process that is being made: the effective ids, groups and capabilities that it is to have, for what is made in its name; then those of the coordinator again. */
int creds_plan_effective(struct restore *s, struct rtask *t, struct batch *b);
void creds_plan_own(struct restore *s, struct rtask *t, struct batch *b);
int creds_plan(struct restore *s, struct rtask *t, struct rthread *th);

/* signals.c: actions, queues; the mask is set with the registers. */
int signals_capture_task(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core);
int signals_capture_shared(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core);
int signals_capture_thread(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core);
int signals_plan_actions(struct restore *s, struct rtask *t);
int signals_plan_queues(struct restore *s, struct rtask *t, struct rthread *th);

/* timers.c: interval timers and POSIX timers. */
int timers_capture(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core);
int timers_plan(struct restore *s, struct rtask *t);

/* sched.c: class, nice, affinity, io priority, timer slack of a thread. */
int sched_capture(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core);
void sched_read_own(struct own *own); /* bound, has_io_priority, has_mempolicy */
int sched_plan(struct restore *s, struct rtask *t, struct rthread *th);
/* What would slow it down, of a stopped thread that has only to be let go. */
int sched_finish(struct restore *s, struct rthread *th);

/* process.c: limits, personality, OOM score, subreaper, name … */
int process_capture(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core);
/* What new processes are born with: once, before the rest is planned. */
int process_read_own(struct restore *s);
int process_plan(struct restore *s, struct rtask *t);

/* semaphores.c: what System V semaphores have to undo, into t->undo; refused where that can't be told or had again. */
int semaphores_check(struct dump *d, struct task *t);

/* threads.c: registers, robust list, rseq, alternate stack, tid address. */
int threads_capture(struct dump *d, struct thread *th, struct pool *pool, CoreEntry *core);
/* The name. Threads have it of their leader, so one that has threads gets it before them. */
void threads_plan_name(struct restore *s, const struct rtask *t, const struct rthread *th, struct batch *b);
int threads_plan_state(struct restore *s, struct rtask *t, struct rthread *th);
/* Next to last: the FPU state, which the agent leaves alone. */
int threads_plan_fpu(struct restore *s, struct rthread *th);
/* The registers that a restored thread is to have, into its tracee; what is left of its FPU state is set. */
int threads_set_registers(struct restore *s, struct rthread *th);
/* Once no system call of ours is to come any more. */
int threads_set_dispatch(struct restore *s, struct rthread *th);

/* seccomp.c */
int seccomp_capture(struct dump *d, struct thread *th, ThreadCoreEntry *core);
int seccomp_finish(struct dump *d, bool success);
int seccomp_load(struct restore *s);
/* After what all tasks wait for: `seized`. */
int seccomp_plan(struct restore *s, struct rtask *t, struct rthread *th);
/* The very last call but parking: strict mode. */
int seccomp_plan_strict(struct restore *s, struct rthread *th);
void seccomp_release(struct restore *s);

#define POOL_NEW(pool, type, init) \
	({ \
		type *new_ = pool_take(pool, sizeof(type)); \
		if (new_) \
			init(new_); \
		new_; \
	})
