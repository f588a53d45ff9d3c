/* A directory read half-way: the rest comes, once, and from the start again after a rewind. */
#include "live.h"
#include <sys/stat.h>
#include <sys/syscall.h>

enum { COUNT = 40 };
struct entry { unsigned long long ino; long long off; unsigned short length; unsigned char type; char name[]; };

/* Marks what one small read of the directory gives; how many entries it gave. */
static int read_some(int fd, int *seen)
{
	char buffer[128] __attribute__((aligned(8)));
	int count = 0;
	long n = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
	CHECK(n >= 0);
	for (long at = 0; at < n; count++) {
		struct entry *entry = (struct entry *)(buffer + at);
		if (*entry->name != '.') seen[atoi(entry->name)]++;
		at += entry->length;
	}
	return count;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int seen[COUNT] = {0}, again[COUNT] = {0};
	CHECK(mkdir("dir", 0755) == 0);
	for (int i = 0; i < COUNT; i++) {
		char name[32];
		snprintf(name, sizeof name, "dir/%d", i);
		CHECK(close(open(name, O_WRONLY | O_CREAT, 0600)) == 0);
	}
	int fd = open("dir", O_RDONLY | O_DIRECTORY | O_CLOEXEC), fresh = open("dir", O_RDONLY | O_DIRECTORY);
	CHECK(fd >= 0 && fresh >= 0);
	for (int i = 0; i < 5; i++) CHECK(read_some(fd, seen) > 0);
	off_t position = lseek(fd, 0, SEEK_CUR);
	wait_go();
	CHECK(lseek(fd, 0, SEEK_CUR) == position && lseek(fresh, 0, SEEK_CUR) == 0);
	CHECK(fcntl(fd, F_GETFL) & O_DIRECTORY && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	while (read_some(fd, seen)) continue;
	while (read_some(fresh, again)) continue;
	for (int i = 0; i < COUNT; i++) CHECK(seen[i] == 1 && again[i] == 1);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	while (read_some(fd, seen)) continue;
	for (int i = 0; i < COUNT; i++) CHECK(seen[i] == 2);
	return finish();
}
