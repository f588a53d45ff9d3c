/* Descriptors that send signals: O_ASYNC, owners that are a task, a group and a thread, the signal of one's choice. */
#include "live.h"
#include <sys/socket.h>
#include <time.h>

enum { PLAIN, CHOSEN, GROUP, THREAD, QUIET, COUNT };
static int pairs[COUNT][2];

static int take(int sig, siginfo_t *info)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	return sigtimedwait(&set, info, &(struct timespec){0, 0}) == sig;
}

static void own(int number, int type, pid_t owner, int sig, int async)
{
	struct f_owner_ex to = {type, owner};
	int fd = pairs[number][0];
	CHECK(fcntl(fd, F_SETOWN_EX, &to) == 0 && fcntl(fd, F_SETSIG, sig) == 0);
	if (async) CHECK(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC) == 0);
}

static void owner_is(int number, int type, pid_t owner, int sig, int async)
{
	struct f_owner_ex now = {-1, -1};
	int fd = pairs[number][0];
	CHECK(fcntl(fd, F_GETOWN_EX, &now) == 0 && (int)now.type == type && now.pid == owner);
	CHECK(fcntl(fd, F_GETSIG) == sig && !(fcntl(fd, F_GETFL) & O_ASYNC) == !async);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGIO);
	for (int i = 0; i < COUNT; i++) sigaddset(&set, SIGRTMIN + i);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	/* Both as a pipe and as a socket. */
	for (int i = 0; i < COUNT; i++)
		CHECK((i % 2 ? socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) : pipe(pairs[i])) == 0);
	own(PLAIN, F_OWNER_PID, getpid(), 0, 1);
	own(CHOSEN, F_OWNER_PID, getpid(), SIGRTMIN + CHOSEN, 1);
	own(GROUP, F_OWNER_PGRP, getpgrp(), SIGRTMIN + GROUP, 1);
	own(THREAD, F_OWNER_TID, gettid(), SIGRTMIN + THREAD, 1);
	own(QUIET, F_OWNER_PID, getpid(), SIGRTMIN + QUIET, 0);
	wait_go();
	owner_is(PLAIN, F_OWNER_PID, getpid(), 0, 1);
	owner_is(CHOSEN, F_OWNER_PID, getpid(), SIGRTMIN + CHOSEN, 1);
	owner_is(GROUP, F_OWNER_PGRP, getpgrp(), SIGRTMIN + GROUP, 1);
	owner_is(THREAD, F_OWNER_TID, gettid(), SIGRTMIN + THREAD, 1);
	owner_is(QUIET, F_OWNER_PID, getpid(), SIGRTMIN + QUIET, 0);
	for (int i = 0; i < COUNT; i++) CHECK(write(pairs[i][1], "x", 1) == 1);
	CHECK(take(SIGIO, &info));
	for (int i = CHOSEN; i <= THREAD; i++)
		CHECK(take(SIGRTMIN + i, &info) && info.si_fd == pairs[i][0] && info.si_code == POLL_IN);
	CHECK(!take(SIGRTMIN + QUIET, &info));
	return finish();
}
