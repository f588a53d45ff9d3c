/* Watches of what was deleted and is still open, here or in a child, and of a directory that was; of what was moved. They tell of its end
 * when it comes. */
#include "tree.h"
#include <sys/inotify.h>
#include <sys/stat.h>

static void expect(int fd, int watch, unsigned mask)
{
	struct inotify_event got;
	ssize_t n;
	for (int i = 0; (n = read(fd, &got, sizeof got)) < 0 && errno == EAGAIN && i < 2000; i++) usleep(1000);
	if (n == sizeof got && got.wd == watch && got.mask == mask) return;
	live_say("not ok: read %zd: watch %d, mask %x; not %d, %x", n, got.wd, got.mask, watch, mask);
	_exit(1);
}

static void expect_nothing(int fd)
{
	char got[512];
	CHECK(read(fd, got, sizeof got) == -1 && errno == EAGAIN);
}

static int inner, outer;

static int child(void *argument)
{
	CHECK(close(outer) == 0);
	tree_park();
	CHECK(write(inner, "x", 1) == 1 && close(inner) == 0);
	return 5;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	unsigned all = IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF;
	CHECK(mkdir("dir", 0755) == 0 && mkdir("elsewhere", 0755) == 0);
	inner = open("inner", O_RDWR | O_CREAT, 0600);
	outer = open("outer", O_RDWR | O_CREAT, 0600);
	int dir = open("dir", O_RDONLY | O_DIRECTORY | O_CLOEXEC), moved = open("moved", O_RDWR | O_CREAT, 0600);
	CHECK(inner >= 0 && outer >= 0 && dir >= 0 && moved >= 0);
	pid_t pid = tree_start(child, NULL);
	int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	CHECK(fd >= 0 && close(inner) == 0);
	int inner_watch = inotify_add_watch(fd, "inner", all), outer_watch = inotify_add_watch(fd, "outer", all);
	int dir_watch = inotify_add_watch(fd, "dir", all), moved_watch = inotify_add_watch(fd, "moved", all);
	CHECK(unlink("inner") == 0 && unlink("outer") == 0 && rmdir("dir") == 0 && rename("moved", "elsewhere/moved") == 0);
	expect(fd, inner_watch, IN_ATTRIB);
	expect(fd, outer_watch, IN_ATTRIB);
	char rest[512];
	while (read(fd, rest, sizeof rest) > 0) continue; /* of the directory, and the move */
	wait_go();
	expect_nothing(fd);
	CHECK(write(outer, "x", 1) == 1 && write(moved, "x", 1) == 1);
	expect(fd, outer_watch, IN_MODIFY);
	expect(fd, moved_watch, IN_MODIFY);
	CHECK(fchmod(dir, 0700) == 0);
	expect(fd, dir_watch, IN_ATTRIB | IN_ISDIR);
	expect_nothing(fd);
	CHECK(tree_finish(pid) == 5);
	expect(fd, inner_watch, IN_MODIFY);
	expect(fd, inner_watch, IN_DELETE_SELF);
	expect(fd, inner_watch, IN_IGNORED);
	CHECK(close(outer) == 0);
	expect(fd, outer_watch, IN_DELETE_SELF);
	expect(fd, outer_watch, IN_IGNORED);
	CHECK(close(dir) == 0);
	expect(fd, dir_watch, IN_DELETE_SELF);
	expect(fd, dir_watch, IN_IGNORED);
	expect_nothing(fd);
	return finish();
}
