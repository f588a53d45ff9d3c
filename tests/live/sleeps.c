/* Threads asleep for a time or until a time, on several clocks: none wakes too early, none sleeps for ever. */
#include "gate.h"

enum { COUNT = 6 };
#define LENGTH 0.4
static const struct { clockid_t clock; int absolute; } kinds[COUNT] = {
	{CLOCK_REALTIME, 0}, {CLOCK_MONOTONIC, 0}, {CLOCK_BOOTTIME, 0},
	{CLOCK_REALTIME, TIMER_ABSTIME}, {CLOCK_MONOTONIC, TIMER_ABSTIME}, {CLOCK_TAI, TIMER_ABSTIME}};
static pid_t tids[COUNT];
static double took[COUNT];

static void *body(void *argument)
{
	long number = (long)argument;
	clockid_t clock = kinds[number].clock;
	double start = seconds_now(clock), end = start + LENGTH;
	struct timespec request = {0, (long)(LENGTH * 1e9)}, left;
	if (kinds[number].absolute) request = (struct timespec){(time_t)end, (long)((end - (time_t)end) * 1e9)};
	thread_here(&tids[number]);
	long result;
	/* With the rest given back, an interrupted sleep may be gone on with; one until a time is restarted. */
	while ((result = syscall(SYS_clock_nanosleep, clock, kinds[number].absolute, &request, &left)) != 0) {
		CHECK(errno == EINTR && !kinds[number].absolute);
		CHECK(left.tv_sec == 0 && left.tv_nsec <= request.tv_nsec);
		request = left;
	}
	took[number] = seconds_now(clock) - start;
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_clock_nanosleep);
	wait_go();
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	for (int i = 0; i < COUNT; i++) CHECK(took[i] > LENGTH - 0.001 && took[i] < 30);
	return finish();
}
