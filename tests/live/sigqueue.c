/* Signals pending for the process: who sent them, their values and their order, also bytes of the sender's own. */
#include "live.h"
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

enum { COUNT = 20, KNOWN = 48 }; /* KNOWN: the bytes of siginfo_t that the kernel keeps */
#define FIRST (SIGRTMIN + 1)
#define SECOND (SIGRTMIN + 4)
#define RAW (SIGRTMIN + 6)
static pid_t child;

static int take(uint64_t set, siginfo_t *info)
{
	return syscall(SYS_rt_sigtimedwait, &set, info, &(struct timespec){0, 0}, sizeof set);
}
static uint64_t bit(int sig) { return 1ULL << (sig - 1); }

static void raw_info(siginfo_t *info)
{
	memset(info, 0, sizeof *info);
	for (int i = 16; i < KNOWN; i++) ((unsigned char *)info)[i] = i * 5 + 1;
	info->si_signo = RAW;
	info->si_code = -60;
	info->si_errno = 0;
}

static void fill(void)
{
	siginfo_t info;
	CHECK((child = fork()) >= 0);
	if (child == 0) _exit(3);
	CHECK(waitpid(child, NULL, 0) == child);
	CHECK(kill(getpid(), SIGTERM) == 0 && kill(getpid(), SIGTERM) == 0);
	for (int i = 0; i < COUNT; i++) {
		CHECK(sigqueue(getpid(), SECOND, (union sigval){.sival_ptr = (void *)(0x123456789000 + i)}) == 0);
		CHECK(sigqueue(getpid(), FIRST, (union sigval){.sival_int = i * i}) == 0);
	}
	raw_info(&info);
	CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), RAW, &info) == 0);
	CHECK(kill(getpid(), SIGINT) == 0 && raise(SIGWINCH) == 0);
}

static void check(void)
{
	siginfo_t info, wanted;
	CHECK(take(bit(SIGTERM), &info) == SIGTERM && info.si_code == SI_USER && info.si_pid == getpid());
	CHECK(info.si_uid == 1234 && take(bit(SIGTERM), &info) == -1 && errno == EAGAIN);
	CHECK(take(bit(SIGCHLD), &info) == SIGCHLD && info.si_code == CLD_EXITED && info.si_pid == child);
	CHECK(info.si_status == 3 && info.si_uid == 1234);
	CHECK(take(bit(SIGWINCH), &info) == SIGWINCH && info.si_code == SI_TKILL);
	for (int i = 0; i < COUNT; i++) {
		CHECK(take(bit(FIRST) | bit(SECOND), &info) == FIRST && info.si_code == SI_QUEUE);
		CHECK(info.si_value.sival_int == i * i && info.si_pid == getpid() && info.si_uid == 1234);
	}
	for (int i = 0; i < COUNT; i++) {
		CHECK(take(bit(FIRST) | bit(SECOND), &info) == SECOND);
		CHECK(info.si_value.sival_ptr == (void *)(0x123456789000 + i));
	}
	raw_info(&wanted);
	CHECK(take(bit(RAW), &info) == RAW && memcmp(&info, &wanted, KNOWN) == 0);
	CHECK(take(bit(SIGINT), &info) == SIGINT && info.si_code == SI_USER);
	CHECK(take(~0ULL, &info) == -1 && errno == EAGAIN);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	sigset_t set, pending;
	sigfillset(&set);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(syscall(SYS_setresuid, 1234, 0, 0) == 0); /* si_uid is the real one */
	fill();
	wait_go();
	CHECK(sigpending(&pending) == 0);
	for (int sig = 1; sig <= SIGRTMAX; sig++) {
		int wanted = sig == SIGTERM || sig == SIGCHLD || sig == SIGINT || sig == SIGWINCH || sig == FIRST ||
			sig == SECOND || sig == RAW;
		CHECK(sigismember(&pending, sig) <= 0 ? !wanted : wanted);
	}
	check();
	return finish();
}
