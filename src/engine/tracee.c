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
#define WATCH_NS 100000000
#define TAIL_SIZE 512UL
#define LINGER_SIZE 64UL
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
	t->stopping = ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) == 0;
	return t->stopping ? 0 : -errno;
}

void tracing_begin(struct tracing *ret)
{
	struct sigaction plain = { .sa_handler = SIG_DFL };
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	*ret = (struct tracing){}; /* what a call that fails leaves: the default action */
	sigprocmask(SIG_BLOCK, &child, &ret->mask);
	sigaction(SIGCHLD, &plain, &ret->action);
}

void tracing_end(const struct tracing *t)
{
	sigaction(SIGCHLD, &t->action, NULL);
	sigprocmask(SIG_SETMASK, &t->mask, NULL);
}

static bool is_zombie(pid_t tid)
{
	struct proc_stat stat;

	return proc_read_stat(tid, &stat) || stat.state == 'Z' || stat.state == 'X';
}

static bool is_past(const struct timespec *deadline)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > deadline->tv_sec || (now.tv_sec == deadline->tv_sec && now.tv_nsec > deadline->tv_nsec);
}

/*
 * A main thread that was killed tells nobody as long as other threads of its process wait to be reaped, which may be ours: so
 * it is looked at when nothing is heard. Others are waited for in this way where there is a deadline.
 */
static pid_t wait_looking(const struct tracee *t, int *ret)
{
	const pid_t tid = t->tid;
	struct timespec look = { 0, WATCH_NS };
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		pid_t r = waitpid(tid, ret, __WALL | WNOHANG);
		if (r)
			return r;
		if (sigtimedwait(&child, NULL, &look) >= 0 || errno != EAGAIN)
			continue;
		if (tid == t->pid && is_zombie(tid)) {
			*ret = SIGKILL; /* as if it had been reaped */
			return tid;
		}
		if (t->deadline && is_past(t->deadline)) {
			errno = ETIMEDOUT;
			return -1;
		}
	}
}

static int wait_status(struct tracee *t, int *ret)
{
	bool plain = !t->deadline && (t->tid != t->pid || t->alone);

	while ((plain ? waitpid(t->tid, ret, __WALL) : wait_looking(t, ret)) < 0)
		if (errno != EINTR)
			return -errno;
	if (!WIFSTOPPED(*ret)) {
		t->seized = false;
		return -ESRCH;
	}
	return 0;
}

int tracee_wait_parked(struct tracee *t, struct error *e)
{
	t->stopping = false;
	for (;;) {
		int status, r = wait_status(t, &status);
		if (r == -ESRCH)
			return error_set(e, r, "task %d ended while it was being stopped", t->tid);
		if (r)
			return error_errno(e, r, "cannot wait for task %d", t->tid);
		if (status >> 16 == PTRACE_EVENT_STOP) {
			t->stop_signal = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
			return 0;
		}
		/* A signal on its way to the task: let it be delivered, the interrupt is still pending behind it. */
		ptrace(PTRACE_CONT, t->tid, 0, WSTOPSIG(status));
	}
}

int tracee_wait_stop(struct tracee *t, struct error *e)
{
	int r = tracee_wait_parked(t, e);

	if (r)
		return r;
	if (ptrace(PTRACE_GETREGS, t->tid, 0, &t->regs) < 0 || ptrace(PTRACE_GETSIGMASK, t->tid, 8, &t->sigmask) < 0)
		return error_errno(e, -errno, "cannot read the registers of task %d", t->tid);
	return 0;
}

#ifndef PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG 0x4210
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211
#endif
enum { DISPATCH_OFF = 0, DISPATCH_ON = 1, DISPATCH_INCLUSIVE = 2 };

int tracee_get_dispatch(struct tracee *t, struct syscall_dispatch *ret)
{
	struct syscall_dispatch d = {};

	*ret = d;
	if (ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, t->tid, sizeof(d), &d) < 0)
		return errno == EIO || errno == EINVAL ? DISPATCH_UNTOLD : -errno;
	/* The kernel keeps PR_SYS_DISPATCH_INCLUSIVE_ON (Linux 6.18) as the range around that range, which it would not take back. */
	if (d.mode == DISPATCH_ON && d.offset && d.offset + d.len <= d.offset)
		d = (struct syscall_dispatch){ DISPATCH_INCLUSIVE, d.selector, d.offset + d.len, -d.len };
	*ret = d;
	return 0;
}

