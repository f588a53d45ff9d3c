/* See tracee.h. */
#include "engine/tracee.h"

#include "engine/agent/blob.h"
#include "proc/proc.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

/*
 * The area, two mappings side by side, none of them writable and executable (PR_SET_MDWE allows that):
 *	code: the agent, then the tails of the threads, 512 bytes each
 *	data: linger, the leader's batch and stack, then a slot for the batch and the stack of each other thread
 */
#define TAILS_OFFSET PAGE_SIZE
#define TAIL_SIZE 512UL
#define LINGER_SIZE 64UL
#define LEADER_TRIES 20
#define STACK_ROOM 1024UL

int tracee_seize(struct tracee *t, pid_t pid, pid_t tid, int options, struct error *e)
{
	*t = (struct tracee){ .pid = pid, .tid = tid };
	if (ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD | options) < 0)
		return error_errno(e, -errno, "cannot trace task %d", tid);
	t->seized = true;
	return 0;
}

int tracee_interrupt(struct tracee *t)
{
	return ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0 ? -errno : 0;
}

/* Whether the leader has ended. Its end is not told before all other threads that ended were waited for, which is done here. */
static bool leader_ended(pid_t pid)
{
	struct proc_stat stat;
	struct proc_pids tids = {};

	if (proc_read_stat(pid, &stat) || (stat.state != 'Z' && stat.state != 'X'))
		return false;
	proc_list_threads(pid, &tids);
	for (size_t i = 0; i < tids.count; i++)
		if (tids.data[i] != pid && proc_read_thread_stat(pid, tids.data[i], &stat) == 0 && stat.state == 'Z')
			waitpid(tids.data[i], NULL, __WALL | WNOHANG);
	VEC_FREE(&tids);
	return true;
}

/* A leader: it is looked at at each SIGCHLD, which ends and stops of any thread send, and now and then where that is ignored. */
static pid_t wait_leader(pid_t pid, int *ret)
{
	sigset_t child, before;
	pid_t r;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &before);
	for (long ms = 1, ended = 0; !(r = waitpid(pid, ret, __WALL | WNOHANG)); ms = MIN(2 * ms, 100L)) {
		struct timespec limit = { 0, ms * 1000000 };
		if (sigtimedwait(&child, NULL, &limit) == SIGCHLD)
			ms = 1;
		else if (leader_ended(pid) && ++ended > LEADER_TRIES)
			break; /* the others run on */
	}
	int error = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = r ? error : ESRCH;
	return r > 0 ? r : -1;
}

static int wait_status(struct tracee *t, int *ret)
{
	while ((t->tid == t->pid ? wait_leader(t->tid, ret) : waitpid(t->tid, ret, __WALL)) < 0) {
		if (errno == ESRCH)
			t->seized = false;
		if (errno != EINTR)
			return -errno;
	}
	if (!WIFSTOPPED(*ret)) {
		t->seized = false;
		return -ESRCH;
	}
	return 0;
}

