/*
 * The way into a frozen process and out of it again, which survives the death of the coordinator at any moment.
 *
 * A few hundred bytes of code are written behind the end of the vdso's ELF image (dead bytes of its last page; through
 * /proc/PID/mem, as a debugger sets a breakpoint). They hold the thread's own registers as constants:
 *
 *	head:  mmap(a hole, for the agent's code), mmap(beside it, for its data); a signal to itself, which stops it
 *	tail:  munmap(the same), the signal again; rt_sigprocmask(the thread's own mask); prctl (where the thread's system calls are
 *	       dispatched, which was put aside); every register as it was; jump to where it was
 *
 * One PTRACE_SETREGS to `head` is the only step that changes the thread. Whatever is done after it, if the tracer
 * goes away, the thread runs through `tail` and is where it was, with nothing left in its address space.
 */
#pragma once

#include "base/base.h"

#include <sys/user.h>

#define SNIPPET_MAX 720

/* PR_SET_SYSCALL_USER_DISPATCH, as prctl(2) and ptrace(2) take it. Mode 0: system calls are not dispatched. */
struct syscall_dispatch {
	uint64_t mode, selector, offset, len;
};

struct snippet {
	unsigned char code[SNIPPET_MAX];
	size_t size;
	size_t tail; /* offset of tail */
	size_t mask; /* offset of the thread's signal mask, 8 bytes */
	size_t after_head, after_munmap; /* offsets of what follows the signals; 0: there are none */
};

/* The signal that has no effect but to stop a thread that is traced, and who is to get it. signal 0: none. */
struct snippet_signal {
	pid_t pid, tid;
	int signal;
};

/* Builds the code for a thread with these registers (as PTRACE_GETREGS gives them) and mask, to stand at `address`. The
 * agent's area is [area, area + area_size), its code the first code_size bytes of it. `dispatch`: what is to be set again. */
void snippet_build(struct snippet *s, uint64_t address, const struct user_regs_struct *regs, uint64_t mask,
		   const struct syscall_dispatch *dispatch, uint64_t area, size_t area_size, size_t code_size,
		   const struct snippet_signal *signal);

/* As snippet_build, for a thread other than the leader: `tail` alone, without munmap. It stands in the area itself, which the
 * leader unmaps after all others have left it (struct agent_linger). */
void snippet_build_thread(struct snippet *s, uint64_t address, const struct user_regs_struct *regs, uint64_t mask,
			  const struct syscall_dispatch *dispatch);

/* munmap(rdi, rsi), then, from SNIPPET_REST_LOOP on, nothing for ever. */
#define SNIPPET_REST_SIZE 16
#define SNIPPET_REST_LOOP 7
extern const unsigned char snippet_rest[SNIPPET_REST_SIZE];
