/* See tracee.h. */
#include "engine/tracee.h"

#include "engine/agent/blob.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#define AGENT_CODE_SIZE PAGE_SIZE
#define AGENT_STACK_SIZE (4 * PAGE_SIZE)

int tracee_seize(struct tracee *t, pid_t pid, pid_t tid, struct error *e)
{
	*t = (struct tracee){ .pid = pid, .tid = tid };
	if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD) < 0)
		return error_errno(e, -errno, "cannot trace task %d", tid);
	t->seized = true;
	return 0;
}

int tracee_interrupt(struct tracee *t)
{
	return ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 ? -errno : 0;
}

/* Takes signal-delivery stops on the way back to the queue by letting the signal in and stopping again. */
int tracee_wait_stop(struct tracee *t, struct error *e)
{
	for (;;) {
		int status;
		if (waitpid(t->tid, &status, __WALL) < 0) {
			if (errno == EINTR)
				continue;
			return error_errno(e, -errno, "cannot wait for task %d", t->tid);
		}
		if (!WIFSTOPPED(status)) {
			t->seized = false;
			return error_set(e, -ESRCH, "task %d ended while it was being stopped", t->tid);
		}
		if (status >> 16 == PTRACE_EVENT_STOP) {
			t->stopped_by_signal = WSTOPSIG(status) != SIGTRAP;
			break;
		}
		/* A signal on its way to the task: let it be delivered, the interrupt is still pending behind it. */
		ptrace(PTRACE_CONT, t->tid, 0, WSTOPSIG(status));
	}
	if (ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) < 0 || ptrace(PTRACE_GETSIGMASK, t->tid, 8, &t->sigmask) < 0)
		return error_errno(e, -errno, "cannot read the registers of task %d", t->tid);
	return 0;
}

void tracee_detach(struct tracee *t)
{
	if (t->seized)
		ptrace(PTRACE_DETACH, t->tid, 0, 0);
	t->seized = false;
}

static int write_mem(int fd, uint64_t address, const void *data, size_t size)
{
	ssize_t n = pwrite(fd, data, size, (off_t)address);
	return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EIO;
}

static int read_mem(int fd, uint64_t address, void *data, size_t size)
{
	ssize_t n = pread(fd, data, size, (off_t)address);
	return n == (ssize_t)size ? 0 : n < 0 ? -errno : -EIO;
}

/* Continues until the exit of the next system call whose number is `nr`. */
static int run_to_syscall_exit(struct tracee *t, struct user_regs_struct *regs)
{
	int status;

	for (int stops = 0; stops < 2;) {
		if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0)
			return -errno;
		if (waitpid(t->tid, &status, __WALL) < 0)
			return -errno;
		if (!WIFSTOPPED(status)) {
			t->seized = false;
			return -ESRCH;
		}
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			stops++;
	}
	return ptrace(PTRACE_GETREGS, t->tid, 0, regs) < 0 ? -errno : 0;
}

int agent_seat_take(struct agent_seat *seat, struct tracee *t, uint64_t hole, size_t size, uint64_t slack, struct error *e)
{
	char path[64];
	int r;

	*seat = (struct agent_seat){ .tracee = t, .area = hole, .area_size = size, .snippet_address = slack };
	snprintf(path, sizeof(path), "/proc/%d/mem", t->pid);
	seat->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	if (seat->mem_fd < 0)
		return error_errno(e, -errno, "cannot open %s", path);
	snippet_build(&seat->snippet, slack, &t->regs, t->sigmask, hole, size);
	r = read_mem(seat->mem_fd, slack, seat->saved, SNIPPET_MAX);
	if (!r)
		r = write_mem(seat->mem_fd, slack, seat->snippet.code, seat->snippet.size);
	if (r) {
		close(seat->mem_fd);
		return error_errno(e, r, "cannot place the agent in task %d", t->tid);
	}

	struct user_regs_struct regs = t->regs;
	uint64_t all = ~0ULL;
	regs.rip = slack + 24;
	regs.orig_rax = (unsigned long long)-1;
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0 || ptrace(PTRACE_SETSIGMASK, t->tid, 8, &all) < 0)
		r = -errno;
	if (!r)
		r = run_to_syscall_exit(t, &regs);
	if (!r && regs.rax != hole)
		r = (long)regs.rax < 0 ? (int)regs.rax : -ENOMEM;
	if (!r)
		r = write_mem(seat->mem_fd, hole, agent_blob, agent_blob_size);
	if (r) {
		struct error ignored;
		agent_seat_leave(seat, &ignored);
		return error_errno(e, r, "cannot place the agent in task %d", t->tid);
	}
	return 0;
}

