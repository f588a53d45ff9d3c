/* Timer descriptors: far from their end on several clocks, ticking, run out and not read, until a time, never set. Those set to a
 * time of day run out at that time, and count all of theirs. */
#include "live.h"
#include <stdint.h>
#include <sys/timerfd.h>
#include <time.h>

enum { REAL, MONOTONIC, BOOT, ABSOLUTE, TICKING, OVER, UNSET, DAY, CANCELLED, REAL_ALARM, BOOT_ALARM, LATER, LATER_BOOT, COUNT };
static struct timespec day; /* when DAY began to tick, with DAY_TICK */
enum { DAY_TICK = 5000000 };
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
		CLOCK_MONOTONIC, CLOCK_MONOTONIC, CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_REALTIME,
		CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_BOOTTIME};
	struct itimerspec far = {{77, 88}, {500, 0}}, often = {{0, 2000000}, {0, 1}}, soon = {{0, 0}, {0, 1}};
	struct itimerspec late = {.it_value.tv_sec = time(NULL) + 600};
	for (int i = 0; i < COUNT; i++) {
		fds[i] = timerfd_create(clocks[i], i % 2 ? TFD_NONBLOCK | TFD_CLOEXEC : TFD_NONBLOCK);
		CHECK(fds[i] >= 0);
	}
	for (int i = REAL; i <= BOOT; i++) CHECK(timerfd_settime(fds[i], 0, &far, NULL) == 0);
	CHECK(timerfd_settime(fds[ABSOLUTE], TFD_TIMER_ABSTIME, &late, NULL) == 0);
	CHECK(timerfd_settime(fds[TICKING], 0, &often, NULL) == 0 && timerfd_settime(fds[OVER], 0, &soon, NULL) == 0);
	CHECK(clock_gettime(CLOCK_REALTIME, &day) == 0);
	struct itimerspec ticking = {{0, DAY_TICK}, day};
	CHECK(timerfd_settime(fds[DAY], TFD_TIMER_ABSTIME, &ticking, NULL) == 0);
	late.it_value = (struct timespec){day.tv_sec + 600, 123};
	CHECK(timerfd_settime(fds[CANCELLED], TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &late, NULL) == 0);
	for (int i = REAL_ALARM; i <= BOOT_ALARM; i++) CHECK(timerfd_settime(fds[i], 0, &far, NULL) == 0);
	for (int i = LATER; i <= LATER_BOOT; i++) {
		CHECK(clock_gettime(clocks[i], &late.it_value) == 0);
		late.it_value.tv_sec += 400;
		CHECK(timerfd_settime(fds[i], TFD_TIMER_ABSTIME, &late, NULL) == 0);
	}
	usleep(20000);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct itimerspec now;
	struct timespec at;
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
	for (int i = REAL_ALARM; i <= BOOT_ALARM; i++) {
		CHECK(timerfd_gettime(fds[i], &now) == 0 && now.it_interval.tv_sec == 77 && now.it_interval.tv_nsec == 88);
		CHECK(now.it_value.tv_sec > 300 && now.it_value.tv_sec <= 500 && ticks(fds[i]) == 0);
	}
	for (int i = LATER; i <= LATER_BOOT; i++) {
		CHECK(timerfd_gettime(fds[i], &now) == 0 && now.it_interval.tv_sec == 0);
		CHECK(now.it_value.tv_sec > 300 && now.it_value.tv_sec <= 400 && ticks(fds[i]) == 0);
	}
	CHECK(timerfd_gettime(fds[ABSOLUTE], &now) == 0 && now.it_interval.tv_sec == 0 && ticks(fds[ABSOLUTE]) == 0);
	CHECK(now.it_value.tv_sec > 300 && now.it_value.tv_sec <= 600);
	CHECK(timerfd_gettime(fds[TICKING], &now) == 0 && now.it_interval.tv_nsec == 2000000 && ticks(fds[TICKING]) >= 10);
	usleep(100000);
	CHECK(ticks(fds[TICKING]) > 0);
	long count = ticks(fds[DAY]);
	CHECK(clock_gettime(CLOCK_REALTIME, &at) == 0);
	double over = ((at.tv_sec - day.tv_sec) * 1e9 + at.tv_nsec - day.tv_nsec) / DAY_TICK + 1;
	if (count > over || count < over - 5) {
		live_say("not ok: %ld ticks of a time of day, not %f", count, over);
		return 1;
	}
	CHECK(timerfd_gettime(fds[CANCELLED], &now) == 0 && clock_gettime(CLOCK_REALTIME, &at) == 0);
	double end = now.it_value.tv_sec + at.tv_sec - day.tv_sec + (now.it_value.tv_nsec + at.tv_nsec) / 1e9;
	CHECK(end > 599.9 && end < 600.1);
	char path[64], text[512] = "";
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fds[CANCELLED]);
	CHECK(slurp(path, text, sizeof text - 1) > 0 && strstr(text, "settime flags: 03"));
	CHECK(timerfd_gettime(fds[OVER], &now) == 0 && now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
	CHECK(ticks(fds[OVER]) == 1 && ticks(fds[OVER]) == 0 && ticks(fds[UNSET]) == 0);
	CHECK(timerfd_gettime(fds[UNSET], &now) == 0 && now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0);
	struct itimerspec soon = {{0, 0}, {0, 1}};
	for (int i = 0; i < COUNT; i++) CHECK(timerfd_settime(fds[i], 0, &soon, NULL) == 0);
	usleep(5000);
	for (int i = 0; i < COUNT; i++) CHECK(ticks(fds[i]) == 1);
	return finish();
}
