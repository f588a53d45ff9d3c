/* Descriptors that signals are read from: masks, and signals that wait with their values. */
#include "live.h"
#include <sys/signalfd.h>

static sigset_t set_of(int first, int second)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, first);
	if (second) sigaddset(&set, second);
	return set;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	sigset_t all = set_of(SIGHUP, SIGRTMIN + 1), second = set_of(SIGRTMIN + 2, 0), third = set_of(SIGTERM, 0);
	struct signalfd_siginfo info;
	CHECK(sigprocmask(SIG_BLOCK, &all, NULL) == 0 && sigprocmask(SIG_BLOCK, &second, NULL) == 0);
	CHECK(sigprocmask(SIG_BLOCK, &third, NULL) == 0);
	int one = signalfd(-1, &all, SFD_NONBLOCK), two = signalfd(-1, &third, SFD_NONBLOCK | SFD_CLOEXEC);
	CHECK(one >= 0 && two >= 0 && signalfd(two, &second, 0) == two); /* has another mask by now */
	CHECK(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 5}) == 0);
	CHECK(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 6}) == 0 && kill(getpid(), SIGHUP) == 0);
	wait_go();
	CHECK(fcntl(two, F_GETFD) == FD_CLOEXEC && fcntl(one, F_GETFL) & O_NONBLOCK);
	for (int i = 5; i < 7; i++) {
		CHECK(read(two, &info, sizeof info) == sizeof info && info.ssi_signo == (unsigned)SIGRTMIN + 2);
		CHECK(info.ssi_int == i && info.ssi_code == SI_QUEUE && info.ssi_pid == (unsigned)getpid());
	}
	CHECK(read(one, &info, sizeof info) == sizeof info && info.ssi_signo == SIGHUP && info.ssi_code == SI_USER);
	CHECK(read(one, &info, sizeof info) == -1 && errno == EAGAIN);
	CHECK(kill(getpid(), SIGTERM) == 0 && read(two, &info, sizeof info) == -1 && errno == EAGAIN);
	CHECK(read(one, &info, sizeof info) == -1 && errno == EAGAIN);
	CHECK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 8}) == 0);
	CHECK(read(two, &info, sizeof info) == -1 && read(one, &info, sizeof info) == sizeof info && info.ssi_int == 8);
	return finish();
}
