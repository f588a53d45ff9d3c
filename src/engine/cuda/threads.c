/*
 * Calls of the driver while its thread in the process runs and all others stand (CUDA Driver API: "restore thread"). Its signals are blocked
 * meanwhile: a handler of the program's would run with the program stopped around it.
 */
#include "engine/cuda/cuda.h"
#include "engine/tracee.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>

#define CALL_DEADLINE_MS 600000
#define STOP_DEADLINE_MS 5000

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int cuda_deadline(const struct request *request)
{
	return request->gpu_deadline_ms ? (int)MIN(request->gpu_deadline_ms, (uint32_t)INT32_MAX) : CALL_DEADLINE_MS;
}

uint64_t cuda_memory_available(void)
{
	_cleanup_free_ char *text = NULL;
	unsigned long long kib;
	const char *line;

	if (read_file_at(AT_FDCWD, "/proc/meminfo", 1 << 20, &text, NULL))
		return UINT64_MAX;
	line = strstr(text, "MemAvailable:");
	return line && sscanf(line, "MemAvailable: %llu", &kib) == 1 ? (uint64_t)kib << 10 : UINT64_MAX;
}

int cuda_thread_run(struct cuda_thread *t, struct error *e)
{
	uint64_t all = ~0ULL;

	t->sigmask = t->tracee->sigmask;
	if (ptrace(PTRACE_SETSIGMASK, t->tid, 8, &all) < 0 || ptrace(PTRACE_CONT, t->tid, 0, 0) < 0)
		return error_errno(e, -errno, "process %d: cannot let the GPU driver's thread %d run", t->pid, t->tid);
	t->runs = true;
	return 0;
}

/* One that hangs in the driver, in the kernel, does not even stop. */
static bool does_stop(pid_t tid)
{
	const int64_t end = now_ms() + STOP_DEADLINE_MS;
	siginfo_t info;
	sigset_t child;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	for (;;) {
		info.si_pid = 0;
		if (waitid(P_PID, (id_t)tid, &info, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL) < 0 || info.si_pid)
			return true;
		int64_t left = end - now_ms();
		struct timespec wait = { left / 1000, left % 1000 * 1000000 };
		if (left <= 0)
			return false;
		sigtimedwait(&child, NULL, &wait);
	}
}

int cuda_thread_stop(struct cuda_thread *t, struct error *e)
{
	int r = 0;

	if (!t->runs)
		return 0;
	t->runs = false;
	r = tracee_interrupt(t->tracee);
	if (!r && !does_stop(t->tid)) {
		t->tracee->seized = false; /* it is let go when we end */
		return error_set(e, -ETIMEDOUT, "process %d: the GPU driver's thread %d hangs in the kernel", t->pid, t->tid);
	}
	r = r ? error_errno(e, r, "process %d: cannot stop the GPU driver's thread %d", t->pid, t->tid) : tracee_wait_stop(t->tracee, e);
	t->tracee->sigmask = t->sigmask;
	if (!r && ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask) < 0)
		r = error_errno(e, -errno, "process %d: cannot set the signal mask of thread %d", t->pid, t->tid);
	return r;
}

/* What a running thread stops for: signals that the processor raises, which are its own affair. */
static int look_after(struct cuda_thread *t, struct error *e)
{
	int status;

	while (t->runs && waitpid(t->tid, &status, __WALL | WNOHANG) == t->tid) {
		if (!WIFSTOPPED(status)) {
			t->runs = t->tracee->seized = false;
			return error_set(e, -ESRCH, "process %d: the GPU driver's thread %d ended in the middle of it", t->pid, t->tid);
		}
		ptrace(PTRACE_CONT, t->tid, 0, status >> 16 ? 0 : WSTOPSIG(status));
	}
	return 0;
}

static bool all_done(const struct gpu_call *calls, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!calls[i].done)
			return false;
	return true;
}

static int wait_calls(struct gpu *g, struct gpu_call *calls, size_t n, struct cuda_thread *threads, size_t n_threads, int64_t end,
		      int changes, struct error *e)
{
	int r = 0;

	while (!r && !all_done(calls, n)) {
		struct pollfd fds[] = { { .fd = gpu_fd(g), .events = POLLIN }, { .fd = changes, .events = POLLIN } };
		struct signalfd_siginfo seen;
		int64_t left = end - now_ms();
		if (left <= 0)
			return error_set(e, -ETIMEDOUT, "the GPU's driver did not finish its %s in time", gpu_op_name(calls[0].op));
		if (poll(fds, 2, (int)MIN(left, INT32_MAX)) < 0 && errno != EINTR)
			return error_errno(e, -errno, "cannot wait for the GPU's driver");
		if (fds[1].revents && read(changes, &seen, sizeof(seen)) < 0 && errno != EAGAIN && errno != EINTR)
			return error_errno(e, -errno, "cannot wait for the GPU's driver");
		for (size_t i = 0; !r && i < n_threads; i++)
			r = look_after(&threads[i], e);
		if (!r)
			r = gpu_collect(g, e);
	}
	return r;
}

int cuda_call(struct gpu *g, struct gpu_call *calls, size_t n, struct cuda_thread *threads, size_t n_threads, int deadline_ms, struct error *e)
{
	_cleanup_close_ int changes = -1;
	sigset_t child;
	int r = 0;

	/* Blocked by tracing_begin. */
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	changes = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (changes < 0)
		return error_errno(e, -errno, "cannot wait for the GPU's driver");
	for (size_t i = 0; !r && i < n_threads; i++)
		if (!threads[i].runs)
			r = cuda_thread_run(&threads[i], e);
	if (!r)
		r = gpu_start(g, calls, n, e);
	if (!r)
		r = wait_calls(g, calls, n, threads, n_threads, now_ms() + deadline_ms, changes, e);
	return r;
}
