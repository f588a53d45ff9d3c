/* fanotify groups: marks on files, directories and their children, a mount and a file system; events that are ignored; a file that was
 * deleted. They tell of what comes later, and of nothing else. */
#include "live.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/stat.h>

static int group, names, gone;

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	CHECK(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
}

static void look(const char *path)
{
	int fd = open(path, O_RDONLY);
	CHECK(fd >= 0 && close(fd) == 0);
}

/* All that waits: the masks of the events whose file is this one (NULL: any), joined. */
static unsigned long long told(int fd, const char *path)
{
	char got[8192] __attribute__((aligned(8)));
	struct stat one, other;
	unsigned long long masks = 0;
	ssize_t n = read(fd, got, sizeof got);
	CHECK(n > 0 || errno == EAGAIN);
	for (struct fanotify_event_metadata *e = (void *)got; FAN_EVENT_OK(e, n); e = FAN_EVENT_NEXT(e, n)) {
		CHECK(e->pid == getpid());
		if (path && e->fd >= 0) CHECK(fstat(e->fd, &one) == 0 && stat(path, &other) == 0 && one.st_ino == other.st_ino);
		if (e->fd >= 0) CHECK((fcntl(e->fd, F_GETFL) & O_ACCMODE) == O_RDONLY && close(e->fd) == 0);
		masks |= e->mask;
	}
	return masks;
}

static void add(int fd, unsigned flags, unsigned long long mask, const char *path)
{
	CHECK(fanotify_mark(fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, path) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	CHECK(mkdir("dir", 0755) == 0 && mkdir("mounted", 0755) == 0 && mkdir("whole", 0755) == 0 && mkdir("plain", 0755) == 0);
	touch("file");
	touch("quiet");
	touch("dir/inside");
	if (mount("none", "mounted", "tmpfs", 0, "size=1m") || mount("none", "whole", "tmpfs", 0, "size=1m")) {
		live_say("skip: nothing can be mounted here");
		return 0;
	}
	touch("mounted/file");
	touch("whole/file");
	if ((group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY)) < 0) {
		live_say("skip: no fanotify here");
		umount2("mounted", MNT_DETACH);
		umount2("whole", MNT_DETACH);
		return 0;
	}
	names = fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_NONBLOCK, 0);
	CHECK(names >= 0);
	gone = open("gone", O_RDWR | O_CREAT, 0600);
	add(group, 0, FAN_MODIFY | FAN_CLOSE_WRITE, "file");
	add(group, 0, FAN_OPEN | FAN_EVENT_ON_CHILD | FAN_ONDIR, "dir");
	add(group, 0, FAN_OPEN | FAN_MODIFY, "quiet");
	add(group, FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN, "quiet");
	add(group, 0, FAN_MODIFY, "gone");
	add(group, FAN_MARK_MOUNT, FAN_CLOSE_WRITE, "mounted");
	add(group, FAN_MARK_FILESYSTEM, FAN_OPEN, "whole");
	add(names, 0, FAN_CREATE | FAN_DELETE | FAN_ONDIR | FAN_EVENT_ON_CHILD, "plain");
	CHECK(unlink("gone") == 0 && told(group, NULL) == 0);
	wait_go();
	CHECK(fcntl(group, F_GETFD) == FD_CLOEXEC && fcntl(names, F_GETFD) == 0 && told(group, NULL) == 0 && told(names, NULL) == 0);
	touch("file");
	CHECK(told(group, "file") == (FAN_MODIFY | FAN_CLOSE_WRITE));
	look("file");
	CHECK(told(group, NULL) == 0);
	look("dir/inside");
	CHECK(told(group, "dir/inside") == FAN_OPEN);
	look("dir");
	CHECK(told(group, "dir") == FAN_OPEN);
	touch("quiet");
	CHECK(told(group, "quiet") == FAN_MODIFY);
	look("quiet");
	CHECK(told(group, NULL) == 0);
	touch("mounted/file");
	CHECK(told(group, "mounted/file") == FAN_CLOSE_WRITE);
	look("whole/file");
	CHECK(told(group, "whole/file") == FAN_OPEN);
	CHECK(write(gone, "x", 1) == 1 && told(group, NULL) == FAN_MODIFY);
	CHECK(mkdir("plain/new", 0700) == 0 && told(names, NULL) == (FAN_CREATE | FAN_ONDIR));
	CHECK(rmdir("plain/new") == 0 && told(names, NULL) == (FAN_DELETE | FAN_ONDIR));
	CHECK(fanotify_mark(group, FAN_MARK_REMOVE, FAN_MODIFY | FAN_CLOSE_WRITE, AT_FDCWD, "file") == 0);
	touch("file");
	CHECK(told(group, NULL) == 0);
	CHECK(umount2("mounted", MNT_DETACH) == 0 && umount2("whole", MNT_DETACH) == 0);
	return finish();
}
