/* A signal mask and a queue of pending signals for each thread, and the queue that they share. */
#include "gate.h"
#include <stdint.h>

enum { COUNT = 3, QUEUED = 5, BASE = 100 };
#define OWN (SIGRTMIN + 1)
#define SHARED (SIGRTMIN + 2)
static int gate;
static pid_t tids[COUNT];

static void mask_of(long number, sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGUSR1);
	sigaddset(set, OWN);
	sigaddset(set, SHARED);
	sigaddset(set, SIGHUP);
	sigaddset(set, SIGTERM);
	if (number >= 0) sigaddset(set, SIGRTMIN + 5 + number);
	if (number == 1) sigaddset(set, SIGWINCH);
}

static int take(int sig, siginfo_t *info)
{
	uint64_t set = 1ULL << (sig - 1);
	/* The raw call: glibc's makes SI_USER of SI_TKILL. */
	return syscall(SYS_rt_sigtimedwait, &set, info, &(struct timespec){0, 0}, sizeof set) == sig;
}

static void check_mask(long number)
{
	sigset_t now, wanted;
	mask_of(number, &wanted);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
	for (int sig = 1; sig <= SIGRTMAX; sig++) CHECK(sigismember(&now, sig) == sigismember(&wanted, sig));
}

static void *body(void *argument)
{
	long number = (long)argument;
	sigset_t set;
	mask_of(number, &set);
	CHECK(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
	thread_here(&tids[number]);
	gate_wait(&gate);
	check_mask(number);
	CHECK(sigpending(&set) == 0);
	CHECK(sigismember(&set, OWN) && sigismember(&set, SHARED) && sigismember(&set, SIGTERM));
	CHECK(sigismember(&set, SIGHUP) == (number == 2));
	for (int sig = SIGRTMIN + 3; sig <= SIGRTMAX; sig++) CHECK(!sigismember(&set, sig));
	siginfo_t info;
	for (int i = 0; i < QUEUED; i++) {
		CHECK(take(OWN, &info) && info.si_code == SI_QUEUE && info.si_pid == getpid() && info.si_uid == 4321);
		CHECK(info.si_value.sival_int == BASE * number + i);
	}
	CHECK(!take(OWN, &info) && errno == EAGAIN);
	if (number == 2) CHECK(take(SIGHUP, &info) && info.si_code == SI_TKILL && info.si_pid == getpid());
	CHECK(!take(SIGHUP, &info));
	return NULL;
}

static void fill(void)
{
	for (int i = 0; i < COUNT; i++)
		for (int j = 0; j < QUEUED; j++) {
			siginfo_t info = {.si_signo = OWN, .si_code = SI_QUEUE};
			info.si_pid = getpid();
			info.si_uid = 4321;
			info.si_value.sival_int = BASE * i + j;
			CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), tids[i], OWN, &info) == 0);
		}
	CHECK(syscall(SYS_tgkill, getpid(), tids[2], SIGHUP) == 0);
	for (int i = 0; i < QUEUED; i++) CHECK(sigqueue(getpid(), SHARED, (union sigval){.sival_int = 900 + i}) == 0);
	CHECK(kill(getpid(), SIGTERM) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	sigset_t set;
	mask_of(-1, &set);
	CHECK(pthread_sigmask(SIG_SETMASK, &set, NULL) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	fill();
	wait_go();
	check_mask(-1);
	CHECK(sigpending(&set) == 0 && !sigismember(&set, OWN) && !sigismember(&set, SIGHUP));
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	siginfo_t info;
	for (int i = 0; i < QUEUED; i++) CHECK(take(SHARED, &info) && info.si_value.sival_int == 900 + i);
	CHECK(!take(SHARED, &info));
	CHECK(take(SIGTERM, &info) && info.si_code == SI_USER && info.si_pid == getpid());
	return finish();
}
