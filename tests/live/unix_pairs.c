/* Pairs of unix sockets of the three types with messages queued both ways: content, borders and order. */
#include "data.h"
#include <sys/ioctl.h>
#include <sys/socket.h>

static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
static const int sizes[] = {10, 20000, 1, 0, 300};
enum { TYPES = 3, COUNT = sizeof sizes / sizeof *sizes, MOST = 20000, STREAM = 10 + 20000 + 1 + 300 };
static char buffer[STREAM + 10];

static void fill(int fd, int seed)
{
	for (int i = 0; i < COUNT; i++) {
		data_fill(buffer, sizes[i], seed + i);
		CHECK(send(fd, buffer, sizes[i], 0) == sizes[i]);
	}
}

static void check(int fd, int stream, int seed)
{
	int length = 0;
	char *at = buffer;
	if (stream) {
		CHECK(ioctl(fd, FIONREAD, &length) == 0 && length == STREAM);
		CHECK(recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) == STREAM);
	}
	for (int i = 0; i < COUNT; i++) {
		if (!stream) CHECK(recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) == sizes[i]);
		CHECK(data_holds(at, sizes[i], seed + i));
		if (stream) at += sizes[i];
	}
	CHECK(recv(fd, buffer, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int pair[TYPES][2], type;
	socklen_t length = sizeof type;
	for (int i = 0; i < TYPES; i++) {
		CHECK(socketpair(AF_UNIX, types[i] | (i == 1 ? SOCK_NONBLOCK : 0) | SOCK_CLOEXEC, 0, pair[i]) == 0);
		fill(pair[i][0], 10 * i);
		fill(pair[i][1], 10 * i + 5);
	}
	CHECK(fcntl(pair[2][1], F_SETFD, 0) == 0);
	wait_go();
	for (int i = 0; i < TYPES; i++) {
		CHECK(getsockopt(pair[i][0], SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == types[i]);
		CHECK(fcntl(pair[i][0], F_GETFL) == (i == 1 ? O_RDWR | O_NONBLOCK : O_RDWR));
		CHECK(fcntl(pair[i][1], F_GETFD) == (i == 2 ? 0 : FD_CLOEXEC));
		check(pair[i][1], i == 0, 10 * i);
		check(pair[i][0], i == 0, 10 * i + 5);
		fill(pair[i][0], 50);
		check(pair[i][1], i == 0, 50);
		CHECK(close(pair[i][0]) == 0);
	}
	CHECK(recv(pair[0][1], buffer, 1, MSG_DONTWAIT) == 0 && recv(pair[2][1], buffer, 1, MSG_DONTWAIT) == 0);
	CHECK(send(pair[1][1], buffer, 1, MSG_NOSIGNAL) == -1 && errno == ECONNREFUSED);
	return finish();
}
