/* Helpers for live test programs that are trees of tasks. A child makes its state and calls tree_there(); its parent's
 * tree_start() returns then. After the go the parent lets each child go on with tree_finish(). */
#ifndef TREE_H
#define TREE_H
#include "live.h"
#include <sys/wait.h>

/* Before the first fork: SIGUSR2 is what a child says that it is there with. */
static inline void tree_init(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

static inline void tree_await(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	int sig;
	while ((sig = sigwaitinfo(&set, NULL)) < 0 && errno == EINTR) continue;
	CHECK(sig == SIGUSR2);
}

static inline void tree_there(void) { CHECK(kill(getppid(), SIGUSR2) == 0); }

/* A child whose exit status is what body returns; body calls tree_there() once. */
static inline pid_t tree_start(int (*body)(void *), void *argument)
{
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) _exit(body(argument));
	tree_await();
	return pid;
}

static inline int tree_reap(pid_t pid)
{
	int status = -1;
	CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
	return WEXITSTATUS(status);
}

static inline int tree_finish(pid_t pid)
{
	CHECK(kill(pid, SIGUSR1) == 0);
	return tree_reap(pid);
}

/* Says that it is there, waits for the go, and has the same ids after it. */
static inline void tree_park(void)
{
	pid_t pid = getpid(), ppid = getppid(), pgid = getpgrp(), sid = getsid(0);
	tree_there();
	wait_signal();
	CHECK(getpid() == pid && gettid() == pid && getppid() == ppid);
	CHECK(getpgrp() == pgid && getsid(0) == sid);
}
#endif
