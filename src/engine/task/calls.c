/*
 * See calls.h.
 *
 * What is left of the time stands in the thread's restart block, which is read in the kernel's own memory (kernel.h); of a sleep it is also where the
 * program wants it. Otherwise the whole time begins again. On restore the thread makes the call with what is left and is interrupted at once, so
 * that its own restart block says when the time is over; then it gets its own registers, and the kernel goes on from there.
 *
 * Calls that end with EINTR have no restart block. Those without a limit are made again; those with up to a second too, from the beginning. One that
 * waits for longer would never end under checkpoints that come more often than that, so it ends with EINTR, as it does after SIGSTOP and SIGCONT. What
 * is left of its time was on the kernel's stack, which the stop has unwound, and there is no way to hand it over but by what is the program's own: a
 * register that the call keeps, memory, an option of the socket.
 */
#include "engine/task/calls.h"

#include "base/log.h"
#include "engine/kernel.h"
#include "engine/task/inside.h"

#include <asm/unistd.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

#define SHORT_NS 1000000000LL
#define NS_PER_S 1000000000LL
#define RED_ZONE 128
#define IO_URING_EXT_ARG 8

/* ---- calls that end with EINTR ---- */

enum limit { NO_LIMIT, MILLISECONDS, TIMESPEC, URING_ARGUMENT, SOCKET };

/* signal(7), "Interruption of system calls and library functions by stop signals". */
static const struct {
	long nr;
	enum limit limit;
	size_t argument;
} broken[] = {
	{ __NR_epoll_wait, MILLISECONDS, 3 }, { __NR_epoll_pwait, MILLISECONDS, 3 },  { __NR_epoll_pwait2, TIMESPEC, 3 },
	{ __NR_semop, NO_LIMIT, 0 },	      { __NR_semtimedop, TIMESPEC, 3 },	      { __NR_rt_sigtimedwait, TIMESPEC, 2 },
	{ __NR_io_getevents, TIMESPEC, 4 },   { __NR_io_uring_enter, URING_ARGUMENT, 4 },
	{ __NR_read, SOCKET, 0 },	      { __NR_readv, SOCKET, 0 },	      { __NR_recvfrom, SOCKET, 0 },
	{ __NR_recvmsg, SOCKET, 0 },	      { __NR_accept, SOCKET, 0 },	      { __NR_accept4, SOCKET, 0 },
	{ __NR_write, SOCKET, 0 },	      { __NR_writev, SOCKET, 0 },	      { __NR_sendto, SOCKET, 0 },
	{ __NR_sendmsg, SOCKET, 0 },	      { __NR_connect, SOCKET, 0 },	      { __NR_recvmmsg, SOCKET, 0 },
	{ __NR_sendmmsg, SOCKET, 0 },
};

static unsigned long long argument(const struct user_regs_struct *regs, size_t i)
{
	return (const unsigned long long[]){ regs->rdi, regs->rsi, regs->rdx, regs->r10, regs->r8, regs->r9 }[i];
}

/* A socket that waits for no more than that, SO_RCVTIMEO and SO_SNDTIMEO. */
static bool is_short_socket(pid_t pid, int fd)
{
	struct timeval in = {}, out = {};
	socklen_t size = sizeof(in), out_size = sizeof(out);
	_cleanup_close_ int process = (int)syscall(__NR_pidfd_open, pid, 0);
	_cleanup_close_ int own = process < 0 ? -1 : (int)syscall(__NR_pidfd_getfd, process, fd, 0);

	if (own < 0 || getsockopt(own, SOL_SOCKET, SO_RCVTIMEO, &in, &size) < 0 || getsockopt(own, SOL_SOCKET, SO_SNDTIMEO, &out, &out_size) < 0)
		return false;
	return in.tv_sec + out.tv_sec + in.tv_usec + out.tv_usec > 0 && in.tv_sec * 1000000 + in.tv_usec <= SHORT_NS / 1000 &&
	       out.tv_sec * 1000000 + out.tv_usec <= SHORT_NS / 1000;
}

