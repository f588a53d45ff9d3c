/* Open files of /proc and /sys, of the task itself and of no task. */
#include "live.h"

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got[4096] = "", name[64];
	snprintf(name, sizeof name, "/proc/%d/status", getpid());
	int self = open("/proc/self/comm", O_RDWR), number = open(name, O_RDONLY);
	int version = open("/proc/version", O_RDONLY);
	int dir = open("/proc/self/fd", O_RDONLY | O_DIRECTORY), sys = open("/sys/kernel/mm", O_RDONLY | O_DIRECTORY);
	CHECK(self >= 0 && number >= 0 && version >= 0 && dir >= 0 && sys >= 0);
	CHECK(read(version, got, 5) == 5 && memcmp(got, "Linux", 5) == 0);
	wait_go();
	CHECK(write(self, "renamed", 7) == 7 && slurp("/proc/self/comm", got, sizeof got) == 8);
	CHECK(memcmp(got, "renamed\n", 8) == 0);
	ssize_t n = pread(number, got, sizeof got - 1, 0);
	CHECK(n > 0);
	got[n] = 0;
	snprintf(name, sizeof name, "\nPid:\t%d\n", getpid());
	CHECK(strstr(got, "Name:\trenamed\n") && strstr(got, name));
	CHECK(lseek(version, 0, SEEK_CUR) == 5);
	snprintf(name, sizeof name, "%d", version);
	CHECK(faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0 && faccessat(sys, ".", F_OK, 0) == 0);
	return finish();
}
