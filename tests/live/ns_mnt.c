/* A mount namespace of its own with file systems in memory: their content of every kind, what of it is open, mapped, deleted and watched, the current
 * directory; read-only mounts and file systems, bind mounts of files and directories, places with odd names, mounts that cover others. */
#include "mounts.h"
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <poll.h>

#define LONG "a-directory-with-a-name-that-is-long-enough-for-two-or-three-of-them-to-be-too-much-for-the-head-of-a-member"
#define FAR "mem/" LONG "/" LONG "/" LONG

static void make_content(void)
{
	struct timespec times[2] = { { 1000000000, 123456789 }, { 1100000000, 987654321 } };
	put("mem/plain", "a plain file", 04751);
	CHECK(chown("mem/plain", 1234, 2345) == 0 && chmod("mem/plain", 04751) == 0);
	CHECK(setxattr("mem/plain", "trusted.attribute", "value\0with zero", 15, 0) == 0);
	CHECK(link("mem/plain", "mem/linked") == 0 && symlink("plain", "mem/symlink") == 0 && symlink("/no/where", "mem/broken") == 0);
	CHECK(mkfifo("mem/fifo", 0640) == 0 && mknod("mem/null", S_IFCHR | 0666, makedev(1, 3)) == 0 && mknod("mem/block", S_IFBLK | 0600, makedev(7, 200)) == 0);
	CHECK(mkdir("mem/" LONG, 0700) == 0 && mkdir("mem/" LONG "/" LONG, 0711) == 0 && mkdir(FAR, 0755) == 0);
	put(FAR "/file", "far", 0600);
	CHECK(setxattr(FAR, "trusted.of-a-directory", "x", 1, 0) == 0);
	int fd = open("mem/holes", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && pwrite(fd, "in the middle", 13, 5000000) == 13 && pwrite(fd, "x", 1, 8192) == 1 && ftruncate(fd, 30000000) == 0 && close(fd) == 0);
	put("mem/with space\nand more", "odd", 0644);
	put("mem/empty", "", 0644);
	CHECK(mkdir("mem/under", 0755) == 0 && mkdir("mem/over", 0755) == 0);
	put("mem/under/hidden", "below", 0644);
	CHECK(utimensat(AT_FDCWD, "mem/plain", times, 0) == 0 && utimensat(AT_FDCWD, "mem/symlink", times, AT_SYMLINK_NOFOLLOW) == 0 &&
	      utimensat(AT_FDCWD, FAR, times, 0) == 0 && utimensat(AT_FDCWD, "mem", times, 0) == 0);
}

static void check_times(const char *path)
{
	struct stat st;
	CHECK(lstat(path, &st) == 0 && st.st_mtim.tv_sec == 1100000000 && st.st_mtim.tv_nsec == 987654321);
}

static void check_content(void)
{
	struct stat st, other;
	char text[64];
	check_times("mem/plain");
	check_times("mem/symlink");
	check_times(FAR);
	CHECK(stat("mem/plain", &st) == 0 && (st.st_mode & 07777) == 04751 && st.st_uid == 1234 && st.st_gid == 2345 && st.st_nlink == 2 && holds("mem/plain", "a plain file"));
	CHECK(getxattr("mem/plain", "trusted.attribute", text, sizeof text) == 15 && !memcmp(text, "value\0with zero", 15));
	CHECK(stat("mem/linked", &other) == 0 && other.st_ino == st.st_ino);
	CHECK(readlink("mem/symlink", text, sizeof text) == 5 && readlink("mem/broken", text, sizeof text) == 9);
	CHECK(lstat("mem/fifo", &st) == 0 && S_ISFIFO(st.st_mode) && (st.st_mode & 0777) == 0640);
	CHECK(lstat("mem/null", &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3));
	CHECK(lstat("mem/block", &st) == 0 && S_ISBLK(st.st_mode) && st.st_rdev == makedev(7, 200));
	CHECK(lstat("mem/lonely", &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 0777) == 0621);
	CHECK(holds(FAR "/file", "far") && getxattr(FAR, "trusted.of-a-directory", text, sizeof text) == 1);
	CHECK(stat("mem/" LONG "/" LONG, &st) == 0 && (st.st_mode & 0777) == 0711);
	CHECK(stat("mem/holes", &st) == 0 && st.st_size == 30000000 && st.st_blocks < 100);
	int fd = open("mem/holes", O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && pread(fd, text, 13, 5000000) == 13 && !memcmp(text, "in the middle", 13) && pread(fd, text, 1, 8192) == 1 && text[0] == 'x' && close(fd) == 0);
	CHECK(holds("mem/with space\nand more", "odd") && holds("mem/empty", ""));
}

static int bind_socket(const char *path, mode_t mode)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	strcpy(address.sun_path, path);
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 3) == 0 && chmod(path, mode) == 0);
	return fd;
}