/* Whether what it waits for ends soon, or never. */
static bool may_begin_again(const struct tracee *t, enum limit limit, size_t at)
{
	uint64_t where = argument(&t->regs, at);
	struct timespec limit_of;

	if (limit == SOCKET)
		return is_short_socket(t->pid, (int)where);
	if (limit == MILLISECONDS)
		return (int)where < 0 || (int)where <= SHORT_NS / 1000000;
	if (limit == URING_ARGUMENT && t->regs.r10 & IO_URING_EXT_ARG && proc_peek(t->tid, where + 16, &where, sizeof(where)))
		return false;
	if (limit == NO_LIMIT || (limit == URING_ARGUMENT && !(t->regs.r10 & IO_URING_EXT_ARG)) || !where)
		return true;
	return !proc_peek(t->tid, where, &limit_of, sizeof(limit_of)) && (limit_of.tv_sec == 0 || (limit_of.tv_sec == 1 && !limit_of.tv_nsec));
}

void calls_mend(struct tracee *t)
{
	if ((long long)t->regs.rax != -EINTR || (long long)t->regs.orig_rax < 0 || t->stop_signal)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(broken); i++) {
		struct user_regs_struct regs = t->regs;
		if ((long)regs.orig_rax != broken[i].nr || !may_begin_again(t, broken[i].limit, broken[i].argument))
			continue;
		/* A signal that has a handler ends it with EINTR all the same: the kernel sees to that. */
		regs.rax = (unsigned long long)-ERESTARTNOHAND;
		if (ptrace(PTRACE_SETREGS, t->tid, 0, &regs) == 0)
			t->regs = regs;
	}
}

/* ---- what is left of its time ---- */

static int64_t now_ns(clockid_t clock)
{
	struct timespec now;

	return clock_gettime(clock, &now) < 0 ? INT64_MAX : now.tv_sec * NS_PER_S + now.tv_nsec;
}

/* A restart block, as far as it is needed. */
struct block {
	const struct kernel *k;
	char bytes[128];
};

static bool block_get(const struct block *b, const char *member, void *to, size_t size)
{
	const int at = kernel_offset(b->k, "restart_block", member);

	if (at < 0 || (size_t)at + size > sizeof(b->bytes))
		return false;
	memcpy(to, b->bytes + at, size);
	return true;
}

static bool left_of_poll(const struct block *b, const struct user_regs_struct *regs, int64_t *ret)
{
	uint64_t fds;
	int32_t count, limited;
	int64_t s, ns;

	if (!block_get(b, "poll.ufds", &fds, 8) || !block_get(b, "poll.nfds", &count, 4) || !block_get(b, "poll.has_timeout", &limited, 4))
		return false;
	if (!(block_get(b, "poll.tv_sec", &s, 8) && block_get(b, "poll.tv_nsec", &ns, 8)) &&
	    !(block_get(b, "poll.end_time.tv_sec", &s, 8) && block_get(b, "poll.end_time.tv_nsec", &ns, 8)))
		return false;
	if (fds != regs->rdi || count != (int32_t)regs->rsi || limited != 1 || (int)regs->rdx < 0)
		return false;
	*ret = s * NS_PER_S + ns - now_ns(CLOCK_MONOTONIC);
	return true;
}

static bool left_of_futex(const struct block *b, const struct user_regs_struct *regs, int64_t *ret)
{
	uint64_t word;
	uint32_t value;
	int64_t end;

	if (!block_get(b, "futex.uaddr", &word, 8) || !block_get(b, "futex.val", &value, 4) || !block_get(b, "futex.time", &end, 8))
		return false;
	const int op = (int)regs->rsi & FUTEX_CMD_MASK;
	if (word != regs->rdi || value != (uint32_t)regs->rdx || (op != FUTEX_WAIT && op != FUTEX_WAIT_BITSET))
		return false;
	*ret = end - now_ns(CLOCK_MONOTONIC);
	return true;
}

static bool left_of_sleep(const struct block *b, uint64_t rest, int64_t *ret)
{
	uint64_t at;
	int32_t clock;
	int64_t end;

	if (!block_get(b, "nanosleep.clockid", &clock, 4) || !block_get(b, "nanosleep.rmtp", &at, 8) || !block_get(b, "nanosleep.expires", &end, 8))
		return false;
	if (at != rest || (clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME && clock != CLOCK_TAI && clock != CLOCK_REALTIME))
		return false;
	*ret = end - now_ns(clock);
	return true;
}