int tracee_set_dispatch(struct tracee *t, const struct syscall_dispatch *dispatch)
{
	struct syscall_dispatch d = *dispatch;

	return ptrace(PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, t->tid, sizeof(d), &d) < 0 ? -errno : 0;
}

/*
 * Around every stay of the agent, as close as can be: when the coordinator dies in the moment between the two steps (this and
 * the registers), the thread's calls are no longer dispatched. Later its tail sets it again.
 */
static int put_dispatch_aside(struct tracee *t)
{
	static const struct syscall_dispatch off = { .mode = DISPATCH_OFF };
	int r = t->dispatch.mode && !t->dispatch_aside ? tracee_set_dispatch(t, &off) : 0;

	t->dispatch_aside |= !r && t->dispatch.mode;
	return r;
}

static int put_dispatch_back(struct tracee *t)
{
	int r = t->dispatch_aside ? tracee_set_dispatch(t, &t->dispatch) : 0;

	t->dispatch_aside = false;
	return r;
}

void tracee_detach(struct tracee *t)
{
	struct error ignored;

	if (t->seized && t->stopping) /* only one that stands still can be let go */
		tracee_wait_parked(t, &ignored);
	if (t->seized)
		put_dispatch_back(t);
	if (t->seized && t->stop_sent)
		kill(t->pid, SIGSTOP);
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

int tracee_pass_call(struct tracee *t)
{
	struct user_regs_struct regs;
	int r = run_to_syscall_exit(t, &regs);

	if (!r)
		r = tracee_interrupt(t);
	return !r && ptrace(PTRACE_CONT, t->tid, 0, 0) < 0 ? -errno : r;
}

static int go_to_call(struct tracee *t)
{
	return ptrace(PTRACE_SYSCALL, t->tid, 0, 0) < 0 ? -errno : 0;
}

/* Until the entry or the exit of a system call. */
static int wait_call(struct tracee *t)
{
	for (;;) {
		int status, r = wait_status(t, &status);
		if (r)
			return r;
		if (WSTOPSIG(status) == (SIGTRAP | 0x80))
			return 0;
		if ((r = go_to_call(t)))
			return r;
	}
}

int tracee_begin_call(struct tracee *t, struct user_regs_struct *regs)
{
	regs->orig_rax = (unsigned long long)-1;
	return ptrace(PTRACE_SETREGS, t->tid, 0, regs) < 0 ? -errno : go_to_call(t);
}

int tracee_interrupt_call(struct tracee *t)
{
	int r = wait_call(t);

	if (!r && ptrace(PTRACE_INTERRUPT, t->tid, 0, 0) < 0)
		r = -errno;
	return r ? r : go_to_call(t);
}

int tracee_end_call(struct tracee *t, struct user_regs_struct *regs)
{
	int r = wait_call(t);

	return r ? r : ptrace(PTRACE_GETREGS, t->tid, 0, regs) < 0 ? -errno : 0;
}

int tracee_call(struct tracee *t, struct user_regs_struct *regs)
{
	int r = tracee_begin_call(t, regs);

	if (!r)
		r = wait_call(t);
	if (!r)
		r = go_to_call(t);
	return r ? r : tracee_end_call(t, regs);
}

/* What stopped it on its way is nothing that the agent waits for: on. Of what comes from elsewhere only SIGSTOP has an effect. */
static int go_on(struct tracee *t, int status)
{
	t->stop_sent |= status >> 16 == 0 && WSTOPSIG(status) == SIGSTOP;
	return ptrace(PTRACE_CONT, t->tid, 0, 0) < 0 ? -errno : 0;
}

/* Waits for the stop by the signal that the snippet sends before `rip`. The same signal from elsewhere has no effect on the task. */
static int wait_at(struct tracee *t, uint64_t rip)
{
	struct user_regs_struct regs;

	for (;;) {
		int status, r = wait_status(t, &status);
		if (r)
			return r;
		if (status >> 16 == 0 && WSTOPSIG(status) == t->quiet_signal) {
			if (ptrace(PTRACE_GETREGS, t->tid, 0, &regs) < 0)
				return -errno;
			if (regs.rip == rip)
				return 0;
		}
		r = go_on(t, status);
		if (r)
			return r;
	}
}

/* Lets it run with these registers, and everything blocked but what stops it. Without such a signal it stays: it is led call by call. */
static int send_off(struct tracee *t, const struct user_regs_struct *regs)
{
	uint64_t mask = t->quiet_signal ? ~(1ULL << (t->quiet_signal - 1)) : ~0ULL;

	if (ptrace(PTRACE_SETREGS, t->tid, 0, regs) < 0 || (!t->mask_aside && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &mask) < 0))
		return -errno;
	t->mask_aside = true;
	return t->quiet_signal && ptrace(PTRACE_CONT, t->tid, 0, 0) < 0 ? -errno : 0;
}

