/* Options of unix sockets, as getsockopt shows them, and what they do. */
#include "unix.h"
#include <sys/time.h>

union value { int number; struct timeval time; struct linger linger; };
static const struct { int option; union value value; int size; } set[] = {
	{SO_SNDBUF, {30000}, 4}, {SO_RCVBUF, {40000}, 4}, {SO_PASSCRED, {1}, 4}, {SO_PRIORITY, {3}, 4}, {SO_MARK, {99}, 4},
	{SO_PEEK_OFF, {2}, 4}, {SO_RCVTIMEO, {.time = {7, 200000}}, sizeof(struct timeval)}, {SO_KEEPALIVE, {1}, 4},
	{SO_SNDTIMEO, {.time = {8, 0}}, sizeof(struct timeval)}, {SO_LINGER, {.linger = {1, 5}}, sizeof(struct linger)},
	{SO_TIMESTAMP, {1}, 4}, {SO_RCVLOWAT, {5}, 4}, {SO_BROADCAST, {1}, 4}, {SO_OOBINLINE, {1}, 4}};
enum { COUNT = sizeof set / sizeof *set };
static char before[3][COUNT][32], after[3][COUNT][32];

static void snapshot(int fd, char to[COUNT][32])
{
	for (int i = 0; i < COUNT; i++) {
		socklen_t length = 32;
		if (getsockopt(fd, SOL_SOCKET, set[i].option, to[i], &length) != 0) memset(to[i], 0xee, 32);
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int pair[2], dgram[2], done = 0;
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram) == 0);
	snapshot(pair[0], before[2]);
	for (int i = 0; i < COUNT; i++) {
		done += setsockopt(pair[0], SOL_SOCKET, set[i].option, &set[i].value, set[i].size) == 0;
		if (i < 4) CHECK(setsockopt(dgram[1], SOL_SOCKET, set[i].option, &set[i].value, set[i].size) == 0);
	}
	CHECK(done >= COUNT - 3); /* a kernel may know some of them not for these sockets */
	snapshot(pair[0], before[0]);
	snapshot(dgram[1], before[1]);
	CHECK(memcmp(before[0], before[2], sizeof before[0]) != 0);
	wait_go();
	snapshot(pair[0], after[0]);
	snapshot(dgram[1], after[1]);
	snapshot(pair[1], after[2]);
	for (int i = 0; i < 2 * COUNT; i++)
		if (memcmp(before[i / COUNT][i % COUNT], after[i / COUNT][i % COUNT], 32)) {
			live_say("not ok: option %d of socket %d differs", set[i % COUNT].option, i / COUNT);
			return 1;
		}
	CHECK(memcmp(after[2], before[2], sizeof after[2]) == 0); /* the peer has none of them */
	char control[256], got[16];
	struct iovec vector = {got, sizeof got};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof control};
	say(dgram[0], "with credentials");
	CHECK(recvmsg(dgram[1], &message, MSG_DONTWAIT) == 16 && message.msg_controllen > 0);
	CHECK(CMSG_FIRSTHDR(&message)->cmsg_type == SCM_CREDENTIALS);
	return finish();
}
