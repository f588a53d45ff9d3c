/* Threads that wait for a signal in pause, sigsuspend, sigtimedwait, sigwaitinfo and sigwait wait on. */
#include "gate.h"
#include <stdint.h>

enum { COUNT = 5 };
enum { PAUSE, SUSPEND, TIMED, INFO, WAIT };
static pid_t tids[COUNT];
static int done[COUNT];
static __thread volatile sig_atomic_t handled;

static int signal_of(int number) { return SIGRTMIN + 1 + number; }
static void on_signal(int sig) { handled = sig; }

static void *body(void *argument)
{
	int number = (int)(long)argument, sig = signal_of(number), got;
	sigset_t own, mask;
	siginfo_t info = {0};
	sigemptyset(&own);
	sigaddset(&own, sig);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
	if (number == PAUSE) CHECK(pthread_sigmask(SIG_UNBLOCK, &own, NULL) == 0);
	sigdelset(&mask, sig);
	thread_here(&tids[number]);
	switch (number) {
	case PAUSE: CHECK(pause() == -1 && errno == EINTR && handled == sig); break;
	case SUSPEND: CHECK(sigsuspend(&mask) == -1 && errno == EINTR && handled == sig); break;
	/* A stop ends this one with EINTR, signal(7): nothing tells what is left of its time. */
	case TIMED:
		while ((got = sigtimedwait(&own, &info, &(struct timespec){1000, 0})) < 0) CHECK(errno == EINTR);
		CHECK(got == sig && info.si_value.sival_int == number + 50);
		break;
	case INFO:
		CHECK(sigwaitinfo(&own, &info) == sig && info.si_value.sival_int == number + 50);
		break;
	case WAIT: CHECK(sigwait(&own, &got) == 0 && got == sig); break;
	}
	CHECK(handled == (number < TIMED ? sig : 0));
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0 && sigismember(&mask, sig) == (number != PAUSE));
	__atomic_store_n(&done[number], 1, __ATOMIC_RELEASE);
	return NULL;
}

static void wake(int number)
{
	/* Again and again: a signal may come between a thread's wake-up and its call, with no stop as with one. */
	for (int i = 0; i < 500 && !__atomic_load_n(&done[number], __ATOMIC_ACQUIRE); i++) {
		siginfo_t info = {.si_signo = signal_of(number), .si_code = SI_QUEUE};
		info.si_value.sival_int = number + 50;
		if (syscall(SYS_rt_tgsigqueueinfo, getpid(), tids[number], info.si_signo, &info) != 0) CHECK(errno == ESRCH);
		usleep(10000);
	}
	CHECK(__atomic_load_n(&done[number], __ATOMIC_ACQUIRE));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	sigset_t set;
	sigemptyset(&set);
	for (int i = 0; i < COUNT; i++) {
		struct sigaction action = {.sa_handler = on_signal};
		sigaddset(&set, signal_of(i));
		CHECK(sigaction(signal_of(i), &action, NULL) == 0);
	}
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
#ifdef SYS_pause
	await_call(&tids[PAUSE], SYS_pause);
#endif
	await_call(&tids[SUSPEND], SYS_rt_sigsuspend);
	for (int i = TIMED; i < COUNT; i++) await_call(&tids[i], SYS_rt_sigtimedwait);
	wait_go();
	for (int i = 0; i < COUNT; i++) CHECK(!__atomic_load_n(&done[i], __ATOMIC_ACQUIRE));
	for (int i = 0; i < COUNT; i++) wake(i);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
