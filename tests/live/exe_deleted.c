/* The program's own file has been deleted. */
#include "live.h"
#include <sys/stat.h>

static void copy(const char *from, const char *to)
{
	char buffer[65536];
	int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	ssize_t n;
	CHECK(in >= 0 && out >= 0);
	while ((n = read(in, buffer, sizeof buffer)) > 0) CHECK(write(out, buffer, n) == n);
	CHECK(n == 0 && close(in) == 0 && close(out) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char before[512] = "", after[512] = "";
	struct stat status;
	if (argc == 2) {
		copy("/proc/self/exe", "copy");
		execv("copy", (char *[]){"copy", argv[1], "again", NULL});
		CHECK(0);
	}
	CHECK(unlink("copy") == 0 && readlink("/proc/self/exe", before, sizeof before - 1) > 0);
	CHECK(strstr(before, "/copy (deleted)"));
	wait_go();
	CHECK(readlink("/proc/self/exe", after, sizeof after - 1) > 0 && strcmp(before, after) == 0);
	CHECK(stat("/proc/self/exe", &status) == 0 && status.st_nlink == 0 && (status.st_mode & 07777) == 0755);
	CHECK(access("copy", F_OK) == -1);
	return finish();
}
