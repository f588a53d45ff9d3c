/* Helpers for live test programs with threads: a gate that they wait at, and waiting for a thread to be in a call. */
#ifndef GATE_H
#define GATE_H
#include "live.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

/* In a futex wait without end until gate_open(). */
static inline void gate_wait(int *gate)
{
	while (!__atomic_load_n(gate, __ATOMIC_ACQUIRE))
		if (syscall(SYS_futex, gate, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0) != 0)
			CHECK(errno == EAGAIN);
}

static inline void gate_open(int *gate)
{
	__atomic_store_n(gate, 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_futex, gate, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0) >= 0);
}

/* Until the thread has written its id to tid and sleeps in the system call. */
static inline void await_call(const pid_t *tid, long number)
{
	for (int i = 0; i < 5000; i++) {
		char path[64], text[128] = "";
		snprintf(path, sizeof path, "/proc/self/task/%d/syscall", __atomic_load_n(tid, __ATOMIC_ACQUIRE));
		if (slurp(path, text, sizeof text - 1) > 0 && *text >= '0' && *text <= '9' && strtol(text, NULL, 10) == number)
			return;
		usleep(1000);
	}
	live_say("not ok: thread %d is not in call %ld", *tid, number);
	_exit(1);
}

static inline void thread_here(pid_t *tid) { __atomic_store_n(tid, gettid(), __ATOMIC_RELEASE); }

static inline double seconds_now(clockid_t clock)
{
	struct timespec now;
	CHECK(clock_gettime(clock, &now) == 0);
	return now.tv_sec + now.tv_nsec / 1e9;
}
#endif
