/* Timer descriptors: far from their end on several clocks, ticking, run out and not read, until a time, never set. */
#include "live.h"
#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>

enum { REAL, MONOTONIC, BOOT, ABSOLUTE, TICKING, OVER, UNSET, COUNT };
static int fds[COUNT];

static int ticks(int fd)
{
	uint64_t count;
	ssize_t n = read(fd, &count, sizeof count);
	CHECK(n == sizeof count || errno == EAGAIN);
	return n < 0 ? 0 : (int)count;
}

static void make(void)
{
	static const clockid_t clocks[COUNT] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_REALTIME,
		CLOCK_MONOTONIC, CLOCK_MONOTONIC, CLOCK_MONOTONIC};
	struct itimerspec far = {{77, 88}, {500, 0}}, often = {{0, 2000000}, {0, 1}}, soon = {{0, 0}, {0, 1}};
	struct itimerspec late = {.it_value.tv_sec = time(NULL) + 600};
	for (int i = 0; i < COUNT; i++) {
		fds[i] = timerfd_create(clocks[i], i % 2 ? TFD_NONBLOCK | TFD_CLOEXEC : TFD_NONBLOCK);
		CHECK(fds[i] >= 0);
	}
	for (int i = REAL; i <= BOOT; i++) CHECK(timerfd_settime(fds[i], 0, &far, NULL) == 0);
	CHECK(timerfd_settime(fds[ABSOLUTE], TFD_TIMER_ABSTIME, &late, NULL) == 0);
	CHECK(timerfd_settime(fds[TICKING], 0, &often, NULL) == 0 && timerfd_settime(fds[OVER], 0, &soon, NULL) == 0);
	usleep(20000);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct itimerspec now;
	make();
	wait_go();
	for (int i = 0; i < COUNT; i++) {
		CHECK(fcntl(fds[i], F_GETFD) == (i % 2 ? FD_CLOEXEC : 0));
		CHECK(fcntl(fds[i], F_GETFL) & O_NONBLOCK);
	}
	for (int i = REAL; i <= BOOT; i++) {
		CHECK(timerfd_gettime(fds[i], &now) == 0 && now.it_interval.tv_sec == 77 && now.it_interval.tv_nsec == 88);
		CHECK(now.it_value.tv_sec > 300 && now.it_value.tv_sec <= 500 && ticks(fds[i]) == 0);
	}
	CHECK(timerfd_gettime(fds[ABSOLUTE], &now) == 0 && now.it_interval.tv_sec == 0 && ticks(fds[ABSOLUTE]) == 0);
	CHECK(now.it_value.tv_sec > 300 && now.it_value.tv_sec <= 600);
	CHECK(timerfd_gettime(fds[TICKING], &now) == 0 && now.it_interval.tv_nsec == 2000000 && ticks(fds[TICKING]) >= 10);
	usleep(10000);
	CHECK(ticks(fds[TICKING]) > 0);
	CHECK(timerfd_gettime(fds[OVER], &now) == 0 && now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
	CHECK(ticks(fds[OVER]) == 1 && ticks(fds[OVER]) == 0 && ticks(fds[UNSET]) == 0);
	CHECK(timerfd_gettime(fds[UNSET], &now) == 0 && now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
	struct itimerspec soon = {{0, 0}, {0, 1}};
	for (int i = 0; i < COUNT; i++) CHECK(timerfd_settime(fds[i], 0, &soon, NULL) == 0);
	usleep(5000);
	for (int i = 0; i < COUNT; i++) CHECK(ticks(fds[i]) == 1);
	return finish();
}