/* Which call the block is of, and what is left. `nr`: the call, or restart_syscall where it was interrupted before. */
static bool read_block(struct dump *d, const struct thread *th, long *nr, int64_t *ret)
{
	const struct user_regs_struct *regs = &th->tracee.regs;
	struct block b = { .k = dump_kernel(d) };

	if (inside_thread(d, th, "restart_block", b.bytes, sizeof(b.bytes)))
		return false;
	const long asked = *nr;
	const struct {
		long nr;
		bool is;
	} tries[] = {
		{ __NR_poll, (asked == __NR_poll || asked == __NR_restart_syscall) && left_of_poll(&b, regs, ret) },
		{ __NR_futex, (asked == __NR_futex || asked == __NR_restart_syscall) && left_of_futex(&b, regs, ret) },
		{ __NR_clock_nanosleep, (asked == __NR_clock_nanosleep || (asked == __NR_restart_syscall && regs->rdi < 16)) && left_of_sleep(&b, regs->r10, ret) },
		{ __NR_nanosleep, (asked == __NR_nanosleep || (asked == __NR_restart_syscall && regs->rdi >= 16)) && left_of_sleep(&b, regs->rsi, ret) },
	};
	for (size_t i = 0; i < ARRAY_SIZE(tries); i++)
		if (tries[i].is) {
			*nr = tries[i].nr;
			return true;
		}
	return false;
}

/* A sleep that wants to know the rest was told. */
static bool read_rest(const struct thread *th, long nr, int64_t *ret)
{
	const struct user_regs_struct *regs = &th->tracee.regs;
	const uint64_t at = nr == __NR_nanosleep ? regs->rsi : nr == __NR_clock_nanosleep ? regs->r10 : 0;
	struct timespec rest;

	if (!at || pread(th->task->mem_fd, &rest, sizeof(rest), (off_t)at) != sizeof(rest) || rest.tv_sec < 0 || rest.tv_sec > INT32_MAX)
		return false;
	*ret = rest.tv_sec * NS_PER_S + rest.tv_nsec;
	return true;
}

/* Until a moment, which the call itself names. */
static bool is_absolute(long nr, const struct user_regs_struct *regs)
{
	return nr == __NR_futex && (regs->rsi & FUTEX_CMD_MASK) != FUTEX_WAIT;
}

int calls_capture(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core, struct user_regs_struct *regs)
{
	const long error = -(long)regs->rax;
	long nr = (long)regs->orig_rax;
	int64_t left = -1;

	if ((long long)regs->orig_rax < 0 ||
	    (error != ERESTARTSYS && error != ERESTARTNOINTR && error != ERESTARTNOHAND && error != ERESTART_RESTARTBLOCK))
		return 0;
	InterruptedCallEntry *c = POOL_NEW(pool, InterruptedCallEntry, interrupted_call_entry__init);
	if (!c)
		return error_set(d->e, -ENOMEM, "out of memory");
	const bool is_limited = error == ERESTART_RESTARTBLOCK && !is_absolute(nr, regs);
	const bool is_known = is_limited && (read_block(d, th, &nr, &left) || read_rest(th, nr, &left));
	if (is_limited && !is_known)
		log_info("What is left of the time of thread %d is not known (call %ld): it begins anew", th->tid, nr);
	c->has_left_ns = is_known && !is_absolute(nr, regs);
	c->left_ns = (uint64_t)MAX(left, 0);
	c->error = (uint32_t)(c->has_left_ns || error != ERESTART_RESTARTBLOCK ? error : ERESTARTNOHAND);
	c->nr = (uint32_t)nr;
	core->call = c;
	regs->rax = (unsigned long long)nr;
	regs->orig_rax = (unsigned long long)-1;
	regs->rip -= 2;
	return 0;
}

/* ---- restore ---- */

/* Where the time stands of a call that has some left. */
static unsigned long long *time_of(long nr, struct user_regs_struct *regs)
{
	switch (nr) {
	case __NR_nanosleep:
		return &regs->rdi;
	case __NR_clock_nanosleep:
	case __NR_poll:
		return &regs->rdx;
	case __NR_futex:
		return &regs->r10;
	default:
		return NULL;
	}
}

bool calls_are_valid(const CoreEntry *core)
{
	const InterruptedCallEntry *c = core->thread_core->call;
	struct user_regs_struct regs;

	if (!c)
		return true;
	if (core->thread_info->gpregs->ax != c->nr)
		return false;
	if (c->error == ERESTART_RESTARTBLOCK)
		return c->has_left_ns && c->left_ns < INT64_MAX && time_of((long)c->nr, &regs);
	return c->error == ERESTARTSYS || c->error == ERESTARTNOINTR || c->error == ERESTARTNOHAND;
}

