/* A queue of inotify that has overflowed, from which some events were read since, and to which some came. */
#include "live.h"
#include <sys/inotify.h>

static int overflowed, overflow_watch;

static void make_overflow(void)
{
	char number[32] = "", read_now[100 * sizeof(struct inotify_event)];
	CHECK(slurp("/proc/sys/fs/inotify/max_queued_events", number, sizeof number - 1) > 0);
	CHECK((overflowed = inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) >= 0);
	CHECK((overflow_watch = inotify_add_watch(overflowed, "flood", IN_ACCESS | IN_MODIFY)) > 0);
	int fd = open("flood", O_RDWR);
	char byte = 0;
	for (long i = 0; i < atol(number) + 5; i++) CHECK((i % 2 ? pread(fd, &byte, 1, 0) : pwrite(fd, "x", 1, 0)) == 1);
	CHECK(read(overflowed, read_now, sizeof read_now) == sizeof read_now);
	CHECK(pwrite(fd, "x", 1, 0) == 1 && pread(fd, &byte, 1, 0) == 1 && close(fd) == 0);
}

static void check_overflow(void)
{
	char number[32] = "";
	struct inotify_event e;
	int fd;
	CHECK(slurp("/proc/sys/fs/inotify/max_queued_events", number, sizeof number - 1) > 0);
	for (long i = 100; i < atol(number); i++) {
		CHECK(read(overflowed, &e, sizeof e) == sizeof e && e.wd == overflow_watch);
		CHECK(e.mask == (i % 2 ? IN_ACCESS : IN_MODIFY));
	}
	CHECK(read(overflowed, &e, sizeof e) == sizeof e && e.wd == -1 && e.mask == IN_Q_OVERFLOW);
	CHECK(read(overflowed, &e, sizeof e) == sizeof e && e.wd == overflow_watch && e.mask == IN_MODIFY);
	CHECK(read(overflowed, &e, sizeof e) == sizeof e && e.wd == overflow_watch && e.mask == IN_ACCESS);
	CHECK(read(overflowed, &e, sizeof e) == -1 && errno == EAGAIN);
	CHECK((fd = open("flood", O_WRONLY)) >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
	CHECK(read(overflowed, &e, sizeof e) == sizeof e && e.wd == overflow_watch && e.mask == IN_MODIFY);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	CHECK(close(open("flood", O_RDWR | O_CREAT, 0600)) == 0);
	make_overflow();
	wait_go();
	check_overflow();
	return finish();
}
