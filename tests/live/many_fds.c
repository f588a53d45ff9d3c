/* A thousand descriptors: files at positions of their own, duplicates, pipes, counters; also at far apart numbers. */
#include "data.h"
#include <sys/eventfd.h>
#include <sys/resource.h>

enum { FILES = 400, COPIES = 200, PIPES = 150, COUNTERS = 100, FAR = 3000 };
static int files[FILES], copies[COPIES], pipes[PIPES][2], counters[COUNTERS];

static void make(void)
{
	close(data_file("data", 4096, 1));
	for (int i = 0; i < FILES; i++) {
		CHECK((files[i] = open("data", i % 2 ? O_RDONLY : O_RDWR)) >= 0);
		if (i < COPIES) CHECK((copies[i] = fcntl(files[i], F_DUPFD, i % 10 ? 0 : FAR + i)) >= 0);
		CHECK(lseek(files[i], i * 7, SEEK_SET) == i * 7);
	}
	for (int i = 0; i < PIPES; i++) CHECK(pipe(pipes[i]) == 0 && write(pipes[i][1], &i, sizeof i) == sizeof i);
	for (int i = 0; i < COUNTERS; i++) CHECK((counters[i] = eventfd(i + 1, EFD_NONBLOCK)) >= 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct rlimit limit;
	CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	if (limit.rlim_cur < FAR + COPIES + 100) {
		limit.rlim_cur = FAR + COPIES + 100;
		if (limit.rlim_max < limit.rlim_cur) limit.rlim_max = limit.rlim_cur;
		CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	}
	make();
	wait_go();
	for (int i = 0; i < FILES; i++) {
		CHECK(lseek(files[i], 0, SEEK_CUR) == i * 7);
		CHECK((fcntl(files[i], F_GETFL) & O_ACCMODE) == (i % 2 ? O_RDONLY : O_RDWR));
	}
	for (int i = 0; i < COPIES; i++)
		CHECK(lseek(copies[i], i * 5, SEEK_SET) == i * 5 && lseek(files[i], 0, SEEK_CUR) == i * 5);
	for (int i = 0; i < PIPES; i++) {
		int got;
		CHECK(read(pipes[i][0], &got, sizeof got) == sizeof got && got == i);
	}
	for (int i = 0; i < COUNTERS; i++) {
		eventfd_t value;
		CHECK(eventfd_read(counters[i], &value) == 0 && value == (unsigned)i + 1);
	}
	return finish();
}