/* A thread that makes its call with what is left, interrupted. */
struct again {
	struct rthread *th;
	const InterruptedCallEntry *call;
	struct user_regs_struct regs;
	struct timespec saved; /* from where the time is put, below its stack: memory that is nobody's */
	uint64_t at;	       /* 0: it is put nowhere */
	int r;
};

static void begin_call(struct again *a)
{
	struct tracee *t = &a->th->tracee;
	const InterruptedCallEntry *c = a->call;
	const uint64_t all = ~0ULL, at = (t->regs.rsp - RED_ZONE - 64) & ~15ULL;
	const struct timespec left = { (time_t)(c->left_ns / NS_PER_S), (long)(c->left_ns % NS_PER_S) };
	uint16_t code;

	a->regs = t->regs;
	a->r = proc_peek(t->tid, t->regs.rip, &code, sizeof(code));
	if (!a->r && code != 0x050f) /* syscall */
		a->r = -EINVAL;
	if (a->r)
		return;
	const bool in_memory = c->nr != __NR_poll;
	*time_of((long)c->nr, &a->regs) = in_memory ? at : MIN((c->left_ns + 999999) / 1000000, (uint64_t)INT32_MAX);
	if (in_memory && ((a->r = proc_peek(t->tid, at, &a->saved, sizeof(a->saved))) || (a->r = proc_poke(t->tid, at, &left, sizeof(left)))))
		return;
	a->at = in_memory ? at : 0;
	a->r = ptrace(PTRACE_SETSIGMASK, t->tid, 8, &all) < 0 ? -errno : tracee_begin_call(t, &a->regs);
}

static void note(struct user_regs_struct *regs, const InterruptedCallEntry *c, long long result)
{
	regs->rip += 2;
	regs->rax = (unsigned long long)result;
	regs->orig_rax = c->nr;
}

void calls_note(struct rthread *th)
{
	const InterruptedCallEntry *c = th->core->thread_core->call;

	if (c && c->error != ERESTART_RESTARTBLOCK)
		note(&th->tracee.regs, c, -(long long)c->error);
}

/* It has its own registers, with what its call has said among them. */
static int end_call(struct restore *s, struct again *a)
{
	struct tracee *t = &a->th->tracee;
	struct user_regs_struct regs = t->regs;

	if (!a->r)
		a->r = tracee_end_call(t, &a->regs);
	if (ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask) < 0 && !a->r)
		a->r = -errno;
	if (a->at && !a->r)
		a->r = proc_poke(t->tid, a->at, &a->saved, sizeof(a->saved));
	if (a->r == -ESRCH)
		return error_errno(s->e, a->r, "cannot bring thread %d back into its system call", a->th->tid);
	if (a->r)
		log_info("Thread %d begins its call anew: it can't be brought back into it (%s)", a->th->tid, strerror(-a->r));
	note(&regs, a->call, a->r ? -ERESTARTNOHAND : (long long)a->regs.rax);
	return ptrace(PTRACE_SETREGS, t->tid, 0, &regs) < 0 ? error_errno(s->e, -errno, "cannot set the registers of thread %d", a->th->tid) : 0;
}

/* Each step in all threads before it is waited for in any: one that is niced, on a machine that is busy, takes long to have its turn. */
int calls_give_back(struct restore *s)
{
	VEC(struct again) all = {};
	int r = 0;

	for (size_t i = 0; i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		for (size_t k = t->leader_gone; !t->dead && k < t->threads.count; k++) {
			const InterruptedCallEntry *c = t->threads.data[k].core->thread_core->call;
			struct again *a = c && c->error == ERESTART_RESTARTBLOCK ? VEC_PUSH(&all) : NULL;
			if (a)
				*a = (struct again){ .th = &t->threads.data[k], .call = c };
			else if (c && c->error == ERESTART_RESTARTBLOCK)
				r = error_set(s->e, -ENOMEM, "out of memory");
		}
	}
	if (!r)
		VEC_FOREACH(&all, a)
			begin_call(a);
	if (!r)
		VEC_FOREACH(&all, a)
			a->r = a->r ? a->r : tracee_interrupt_call(&a->th->tracee);
	VEC_FOREACH(&all, a)
		if (!r)
			r = end_call(s, a);
	VEC_FREE(&all);
	return r;
}
