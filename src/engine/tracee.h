/*
 * A thread that is held by ptrace(2): seizing it, stopping it, and running the agent in it.
 *
 * Stops are waited for with waitpid, not polled for. When the coordinator dies, the kernel detaches every tracee and
 * each goes on from where it was; see arch/x86_64/snippet.h for those that were running the agent.
 */
#pragma once

#include "base/error.h"
#include "engine/agent/batch.h"
#include "engine/arch/x86_64/snippet.h"

#include <signal.h>
#include <time.h>

struct tracee {
	pid_t pid, tid;
	bool seized;
	bool stopping; /* it was interrupted, and its stop was not waited for yet */
	const struct timespec *deadline; /* CLOCK_MONOTONIC, for the stop that is waited for; NULL: none */
	int stop_signal;              /* of the job control stop it was found in, or 0 */
	struct user_regs_struct regs; /* its own, as it was stopped */
	uint64_t sigmask;
	struct syscall_dispatch dispatch; /* its own, which is put aside while the agent makes calls in it */
	bool dispatch_aside;
	bool mask_aside;  /* it has mask_in_agent instead of its own */
	bool alone;       /* no other thread of its process is held, so its end is told at once */
	bool stop_sent;   /* SIGSTOP came while the agent was in it, and is to come again when it is let go */
	int quiet_signal; /* a signal that can be sent to it with no effect when it is not traced, or 0; see agent_quiet_signal */
};

/* Around all that follows: SIGCHLD is blocked, and tells of every stop. */
struct tracing {
	sigset_t mask;
	struct sigaction action;
};
void tracing_begin(struct tracing *ret);
void tracing_end(const struct tracing *t);

int tracee_seize(struct tracee *t, pid_t pid, pid_t tid, int options, struct error *e);
int tracee_interrupt(struct tracee *t);
/* Lets a stopped thread run to the end of its next system call, where it is interrupted. */
int tracee_pass_call(struct tracee *t);
/* Waits for the stop, then reads registers and mask. -ETIMEDOUT: the deadline has passed; it is let go when the coordinator ends. */
int tracee_wait_stop(struct tracee *t, struct error *e);
/* The same without the registers and the mask, which a restore is about to set. */
int tracee_wait_parked(struct tracee *t, struct error *e);
void tracee_detach(struct tracee *t);

/* PR_SET_SYSCALL_USER_DISPATCH of a stopped thread. DISPATCH_UNTOLD: before Linux 6.4 nothing tells of it, and mode is 0. */
enum { DISPATCH_UNTOLD = 1 };
int tracee_get_dispatch(struct tracee *t, struct syscall_dispatch *ret);
int tracee_set_dispatch(struct tracee *t, const struct syscall_dispatch *dispatch);

/* Lets a stopped thread, whose signals are blocked, make the call of these registers, which stand before a syscall instruction: `regs` become those at its end. */
int tracee_call(struct tracee *t, struct user_regs_struct *regs);
/* Lets a stopped thread, whose signals are blocked, make the call of these registers, interrupted as soon as it begins, in three steps, so that many
 * threads do each at the same time: up to the call, into it, to its end, whose registers the last one gives. It must be let go afterwards
 * (tracee_detach). */
int tracee_begin_call(struct tracee *t, struct user_regs_struct *regs);
int tracee_interrupt_call(struct tracee *t);
int tracee_end_call(struct tracee *t, struct user_regs_struct *regs);

/* Where the agent stands in a process: code, linger, the leader's batch and stack, then a slot for each other thread. */
struct agent_seat {
	struct tracee *leader;
	int mem_fd; /* /proc/PID/mem, the caller's */
	uint64_t snippet_address, area;
	size_t area_size, code_size, threads;
	struct snippet snippet;
	unsigned char saved[SNIPPET_MAX];
};

#define AGENT_SEAT_DATA_SIZE (14 * 4096UL)
#define AGENT_SLOT_SIZE 8192UL
/* How much room the agent needs in a process with so many threads beside the leader. */
size_t agent_seat_size(size_t threads);

/* A signal for struct tracee's quiet_signal, from what the thread does with signals (bit sig - 1 in each). 0: none. */
int agent_quiet_signal(uint64_t caught, uint64_t ignored, uint64_t blocked, uint64_t pending);

/* Sends the leader off to make room for the agent: `hole` is a free address range of agent_seat_size(threads) bytes in the target, `threads`
 * how many it has beside the leader, `slack` the address of SNIPPET_MAX dead, executable bytes. When it fails the leader is as it was. */
int agent_seat_take(struct agent_seat *seat, struct tracee *leader, int mem_fd, uint64_t hole, size_t threads, uint64_t slack,
		    struct error *e);
/* Waits until it has, and places the agent. When it fails the leader has left again. */
int agent_seat_taken(struct agent_seat *seat, struct error *e);
/* Where the batch of a thread stands in the target, and how many bytes it may have with its data. `number`: 0 the leader. */
uint64_t agent_seat_place(const struct agent_seat *seat, size_t number, size_t *ret_room);

/* One batch in one thread. */
struct agent_run {
	struct agent_seat *seat;
	struct tracee *tracee;
	size_t number;             /* of the thread in its process; 0 the leader */
	struct agent_batch *batch; /* head and operations, data behind; the last operation is added by agent_run_start */
	size_t size;               /* of all that */
	uint32_t more_calls;       /* that its operations make, beyond one each */
	uint32_t passed;           /* operations that agent_run_until has seen end */
};
/* How many operations agent_run_start adds to a batch. */
#define AGENT_RUN_EXTRA 3
int agent_run_start(struct agent_run *run, struct error *e);
/* Stops it where the first `count` operations have ended, the last of which sends the thread its quiet signal, and reads back what there is. The
 * agent_run_finish that follows lets it go on. */
int agent_run_until(struct agent_run *run, uint32_t count, struct error *e);
/* Waits for its end; results and data are read back into `batch`. A thread other than the leader gets its own registers back. */
int agent_run_finish(struct agent_run *run, struct error *e);

/* As agent_seat_take, for a process that runs the agent already, in [area, area + size); `leader` holds what it is to continue
 * with. */
int agent_seat_adopt(struct agent_seat *seat, struct tracee *leader, int mem_fd, uint64_t area, size_t size, uint64_t slack,
		     struct error *e);
/* Sends the leader off to take the agent out again. */
int agent_seat_leave(struct agent_seat *seat, struct error *e);
/* Waits until it has: the leader has its own registers back and is still stopped. */
int agent_seat_left(struct agent_seat *seat, struct error *e);