uint64_t agent_seat_data(const struct agent_seat *seat)
{
	return seat->area + AGENT_CODE_SIZE;
}

int agent_seat_run(struct agent_seat *seat, struct agent_batch *batch, size_t size, struct error *e)
{
	struct tracee *t = seat->tracee;
	struct user_regs_struct regs = t->regs;
	int r = write_mem(seat->mem_fd, agent_seat_data(seat), batch, size);

	/* After the batch the agent goes to `tail`, whose first system call is where we stop it. */
	regs.rip = seat->area;
	regs.rdi = agent_seat_data(seat);
	regs.rsp = seat->area + seat->area_size;
	regs.r15 = seat->snippet_address + seat->snippet.tail;
	regs.eflags &= ~0x400ULL;
	regs.orig_rax = (unsigned long long)-1;
	/* The batch's last call is getpid with a mark in its second argument: seen from here as the place to stop. */
	if (!r && ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0)
		r = -errno;
	for (uint32_t i = 0; !r && i < batch->count; i++)
		r = run_to_syscall_exit(t, &regs);
	if (!r)
		r = read_mem(seat->mem_fd, agent_seat_data(seat), batch, size);
	if (r)
		return error_errno(e, r, "the agent in task %d did not finish", t->tid);
	/* The last result is only in the registers yet. */
	batch->ops[batch->count - 1].result = (int64_t)regs.rax;
	return 0;
}

int agent_seat_leave(struct agent_seat *seat, struct error *e)
{
	struct tracee *t = seat->tracee;
	struct user_regs_struct regs = t->regs;
	int r = 0;

	regs.rip = seat->snippet_address + seat->snippet.tail;
	regs.orig_rax = (unsigned long long)-1;
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0)
		r = -errno;
	if (!r)
		r = run_to_syscall_exit(t, &regs); /* munmap */
	if (!r && (ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask) < 0 || ptrace(PTRACE_SETREGS, t->tid, 0, &t->regs) < 0))
		r = -errno;
	if (!r)
		r = write_mem(seat->mem_fd, seat->snippet_address, seat->saved, SNIPPET_MAX);
	close(seat->mem_fd);
	return r ? error_errno(e, r, "cannot take the agent out of task %d", t->tid) : 0;
}

int agent_seat_adopt(struct agent_seat *seat, struct tracee *t, uint64_t area, size_t size, uint64_t slack, struct error *e)
{
	char path[64];

	*seat = (struct agent_seat){ .tracee = t, .area = area, .area_size = size, .snippet_address = slack };
	snprintf(path, sizeof(path), "/proc/%d/mem", t->pid);
	seat->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	int r = seat->mem_fd < 0 ? -errno : 0;
	snippet_build(&seat->snippet, slack, &t->regs, t->sigmask, area, size);
	if (!r)
		r = read_mem(seat->mem_fd, slack, seat->saved, SNIPPET_MAX);
	if (!r)
		r = write_mem(seat->mem_fd, slack, seat->snippet.code, seat->snippet.size);
	return r ? error_errno(e, r, "cannot place the agent in task %d", t->tid) : 0;
}
