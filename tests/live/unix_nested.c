/* Sockets on their way in sockets: a chain, each in the queue of the one before, which only the first is held of; and two that each hold
 * the other in a cycle, and themselves. */
#include "unix.h"

enum { DEPTH = 300 };

static void send_fd(int to, int fd, const char *text)
{
	char control[CMSG_SPACE(sizeof fd)] = "";
	struct iovec vector = {(char *)text, strlen(text)};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	CHECK(sendmsg(to, &message, 0) == (ssize_t)strlen(text));
}

static int receive_fd(int from, const char *text)
{
	char control[256], got[64];
	int fd;
	struct iovec vector = {got, sizeof got};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	CHECK(recvmsg(from, &message, MSG_DONTWAIT) == (ssize_t)strlen(text) && memcmp(got, text, strlen(text)) == 0);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	CHECK(header && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof fd));
	memcpy(&fd, CMSG_DATA(header), sizeof fd);
	return fd;
}

static void name_of(int i, char text[32]) { snprintf(text, 32, "link %d of the chain", i); }

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int first[2], last[2], a[2], b[2], self[2];
	char text[32];
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, first) == 0);
	last[0] = first[0];
	for (int i = 0; i < DEPTH; i++) {
		int next[2];
		name_of(i, text);
		CHECK(socketpair(AF_UNIX, i & 1 ? SOCK_SEQPACKET : SOCK_STREAM, 0, next) == 0);
		send_fd(last[0], next[1], text);
		if (i) CHECK(close(last[0]) == 0);
		CHECK(close(next[1]) == 0);
		last[0] = next[0];
	}
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, a) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, b) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, self) == 0);
	send_fd(a[0], b[1], "b in a");
	send_fd(b[0], a[1], "a in b");
	send_fd(self[0], self[1], "itself");
	wait_go();
	for (int i = 0, from = first[1]; i < DEPTH; i++) {
		name_of(i, text);
		int next = receive_fd(from, text);
		CHECK(close(from) == 0);
		from = next;
		if (i == DEPTH - 1) {
			say(last[0], "the end");
			expect(next, "the end");
			say(next, "and back");
			expect(last[0], "and back");
		}
	}
	int b1 = receive_fd(a[1], "b in a"), a1 = receive_fd(b[1], "a in b"), self1 = receive_fd(self[1], "itself");
	say(a[0], "through a");
	expect(a1, "through a");
	say(b[0], "through b");
	expect(b1, "through b");
	say(self[0], "through itself");
	expect(self1, "through itself");
	say(a1, "back");
	expect(a[0], "back");
	expect_nothing(a[1]);
	return finish();
}
