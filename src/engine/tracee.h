/*
 * A task that is held by ptrace(2): seizing it, stopping it, and running the agent in it.
 *
 * Nothing here polls: stops are waited for with waitpid. When the coordinator dies, the kernel detaches every tracee and
 * each goes on from where it was; see arch/x86_64/snippet.h for those that were running the agent.
 */
#pragma once

#include "base/error.h"
#include "engine/agent/batch.h"
#include "engine/arch/x86_64/snippet.h"

struct tracee {
	pid_t pid, tid;
	bool seized, stopped_by_signal; /* stopped_by_signal: in a job control stop of its own */
	struct user_regs_struct regs;   /* its own, as it was stopped */
	uint64_t sigmask;
};

/* Seizes and stops a thread. -EPERM, -ESRCH … with the text set. */
int tracee_seize(struct tracee *t, pid_t pid, pid_t tid, struct error *e);
int tracee_interrupt(struct tracee *t);
int tracee_wait_stop(struct tracee *t, struct error *e);
void tracee_detach(struct tracee *t);

/* Where the agent stands in a process. */
struct agent_seat {
	struct tracee *tracee;
	int mem_fd; /* /proc/PID/mem */
	uint64_t snippet_address, area;
	size_t area_size;
	struct snippet snippet;
	unsigned char saved[SNIPPET_MAX];
};

/* Places the agent: `hole` is a free address range of `size` bytes in the target, `slack` the address of SNIPPET_MAX dead,
 * executable bytes. */
int agent_seat_take(struct agent_seat *seat, struct tracee *t, uint64_t hole, size_t size, uint64_t slack, struct error *e);
/* Where batches and their data may stand in the target. */
uint64_t agent_seat_data(const struct agent_seat *seat);
/* Runs a batch of `size` bytes that stands at agent_seat_data; data behind it goes along. Results are read back into it. */
int agent_seat_run(struct agent_seat *seat, struct agent_batch *batch, size_t size, struct error *e);
/* As agent_seat_take, for a task that runs the agent already, in [area, area + size); t holds what it is to continue with. */
int agent_seat_adopt(struct agent_seat *seat, struct tracee *t, uint64_t area, size_t size, uint64_t slack, struct error *e);
/* Takes the agent out again; the thread has its own registers back and is still stopped. */
int agent_seat_leave(struct agent_seat *seat, struct error *e);