static void check_socket(int listener)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "mem/served" };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
	CHECK(close(accept(listener, NULL, NULL)) == 0 && close(fd) == 0);
}

static void make_mounts(void)
{
	CHECK(mkdir("mem", 0755) == 0 && mkdir("small", 0755) == 0 && mkdir("odd place\\\t", 0755) == 0 && mkdir("again", 0755) == 0 && mkdir("part", 0755) == 0);
	put("one", "a file to mount on", 0644);
	CHECK(mount("some memory", "mem", "tmpfs", MS_NOSUID | MS_NODEV, "size=64m,nr_inodes=1000,mode=1755,uid=5,gid=6") == 0);
	make_content();
	CHECK(mount("small", "small", "tmpfs", 0, "size=1m") == 0);
	put("small/file", "in a file system that is read-only", 0644);
	CHECK(mount(NULL, "small", NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0);
	CHECK(mount("mem/plain", "one", NULL, MS_BIND, NULL) == 0);
	CHECK(mount("mem/" LONG, "part", NULL, MS_BIND, NULL) == 0 && mount(NULL, "part", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOEXEC | MS_NOATIME, NULL) == 0);
	CHECK(mount("odd \\ source", "odd place\\\t", "tmpfs", MS_NOEXEC | MS_NODIRATIME | MS_STRICTATIME, NULL) == 0);
	/* What lies below is reached by its descriptors alone. */
	CHECK(mount("lower", "again", "tmpfs", 0, "size=1m") == 0);
	put("again/lower", "covered", 0644);
}

int main(int argc, char **argv)
{
	static struct seen_mount before[MOUNTS_MANY];
	char text[64], events[4096];
	live_init(argc, argv);
	if (!mounts_begin()) return 0;
	make_mounts();
	int covered = open("again/lower", O_RDWR | O_CLOEXEC);
	CHECK(covered >= 0 && mount("upper", "again", "tmpfs", 0, "size=1m") == 0);
	put("again/upper", "on top", 0644);
	CHECK(mount("mem/over", "mem/under", NULL, MS_BIND, NULL) == 0 && mount(NULL, "mem/under", NULL, MS_UNBINDABLE, NULL) == 0);
	close(bind_socket("mem/lonely", 0621));
	int served = bind_socket("mem/served", 0666), open_file = open("mem/plain", O_RDWR | O_CLOEXEC), deleted = open("mem/deleted", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(open_file >= 0 && lseek(open_file, 8, SEEK_SET) == 8 && deleted >= 0 && write(deleted, "no name", 7) == 7 && unlink("mem/deleted") == 0);
	put("mem/mapped", "0123456789", 0600);
	int map = open("mem/mapped", O_RDWR | O_CLOEXEC), watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, map, 0), *private = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, map, 0);
	CHECK(shared != MAP_FAILED && private != MAP_FAILED && close(map) == 0);
	private[1] = 'P';
	CHECK(inotify_add_watch(watch, "mem/empty", IN_MODIFY) == 1);
	int dir = open("mem/" LONG, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dir >= 0);
	int n = mounts_read(before);
	check_content();
	check_times("mem/plain");
	wait_go();
	mounts_compare(before, n);
	check_content();
	check_socket(served);
	CHECK(read(open_file, text, 64) == 4 && !memcmp(text, "file", 4) && pread(deleted, text, 64, 0) == 7 && !memcmp(text, "no name", 7));
	CHECK(!memcmp(shared, "0123456789", 10) && !memcmp(private, "0P23456789", 10));
	shared[0] = 'S';
	CHECK(holds("mem/mapped", "S123456789"));
	CHECK(poll(&(struct pollfd){ watch, POLLIN, 0 }, 1, 0) == 0 && read(watch, events, sizeof events) == -1 && errno == EAGAIN);
	put("mem/empty", "modified", 0644);
	CHECK(read(watch, events, sizeof events) > 0 && ((struct inotify_event *)events)->wd == 1);
	CHECK(pread(covered, text, 64, 0) == 7 && !memcmp(text, "covered", 7) && holds("again/upper", "on top") && access("again/lower", F_OK));
	CHECK(umount("again") == 0 && holds("again/lower", "covered") && pwrite(covered, "C", 1, 0) == 1 && holds("again/lower", "Covered"));
	CHECK(holds("one", "a plain file") && holds("part/" LONG "/" LONG "/file", "far") && openat(dir, LONG "/" LONG "/file", O_RDONLY | O_CLOEXEC) >= 0);
	CHECK(open("part/new", O_WRONLY | O_CREAT, 0600) == -1 && errno == EROFS && open("small/new", O_WRONLY | O_CREAT, 0600) == -1 && errno == EROFS);
	CHECK(holds("small/file", "in a file system that is read-only") && access("mem/under/hidden", F_OK) == -1);
	CHECK(umount("mem/under") == 0 && holds("mem/under/hidden", "below"));
	return finish();
}
