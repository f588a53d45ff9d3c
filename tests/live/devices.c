/* The character devices that are the same for all: null, zero, full, random, urandom. */
#include "live.h"
#include <sys/stat.h>
#include <sys/sysmacros.h>

static const struct { const char *path; int flags, minor; } devices[] = {
	{"/dev/null", O_RDWR, 3}, {"/dev/zero", O_RDONLY, 5}, {"/dev/full", O_RDWR | O_CLOEXEC, 7},
	{"/dev/random", O_RDONLY | O_NONBLOCK, 8}, {"/dev/urandom", O_RDONLY, 9}, {"/dev/null", O_WRONLY | O_APPEND, 3}};
enum { COUNT = sizeof devices / sizeof *devices };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int fds[COUNT], before[COUNT];
	char got[64], none[64] = "";
	for (int i = 0; i < COUNT; i++) {
		CHECK((fds[i] = open(devices[i].path, devices[i].flags)) >= 0);
		before[i] = fcntl(fds[i], F_GETFL);
	}
	wait_go();
	for (int i = 0; i < COUNT; i++) {
		struct stat status;
		CHECK(fstat(fds[i], &status) == 0 && S_ISCHR(status.st_mode));
		CHECK(major(status.st_rdev) == 1 && (int)minor(status.st_rdev) == devices[i].minor);
		CHECK(fcntl(fds[i], F_GETFL) == before[i]);
		CHECK(fcntl(fds[i], F_GETFD) == (devices[i].flags & O_CLOEXEC ? FD_CLOEXEC : 0));
	}
	memset(got, 1, sizeof got);
	CHECK(read(fds[0], got, 1) == 0 && write(fds[0], got, 64) == 64);
	CHECK(read(fds[1], got, 64) == 64 && memcmp(got, none, 64) == 0);
	CHECK(write(fds[2], got, 1) == -1 && errno == ENOSPC);
	CHECK(read(fds[4], got, 64) == 64 && memcmp(got, none, 64) != 0);
	return finish();
}