/* It has what is its own again. */
static int call_back(struct tracee *t)
{
	if (ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask) < 0 || ptrace(PTRACE_SETREGS, t->tid, 0, &t->regs) < 0)
		return -errno;
	t->mask_aside = false;
	return put_dispatch_back(t);
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
	*seat = (struct agent_seat){ .leader = t, .area = hole, .area_size = agent_seat_size(threads), .code_size = code_size(threads),
				     .threads = threads, .snippet_address = slack, .mem_fd = mem_fd };
	snippet_build(&seat->snippet, slack, &t->regs, t->sigmask, &t->dispatch, hole, seat->area_size, seat->code_size,
		      &(struct snippet_signal){ t->pid, t->tid, t->quiet_signal });
	int r = read_mem(mem_fd, slack, seat->saved, SNIPPET_MAX);
	if (!r)
		r = write_mem(mem_fd, slack, seat->snippet.code, seat->snippet.size);
	if (r)
		return error_errno(e, r, "cannot place the agent in task %d", t->tid);

	struct user_regs_struct regs = t->regs;
	regs.rip = slack + 24;
	regs.orig_rax = (unsigned long long)-1;
	r = put_dispatch_aside(t);
	if (!r)
		r = send_off(t, &regs);
	if (r) {
		call_back(t);
		write_mem(mem_fd, slack, seat->saved, SNIPPET_MAX);
	}
	return r ? error_errno(e, r, "cannot start the agent in task %d", t->tid) : 0;
}

int agent_seat_taken(struct agent_seat *seat, struct error *e)
{
	struct tracee *t = seat->leader;
	struct user_regs_struct regs;
	struct agent_linger linger = { .threads = (uint32_t)seat->threads, .slot_size = AGENT_SLOT_SIZE,
				       .slots = data_of(seat) + AGENT_SEAT_DATA_SIZE };
	int r = 0;

	if (seat->snippet.after_head)
		r = wait_at(t, seat->snippet_address + seat->snippet.after_head);
	for (int i = 0; i < 2 && !r && !seat->snippet.after_head; i++) { /* both mappings */
		r = run_to_syscall_exit(t, &regs);
		if (!r && regs.rax != seat->area + (i ? seat->code_size : 0))
			r = (long)regs.rax < 0 ? (int)regs.rax : -ENOMEM;
	}
	if (!r)
		r = write_mem(seat->mem_fd, seat->area, agent_blob, agent_blob_size);
	if (!r)
		r = write_mem(seat->mem_fd, data_of(seat), &linger, sizeof(linger));
	if (r) {
		struct error ignored;
		if (!agent_seat_leave(seat, &ignored))
			agent_seat_left(seat, &ignored);
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
	size_t room;
	uint64_t at = agent_seat_place(seat, run->number, &room);
	int r = 0;

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
		snippet_build_thread(&own, tail, &t->regs, t->sigmask, &t->dispatch);
		regs.r15 = tail + own.tail;
		r = own.size > TAIL_SIZE ? -E2BIG : write_mem(seat->mem_fd, tail, own.code, own.size);
	}
	if (!r)
		r = write_mem(seat->mem_fd, at, run->batch, run->size);
	if (!r)
		r = put_dispatch_aside(t);
	if (!r)
		r = send_off(t, &regs);
	if (r && run->number) /* it has not run: as if it had never been asked */
		call_back(t);
	return r ? error_errno(e, r, "cannot start the agent in task %d", t->tid) : 0;
}

