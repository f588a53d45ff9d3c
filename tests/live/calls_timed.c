/* Threads in calls with a time limit, some interrupted before by a stop: each goes on with the time that is left, and shows no EINTR. */
#include "gate.h"
#include "tree.h"
#include <poll.h>

enum { SLEEP, SLEEP_REST, CLOCK, CLOCK_REST, BOOT, POLL, FUTEX, FUTEX_UNTIL, COUNT };
#define LENGTH 3.4
#define BEFORE 1.6
static pid_t tids[COUNT];
static double ended[COUNT];
static int quiet[2];
static struct timespec rests[COUNT];

static void *body(void *argument)
{
	long number = (long)argument;
	const struct timespec length = {3, 400000000};
	struct pollfd polled = {.fd = quiet[0], .events = POLLIN};
	struct timespec until;
	int word = 7;
	CHECK(clock_gettime(CLOCK_MONOTONIC, &until) == 0);
	until.tv_sec += 3;
	if ((until.tv_nsec += 400000000) >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
	thread_here(&tids[number]);
	switch (number) {
	case SLEEP: CHECK(syscall(SYS_nanosleep, &length, NULL) == 0); break;
	case SLEEP_REST: CHECK(syscall(SYS_nanosleep, &length, &rests[number]) == 0); break;
	case CLOCK: CHECK(syscall(SYS_clock_nanosleep, CLOCK_REALTIME, 0, &length, NULL) == 0); break;
	case CLOCK_REST: CHECK(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &length, &rests[number]) == 0); break;
	case BOOT: CHECK(syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &length, NULL) == 0); break;
	case POLL: CHECK(syscall(SYS_poll, &polled, 1, (int)(LENGTH * 1000)) == 0 && !polled.revents); break;
	case FUTEX: CHECK(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &length, NULL, 0) == -1 && errno == ETIMEDOUT); break;
	case FUTEX_UNTIL:
		CHECK(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 7, &until, NULL, FUTEX_BITSET_MATCH_ANY) == -1 && errno == ETIMEDOUT);
		break;
	}
	CHECK(length.tv_sec == 3 && length.tv_nsec == 400000000);
	ended[number] = seconds_now(CLOCK_MONOTONIC);
	return NULL;
}

/* Stops us and lets us go on. */
static int stops(void *argument)
{
	pid_t parent = getppid();
	CHECK(kill(parent, SIGSTOP) == 0);
	usleep(50000);
	CHECK(kill(parent, SIGCONT) == 0);
	tree_there();
	return 0;
}

int main(int argc, char **argv)
{
	static const long calls[COUNT] = {SYS_nanosleep, SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_nanosleep, SYS_clock_nanosleep, SYS_poll, SYS_futex, SYS_futex};
	live_init(argc, argv);
	tree_init();
	pthread_t threads[COUNT];
	double start = seconds_now(CLOCK_MONOTONIC), now;
	CHECK(pipe(quiet) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], calls[i]);
	CHECK(tree_reap(tree_start(stops, NULL)) == 0);
	while ((now = seconds_now(CLOCK_MONOTONIC)) < start + BEFORE) usleep(10000);
	wait_go();
	double went = seconds_now(CLOCK_MONOTONIC);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	for (int i = 0; i < COUNT; i++) {
		/* Not before its time, not from the beginning again. */
		if (ended[i] < start + LENGTH - 0.002 || ended[i] > went + LENGTH - BEFORE + 1.4) {
			live_say("not ok: call %d ended %.3f s after its start, %.3f s after the restore", i, ended[i] - start, ended[i] - went);
			return 1;
		}
	}
	return finish();
}