int tracee_wait_stop(struct tracee *t, struct error *e)
{
	for (;;) {
		int status, r = wait_status(t, &status);
		if (r == -ESRCH)
			return error_set(e, r, "task %d ended while it was being stopped", t->tid);
		if (r)
			return error_errno(e, r, "cannot wait for task %d", t->tid);
		if (status >> 16 == PTRACE_EVENT_STOP) {
			t->stop_signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
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

/* Continues until the exit of the next system call. */
static int run_to_syscall_exit(struct tracee *t, struct user_regs_struct *regs)
{
	for (int stops = 0; stops < 2;) {
		int status;
		if (ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0)
			return -errno;
		int r = wait_status(t, &status);
		if (r)
			return r;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			stops++;
	}
	return ptrace(PTRACE_GETREGS, t->tid, 0, regs) < 0 ? -errno : 0;
}

static size_t code_size(size_t threads)
{
	return ALIGN_UP(TAILS_OFFSET + TAIL_SIZE * threads, PAGE_SIZE);
}

size_t agent_seat_size(size_t threads)
{
	return code_size(threads) + AGENT_SEAT_DATA_SIZE + AGENT_SLOT_SIZE * threads;
}

static uint64_t data_of(const struct agent_seat *seat)
{
	return seat->area + seat->code_size;
}

uint64_t agent_seat_place(const struct agent_seat *seat, size_t number, size_t *ret_room)
{
	if (!number) {
		*ret_room = AGENT_SEAT_DATA_SIZE - LINGER_SIZE - STACK_ROOM * 4;
		return data_of(seat) + LINGER_SIZE;
	}
	*ret_room = AGENT_SLOT_SIZE - STACK_ROOM;
	return data_of(seat) + AGENT_SEAT_DATA_SIZE + AGENT_SLOT_SIZE * (number - 1);
}

int agent_quiet_signal(uint64_t caught, uint64_t ignored, uint64_t blocked, uint64_t pending)
{
	static const int ignored_by_default[] = { SIGURG, SIGWINCH, SIGCHLD };
	uint64_t bad = caught | blocked | pending;

	for (size_t i = 0; i < ARRAY_SIZE(ignored_by_default); i++)
		if (!(bad & (1ULL << (ignored_by_default[i] - 1))))
			return ignored_by_default[i];
	/* Not the ones that do something when they are sent, or that the kernel forces. */
	for (int sig = SIGHUP; sig <= SIGUSR2; sig++)
		if (ignored & ~bad & (1ULL << (sig - 1)) && sig != SIGSEGV && sig != SIGBUS && sig != SIGILL && sig != SIGFPE &&
		    sig != SIGTRAP && sig != SIGKILL)
			return sig;
	return 0;
}

int agent_seat_take(struct agent_seat *seat, struct tracee *t, int mem_fd, uint64_t hole, size_t threads, uint64_t slack,
		    struct error *e)
{
	struct agent_linger linger = { .threads = (uint32_t)threads, .slot_size = AGENT_SLOT_SIZE };

	*seat = (struct agent_seat){ .leader = t, .area = hole, .area_size = agent_seat_size(threads), .code_size = code_size(threads),
				     .snippet_address = slack, .mem_fd = mem_fd };
	linger.slots = data_of(seat) + AGENT_SEAT_DATA_SIZE;
	snippet_build(&seat->snippet, slack, &t->regs, t->sigmask, hole, seat->area_size, seat->code_size);
	int r = read_mem(mem_fd, slack, seat->saved, SNIPPET_MAX);
	if (!r)
		r = write_mem(mem_fd, slack, seat->snippet.code, seat->snippet.size);
	if (r)
		return error_errno(e, r, "cannot place the agent in task %d", t->tid);

	struct user_regs_struct regs = t->regs;
	uint64_t all = ~0ULL;
	regs.rip = slack + 24;
	regs.orig_rax = (unsigned long long)-1;
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0 || ptrace(PTRACE_SETSIGMASK, t->tid, 8, &all) < 0)
		r = -errno;
	for (int i = 0; i < 2 && !r; i++) { /* both mappings */
		r = run_to_syscall_exit(t, &regs);
		if (!r && regs.rax != hole + (i ? seat->code_size : 0))
			r = (long)regs.rax < 0 ? (int)regs.rax : -ENOMEM;
	}
	if (!r)
		r = write_mem(mem_fd, hole, agent_blob, agent_blob_size);
	if (!r)
		r = write_mem(mem_fd, data_of(seat), &linger, sizeof(linger));
	if (r) {
		struct error ignored;
		agent_seat_leave(seat, &ignored);
		return error_errno(e, r, "cannot place the agent in task %d", t->tid);
	}
	return 0;
}

static void add_end(struct agent_batch *b, int signal)
{
	struct agent_op *op = &agent_batch_ops(b)[b->count];

	op[0] = (struct agent_op){ .nr = __NR_getpid, .flags = AGENT_OP_MAY_FAIL };
	op[1] = (struct agent_op){ .nr = __NR_gettid, .flags = AGENT_OP_MAY_FAIL };
	op[2] = (struct agent_op){ .nr = __NR_tgkill, .flags = AGENT_OP_MAY_FAIL | AGENT_OP_REF_ARG0 | AGENT_OP_REF_ARG0 << 1,
				   .arg = { b->count, b->count + 1UL, (uint64_t)signal } };
	b->count += AGENT_RUN_EXTRA;
}

int agent_run_start(struct agent_run *run, struct error *e)
{
	struct tracee *t = run->tracee;
	struct agent_seat *seat = run->seat;
	struct user_regs_struct regs = t->regs;
	uint64_t mask = ~0ULL;
	size_t room;
	uint64_t at = agent_seat_place(seat, run->number, &room);
	int r = 0;

	if (t->quiet_signal)
		mask &= ~(1ULL << (t->quiet_signal - 1));
	add_end(run->batch, t->quiet_signal);
	run->batch->number = (uint32_t)run->number;
	run->batch->linger = data_of(seat);
	if (run->size > room)
		return error_set(e, -E2BIG, "a batch for task %d is too large", t->tid);
	regs.rip = seat->area;
	regs.rdi = at;
	regs.rsp = ALIGN_UP(at + room + STACK_ROOM, 64) - 64;
	regs.r15 = seat->snippet_address + seat->snippet.tail;
	regs.eflags &= ~0x400ULL;
	regs.orig_rax = (unsigned long long)-1;
	if (run->number) {
		struct snippet own;
		uint64_t tail = seat->area + TAILS_OFFSET + TAIL_SIZE * (run->number - 1);
		snippet_build_thread(&own, tail, &t->regs, t->sigmask);
		regs.r15 = tail + own.tail;
		r = own.size > TAIL_SIZE ? -E2BIG : write_mem(seat->mem_fd, tail, own.code, own.size);
	}
	if (!r)
		r = write_mem(seat->mem_fd, at, run->batch, run->size);
	if (!r && (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0 || ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask) < 0))
		r = -errno;
	if (!r && t->quiet_signal && ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		r = -errno;
	if (r && run->number) { /* it has not run: as if it had never been asked */
		ptrace(PTRACE_SETREGS, t->tid, 0, &t->regs);
		ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask);
	}
	return r ? error_errno(e, r, "cannot start the agent in task %d", t->tid) : 0;
}

/* Up to the signal that ends the batch. One that comes from elsewhere has no effect on the task, or it was not quiet. */
static int wait_for_signal(struct agent_run *run, uint64_t at)
{
	struct tracee *t = run->tracee;
	struct agent_batch head;

	for (;;) {
		int status, r = wait_status(t, &status);
		if (!r && status >> 16 == 0 && WSTOPSIG(status) == t->quiet_signal) {
			r = read_mem(run->seat->mem_fd, at, &head, sizeof(head));
			if (!r && head.done + 1 >= head.count)
				return 0;
		}
		if (!r && ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
			r = -errno;
		if (r)
			return r;
	}
}

int agent_run_finish(struct agent_run *run, struct error *e)
{
	struct tracee *t = run->tracee;
	struct user_regs_struct regs;
	size_t room;
	uint64_t at = agent_seat_place(run->seat, run->number, &room);
	uint32_t outside = 0;
	int r = 0;

	if (t->quiet_signal)
		r = wait_for_signal(run, at);
	else /* Every signal has an effect: count the calls instead. */
		for (uint32_t i = 0; !r && i < run->batch->count; i++)
			r = run_to_syscall_exit(t, &regs);
	if (!r)
		r = read_mem(run->seat->mem_fd, at, run->batch, run->size);
	/* In this order: from here on, when the coordinator dies, the thread has only a few instructions to go in the area. */
	if (!r && run->number)
		r = write_mem(run->seat->mem_fd, at + offsetof(struct agent_batch, inside), &outside, sizeof(outside));
	if (!r && run->number &&
	    (ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask) < 0 || ptrace(PTRACE_SETREGS, t->tid, 0, &t->regs) < 0))
		r = -errno;
	return r ? error_errno(e, r, "the agent in task %d did not finish", t->tid) : 0;
}

int agent_seat_leave(struct agent_seat *seat, struct error *e)
{
	struct tracee *t = seat->leader;
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
	return r ? error_errno(e, r, "cannot take the agent out of task %d", t->tid) : 0;
}

int agent_seat_adopt(struct agent_seat *seat, struct tracee *t, int mem_fd, uint64_t area, size_t size, uint64_t slack,
		     struct error *e)
{
	*seat = (struct agent_seat){ .leader = t, .area = area, .area_size = size, .snippet_address = slack, .mem_fd = mem_fd };
	snippet_build(&seat->snippet, slack, &t->regs, t->sigmask, area, size, size);
	int r = read_mem(mem_fd, slack, seat->saved, SNIPPET_MAX);
	if (!r)
		r = write_mem(mem_fd, slack, seat->snippet.code, seat->snippet.size);
	return r ? error_errno(e, r, "cannot place the agent in task %d", t->tid) : 0;
}
