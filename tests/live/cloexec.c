/* Close-on-exec of every second descriptor, over many kinds; checked by number, and by what an exec leaves open. */
#include "live.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

enum { KINDS = 11, FIRST = 300 };

static int open_kind(int kind)
{
	sigset_t set;
	int two[2];
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	switch (kind) {
	case 0: return open("data", O_RDWR | O_CREAT, 0600);
	case 1: return open(".", O_RDONLY | O_DIRECTORY);
	case 2: return open("data", O_PATH);
	case 3: return open("/dev/null", O_RDWR);
	case 4: return pipe(two) == 0 && close(two[1]) == 0 ? two[0] : -1;
	case 5: return socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0 && close(two[1]) == 0 ? two[0] : -1;
	case 6: return eventfd(0, 0);
	case 7: return epoll_create1(0);
	case 8: return timerfd_create(CLOCK_MONOTONIC, 0);
	case 9: return signalfd(-1, &set, 0);
	default: return memfd_create("live", 0);
	}
}

/* The same open file description under three numbers, of which the second one is closed by an exec. */
static void check_open(int executed)
{
	for (int i = 0; i < KINDS * 3; i++) {
		int flags = fcntl(FIRST + i, F_GETFD);
		if (i % 3 == 1) CHECK(executed ? flags == -1 && errno == EBADF : flags == FD_CLOEXEC);
		else CHECK(flags == 0);
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	if (argc > 2) {
		check_open(1);
		return finish();
	}
	for (int i = 0; i < KINDS; i++) {
		int fd = open_kind(i);
		CHECK(fd >= 0);
		for (int j = 0; j < 3; j++) CHECK(dup3(fd, FIRST + i * 3 + j, j == 1 ? O_CLOEXEC : 0) == FIRST + i * 3 + j);
		CHECK(close(fd) == 0);
	}
	wait_go();
	check_open(0);
	execv("/proc/self/exe", (char *[]){argv[0], argv[1], "executed", NULL});
	CHECK(0);
}
