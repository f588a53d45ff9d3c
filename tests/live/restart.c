/* Calls with a timeout that the kernel itself restarts after a stop never show EINTR to a program without handlers:
 * sleep, poll, a futex. */
#include "gate.h"
#include <poll.h>

enum { COUNT = 4 };
#define LENGTH 0.4
static pid_t tids[COUNT];
static double took[COUNT];

static void *body(void *argument)
{
	long number = (long)argument;
	double start = seconds_now(CLOCK_MONOTONIC);
	struct timespec length = {0, (long)(LENGTH * 1e9)};
	int word = 0;
	thread_here(&tids[number]);
	switch (number) {
	case 0: CHECK(syscall(SYS_nanosleep, &length, NULL) == 0); break;
	case 1: CHECK(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &length, &length) == 0); break;
	case 2: CHECK(poll(NULL, 0, (int)(LENGTH * 1000)) == 0); break;
	case 3: CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &length, NULL, 0) == -1 && errno == ETIMEDOUT); break;
	}
	took[number] = seconds_now(CLOCK_MONOTONIC) - start;
	return NULL;
}

int main(int argc, char **argv)
{
#ifdef SYS_poll
	static const long calls[COUNT] = {SYS_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex};
#else
	static const long calls[COUNT] = {SYS_nanosleep, SYS_clock_nanosleep, SYS_ppoll, SYS_futex};
#endif
	live_init(argc, argv);
	pthread_t threads[COUNT];
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], calls[i]);
	wait_go();
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	for (int i = 0; i < COUNT; i++) CHECK(took[i] > LENGTH - 0.001 && took[i] < 30);
	return finish();
}
