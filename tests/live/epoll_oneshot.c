/* Entries of epoll sets that have told of their event once (EPOLLONESHOT), of files that are ready for nothing any more: an empty pipe, one under a
 * number that has gone, a full pipe, a full stream, a FIFO. They stay silent until they are armed again; what they watch is as it was. */
#include "live.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { EMPTY, MOVED, FULL, STREAM, NAMED, COUNT };
static int set, other, pipes[4][2], stream[2], watched[COUNT], size, buffer, much[2];

static int value_of(int fd, int name)
{
	int value = -1;
	socklen_t length = sizeof value;
	CHECK(getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0);
	return value;
}

static int fill_up(int fd)
{
	char block[512];
	int n = 0;
	ssize_t wrote;
	memset(block, 'a', sizeof block);
	CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
	while ((wrote = write(fd, block, sizeof block)) > 0) n += wrote;
	CHECK(errno == EAGAIN && n > 0);
	return n;
}

static int drain(int fd)
{
	char block[512];
	int n = 0;
	ssize_t got;
	CHECK(fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
	while ((got = read(fd, block, sizeof block)) > 0) {
		for (ssize_t i = 0; i < got; i++) CHECK(block[i] == 'a');
		n += got;
	}
	CHECK(errno == EAGAIN);
	return n;
}

static unsigned ready_in(int epoll)
{
	struct epoll_event events[16];
	unsigned which = 0;
	int n = epoll_wait(epoll, events, 16, 0);
	CHECK(n >= 0);
	while (n--) which |= 1u << events[n].data.u32;
	return which;
}

static void change(int how, int which)
{
	struct epoll_event event = {.events = (which == FULL || which == STREAM ? EPOLLOUT : EPOLLIN) | EPOLLONESHOT, .data.u32 = which};
	CHECK(epoll_ctl(set, how, watched[which], &event) == 0);
}

static void entries(char *to, size_t room)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", set);
	ssize_t n = slurp(path, to, room - 1);
	CHECK(n > 0);
	to[n] = 0;
}

static void make(void)
{
	char got;
	for (int i = 0; i < 3; i++) CHECK(pipe(pipes[i]) == 0);
	CHECK(mkfifo("named", 0600) == 0 && (pipes[3][0] = open("named", O_RDONLY | O_NONBLOCK)) >= 0 && (pipes[3][1] = open("named", O_WRONLY)) >= 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0 && fcntl(pipes[FULL][1], F_SETPIPE_SZ, 8192) == 8192);
	CHECK((set = epoll_create1(0)) >= 0 && (other = epoll_create1(0)) >= 0);
	watched[EMPTY] = pipes[0][0];
	watched[MOVED] = 700;
	watched[FULL] = pipes[2][1];
	watched[STREAM] = stream[0];
	watched[NAMED] = pipes[3][0];
	CHECK(dup2(pipes[1][0], 700) == 700);
	for (int i = 0; i < COUNT; i++) change(EPOLL_CTL_ADD, i);
	CHECK(write(pipes[0][1], "x", 1) == 1 && write(pipes[1][1], "x", 1) == 1 && write(pipes[3][1], "x", 1) == 1);
	CHECK(ready_in(set) == (1u << COUNT) - 1 && ready_in(set) == 0);
	CHECK(read(pipes[0][0], &got, 1) == 1 && read(pipes[1][0], &got, 1) == 1 && read(pipes[3][0], &got, 1) == 1 && close(700) == 0);
	much[0] = fill_up(pipes[FULL][1]);
	much[1] = fill_up(stream[0]);
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = 9};
	CHECK(epoll_ctl(other, EPOLL_CTL_ADD, pipes[0][0], &event) == 0 && ready_in(other) == 0);
	size = fcntl(pipes[FULL][1], F_GETPIPE_SZ);
	buffer = value_of(stream[0], SO_SNDBUF);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static char before[2048], after[2048];
	make();
	entries(before, sizeof before);
	wait_go();
	entries(after, sizeof after);
	for (char *line = strtok(before, "\n"); line; line = strtok(NULL, "\n"))
		if (strstr(line, "tfd:")) {
			*strstr(line, " pos:") = 0; /* behind it is which file of the kernel's it is */
			CHECK(strstr(after, line));
		}
	struct pollfd p[3] = {{.fd = pipes[0][0], .events = POLLIN}, {.fd = pipes[1][0], .events = POLLIN}, {.fd = pipes[3][0], .events = POLLIN}};
	CHECK(poll(p, 3, 0) == 0 && ready_in(set) == 0 && ready_in(other) == 0);
	CHECK(fcntl(pipes[FULL][1], F_GETPIPE_SZ) == size && value_of(stream[0], SO_SNDBUF) == buffer && value_of(stream[0], 72) == 0);
	CHECK(write(pipes[FULL][1], "x", 1) == -1 && errno == EAGAIN); /* what the stream holds may take less room now */
	CHECK(drain(pipes[FULL][0]) == much[0] && drain(stream[1]) == much[1]);
	/* Ready now, and still silent. */
	for (int i = 0; i < 4; i++) CHECK(i == FULL || write(pipes[i][1], "x", 1) == 1);
	CHECK(ready_in(set) == 0 && ready_in(other) == 1u << 9);
	for (int i = 0; i < COUNT; i++)
		if (i != MOVED) change(EPOLL_CTL_MOD, i);
	CHECK(ready_in(set) == ((1u << COUNT) - 1 - (1u << MOVED)) && ready_in(set) == 0);
	CHECK(dup2(pipes[1][0], 700) == 700);
	change(EPOLL_CTL_MOD, MOVED);
	CHECK(ready_in(set) == 1u << MOVED && ready_in(set) == 0);
	return finish();
}
