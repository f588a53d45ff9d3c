/* Watches of files and directories under the numbers that they had, with gaps; they tell of what comes later. */
#include "live.h"
#include <sys/inotify.h>
#include <sys/stat.h>

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
}

static void expect(int fd, int watch, unsigned mask, const char *name)
{
	union { struct inotify_event event; char bytes[sizeof(struct inotify_event) + 256]; } got;
	/* The kernel pads names to 16 bytes: room for one event and no more. */
	size_t size = sizeof got.event + (*name ? (strlen(name) + 16) / 16 * 16 : 0);
	CHECK(read(fd, &got, size) == (ssize_t)size);
	CHECK(got.event.wd == watch && got.event.mask == mask);
	CHECK(*name ? got.event.len && strcmp(got.event.name, name) == 0 : got.event.len == 0);
}

static void expect_nothing(int fd)
{
	char got[512];
	CHECK(read(fd, got, sizeof got) == -1 && errno == EAGAIN);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	CHECK(mkdir("dir", 0755) == 0 && mkdir("other", 0755) == 0);
	touch("file");
	touch("moved");
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC), second = inotify_init1(IN_NONBLOCK);
	CHECK(fd >= 0 && second >= 0);
	int gap = inotify_add_watch(fd, "other", IN_CREATE), dir = inotify_add_watch(fd, "dir", IN_CREATE | IN_DELETE);
	int gap2 = inotify_add_watch(fd, "moved", IN_MODIFY), file = inotify_add_watch(fd, "file", IN_MODIFY);
	int once = inotify_add_watch(second, "other", IN_CREATE | IN_ONESHOT);
	int moved = inotify_add_watch(second, "moved", IN_MODIFY);
	CHECK(dir > gap && gap2 > dir && file > gap2 && moved > once);
	CHECK(inotify_rm_watch(fd, gap) == 0 && inotify_rm_watch(fd, gap2) == 0);
	CHECK(rename("moved", "moved away") == 0);
	expect(fd, gap, IN_IGNORED, "");
	expect(fd, gap2, IN_IGNORED, "");
	expect_nothing(fd);
	wait_go();
	CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(second, F_GETFD) == 0);
	expect_nothing(fd);
	expect_nothing(second);
	touch("file");
	expect(fd, file, IN_MODIFY, "");
	touch("dir/made");
	expect(fd, dir, IN_CREATE, "made");
	CHECK(unlink("dir/made") == 0);
	expect(fd, dir, IN_DELETE, "made");
	touch("other/first");
	touch("other/second");
	expect_nothing(fd);
	expect(second, once, IN_CREATE, "first");
	expect(second, once, IN_IGNORED, "");
	expect_nothing(second);
	touch("moved away");
	expect(second, moved, IN_MODIFY, "");
	CHECK(inotify_add_watch(fd, "dir", IN_DELETE) == dir && inotify_rm_watch(fd, gap) == -1 && errno == EINVAL);
	CHECK(inotify_rm_watch(fd, file) == 0);
	return finish();
}