/* Up to the signal that the operation before number `count` sends; the batch is read back. One that comes from elsewhere has no effect on the task,
 * or it was not quiet. */
static int wait_for_signal(struct agent_run *run, uint64_t at, uint32_t count)
{
	struct tracee *t = run->tracee;

	for (;;) {
		int status, r = wait_status(t, &status);
		if (!r && status >> 16 == 0 && WSTOPSIG(status) == t->quiet_signal) {
			r = read_mem(run->seat->mem_fd, at, run->batch, run->size);
			if (!r && run->batch->done + 1 >= count)
				return 0;
		}
		if (!r)
			r = go_on(t, status);
		if (r)
			return r;
	}
}

/* Until `count` operations have ended, with `calls` more. */
static int run_until(struct agent_run *run, uint64_t at, uint32_t count, uint32_t calls)
{
	struct tracee *t = run->tracee;
	struct user_regs_struct regs;
	int r = 0;

	if (t->quiet_signal)
		return wait_for_signal(run, at, count);
	/* Every signal has an effect: count the calls instead. */
	for (; !r && run->passed < count + calls; run->passed++)
		r = run_to_syscall_exit(t, &regs);
	return r ? r : read_mem(run->seat->mem_fd, at, run->batch, run->size);
}

int agent_run_until(struct agent_run *run, uint32_t count, struct error *e)
{
	size_t room;
	uint64_t at = agent_seat_place(run->seat, run->number, &room);
	int r = run_until(run, at, count, 0);

	run->passed = count;
	return r ? error_errno(e, r, "the agent in task %d did not answer", run->tracee->tid) : 0;
}

int agent_run_finish(struct agent_run *run, struct error *e)
{
	struct tracee *t = run->tracee;
	size_t room;
	uint64_t at = agent_seat_place(run->seat, run->number, &room);
	uint32_t outside = 0;
	int r = run->passed && t->quiet_signal && ptrace(PTRACE_CONT, t->tid, 0, 0) < 0 ? -errno : 0;

	if (!r)
		r = run_until(run, at, run->batch->count, run->more_calls);
	/* In this order: from here on, when the coordinator dies, the thread has only a few instructions to go in the area. */
	if (!r && run->number)
		r = write_mem(run->seat->mem_fd, at + offsetof(struct agent_batch, inside), &outside, sizeof(outside));
	if (!r && run->number)
		r = call_back(t);
	return r ? error_errno(e, r, "the agent in task %d did not finish", t->tid) : 0;
}

int agent_seat_leave(struct agent_seat *seat, struct error *e)
{
	struct tracee *t = seat->leader;
	struct user_regs_struct regs = t->regs;

	regs.rip = seat->snippet_address + seat->snippet.tail;
	regs.orig_rax = (unsigned long long)-1;
	int r = send_off(t, &regs);
	return r ? error_errno(e, r, "cannot take the agent out of task %d", t->tid) : 0;
}

int agent_seat_left(struct agent_seat *seat, struct error *e)
{
	struct tracee *t = seat->leader;
	struct user_regs_struct regs;
	int r = seat->snippet.after_munmap ? wait_at(t, seat->snippet_address + seat->snippet.after_munmap) :
					     run_to_syscall_exit(t, &regs);

	if (!r)
		r = call_back(t);
	if (!r)
		r = write_mem(seat->mem_fd, seat->snippet_address, seat->saved, SNIPPET_MAX);
	return r ? error_errno(e, r, "cannot take the agent out of task %d", t->tid) : 0;
}

int agent_seat_adopt(struct agent_seat *seat, struct tracee *t, int mem_fd, uint64_t area, size_t size, uint64_t slack,
		     struct error *e)
{
	*seat = (struct agent_seat){ .leader = t, .area = area, .area_size = size, .snippet_address = slack, .mem_fd = mem_fd };
	snippet_build(&seat->snippet, slack, &t->regs, t->sigmask, &t->dispatch, area, size, size, &(struct snippet_signal){});
	int r = read_mem(mem_fd, slack, seat->saved, SNIPPET_MAX);
	if (!r)
		r = write_mem(mem_fd, slack, seat->snippet.code, seat->snippet.size);
	return r ? error_errno(e, r, "cannot place the agent in task %d", t->tid) : 0;
}
