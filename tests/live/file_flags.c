/* Status flags of files, and descriptors at high and odd numbers. */
#include "data.h"

static const int flags[] = {O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_APPEND, O_RDWR | O_NONBLOCK, O_RDWR | O_SYNC,
	O_WRONLY | O_DSYNC, O_RDONLY | O_NOATIME, O_RDONLY | O_DIRECT, O_RDWR | O_APPEND | O_DSYNC | O_NONBLOCK};
enum { COUNT = sizeof flags / sizeof *flags };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int before[COUNT], opened = 0;
	data_file("data", 100, 1);
	for (int i = 0; i < COUNT; i++) {
		int fd = open("data", flags[i]), number = 20 + i * 37;
		/* Not every file system has O_DIRECT. */
		if (fd < 0 && flags[i] & O_DIRECT) fd = open("data", O_RDONLY);
		CHECK(fd >= 0 && dup2(fd, number) == number && close(fd) == 0);
		CHECK(lseek(number, i + 1, SEEK_SET) == i + 1);
		before[i] = fcntl(number, F_GETFL);
		opened++;
	}
	CHECK(opened == COUNT);
	wait_go();
	for (int i = 0; i < COUNT; i++) {
		CHECK(fcntl(20 + i * 37, F_GETFL) == before[i]);
		CHECK(lseek(20 + i * 37, 0, SEEK_CUR) == i + 1);
		CHECK(fcntl(21 + i * 37, F_GETFD) == -1 && errno == EBADF);
	}
	/* What is a property of opening only is not done again. */
	struct { char bytes[100]; } content;
	CHECK(slurp("data", content.bytes, 100) == 100 && data_holds(content.bytes, 100, 1));
	return finish();
}
