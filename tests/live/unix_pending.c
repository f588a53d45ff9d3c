/* Connections that the listener has not accepted yet: in their order, with what the clients have sent; two clients have
 * gone already. Packets of any size, one client that has ended sending, the credentials that some sent with. */
#include "data.h"
#include "unix.h"

static char large[10000], got[sizeof large + 1];

static void send_packets(int client)
{
	data_fill(large, sizeof large, 7);
	say(client, "first");
	CHECK(send(client, large, sizeof large, 0) == sizeof large && send(client, "", 0, 0) == 0 && shutdown(client, SHUT_WR) == 0);
}

static void check_packets(int listener)
{
	int server = accept(listener, NULL, NULL), one = 1;
	struct ucred peer;
	socklen_t length = sizeof peer;
	CHECK(server >= 0 && getsockopt(server, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid == getpid() && peer.uid == getuid());
	expect(server, "first");
	CHECK(setsockopt(server, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
	CHECK(recv(server, got, sizeof got, 0) == sizeof large && data_holds(got, sizeof large, 7) && recv(server, got, 1, 0) == 0);
	expect_end(server);
}

/* With whose credentials it was sent, which the listener wants to know. */
static void check_credentials(int listener)
{
	char control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec v = {got, sizeof got};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	int server = accept(listener, NULL, NULL);
	struct ucred from;
	CHECK(server >= 0 && recvmsg(server, &m, 0) == 5 && memcmp(got, "hello", 5) == 0 && m.msg_controllen);
	memcpy(&from, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof from);
	CHECK(from.pid == getpid() && from.uid == getuid() && from.gid == getgid());
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	enum { COUNT = 4 };
	int clients[COUNT], servers[COUNT], listener = unix_listening(SOCK_STREAM, "path", 8);
	for (int i = 0; i < COUNT; i++) {
		char text[] = "message 0";
		CHECK((clients[i] = unix_connected(SOCK_STREAM, "path")) >= 0);
		text[8] += i;
		if (i != 2) say(clients[i], text);
		if (i & 1) CHECK(close(clients[i]) == 0);
	}
	int packets = unix_listening(SOCK_SEQPACKET, "packets", 8), knows = unix_listening(SOCK_STREAM, "@knows", 8), one = 1;
	int half = unix_connected(SOCK_SEQPACKET, "packets"), gone = unix_connected(SOCK_SEQPACKET, "packets");
	send_packets(half);
	send_packets(gone);
	CHECK(close(gone) == 0 && setsockopt(knows, SOL_SOCKET, SO_PASSCRED, &one, sizeof one) == 0);
	int known = unix_connected(SOCK_STREAM, "@knows");
	CHECK(known >= 0);
	say(known, "hello");
	wait_go();
	check_packets(packets);
	check_packets(packets);
	check_credentials(knows);
	CHECK(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
	for (int i = 0; i < COUNT; i++) CHECK((servers[i] = accept(listener, NULL, NULL)) >= 0);
	CHECK(accept(listener, NULL, NULL) == -1 && errno == EAGAIN);
	for (int i = 0; i < COUNT; i++) {
		char text[] = "message 0";
		text[8] += i;
		if (i != 2) expect(servers[i], text);
		if (i & 1) {
			expect_end(servers[i]);
		} else {
			expect_nothing(servers[i]);
			CHECK(unix_is(clients[i], peer_name, "path"));
			say(servers[i], "welcome");
			expect(clients[i], "welcome");
		}
	}
	return finish();
}
