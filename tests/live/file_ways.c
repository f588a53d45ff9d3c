/* Files opened in uncommon ways: past the page cache, for writing where there is no permission any more, as a path, by handle; in
 * /dev/shm. Their flags and positions are the same again. */
#include "data.h"
#include <sys/stat.h>

static int opened(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	return fd;
}

static int by_handle(const char *path, int flags)
{
	union { struct file_handle head; char bytes[sizeof(struct file_handle) + 128]; } handle;
	int mount, dir = opened(".", O_RDONLY | O_DIRECTORY);
	handle.head.handle_bytes = 128;
	CHECK(name_to_handle_at(AT_FDCWD, path, &handle.head, &mount, 0) == 0);
	int fd = open_by_handle_at(dir, &handle.head, flags);
	CHECK(fd >= 0 && close(dir) == 0);
	return fd;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static char page[4096] __attribute__((aligned(4096)));
	char name[64], target[64] = "", where[4096];
	struct stat one, other;
	CHECK(close(data_file("direct", 8192, 1)) == 0 && close(data_file("locked", 10, 2)) == 0 && close(data_file("handled", 100, 3)) == 0);
	CHECK(symlink("direct", "link") == 0 && getcwd(where, sizeof where));
	int direct = open("direct", O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC);
	if (direct < 0) direct = opened("direct", O_RDWR | O_SYNC);
	int flags = fcntl(direct, F_GETFL);
	int writing = opened("locked", O_WRONLY | O_APPEND | O_NOATIME), path = opened("link", O_PATH | O_NOFOLLOW);
	CHECK(fchmod(writing, 0444) == 0);
	int dir = opened(".", O_PATH | O_DIRECTORY), handled = by_handle("handled", O_RDONLY);
	snprintf(name, sizeof name, "/dev/shm/fermata-live-%d", getpid());
	int memory = opened(name, O_RDWR | O_CREAT | O_EXCL);
	CHECK(write(memory, "shared", 6) == 6 && lseek(direct, 4096, SEEK_SET) == 4096 && lseek(handled, 40, SEEK_SET) == 40);
	wait_go();
	CHECK(fcntl(direct, F_GETFL) == flags && lseek(direct, 0, SEEK_CUR) == 4096 && read(direct, page, 4096) == 4096);
	CHECK(fcntl(writing, F_GETFL) & O_APPEND && fcntl(writing, F_GETFL) & O_NOATIME && write(writing, "more", 4) == 4);
	CHECK(fstat(writing, &one) == 0 && one.st_size == 14 && (one.st_mode & 07777) == 0444);
	CHECK(fstat(path, &one) == 0 && S_ISLNK(one.st_mode) && readlinkat(path, "", target, sizeof target - 1) == 6);
	CHECK(!strcmp(target, "direct") && (fcntl(path, F_GETFL) & (O_PATH | O_NOFOLLOW)) == (O_PATH | O_NOFOLLOW));
	CHECK(fstatat(dir, "handled", &one, 0) == 0 && fstat(handled, &other) == 0 && one.st_ino == other.st_ino);
	CHECK(lseek(handled, 0, SEEK_CUR) == 40 && fcntl(handled, F_GETFD) == 0);
	CHECK(pread(memory, target, 6, 0) == 6 && !memcmp(target, "shared", 6) && unlink(name) == 0);
	return finish();
}
