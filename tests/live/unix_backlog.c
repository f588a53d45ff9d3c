/* Connections that the listener has not accepted yet, and through which nothing was sent: in their order. */
#include "unix.h"

int main(int argc, char **argv)
{
	live_init(argc, argv);
	enum { COUNT = 4 };
	int clients[COUNT], servers[COUNT], listener = unix_listening(SOCK_STREAM, "path", 8);
	for (int i = 0; i < COUNT; i++) CHECK((clients[i] = unix_connected(SOCK_STREAM, "path")) >= 0);
	wait_go();
	CHECK(fcntl(listener, F_SETFL, O_NONBLOCK) == 0);
	for (int i = 0; i < COUNT; i++) {
		char text[] = "message 0";
		text[8] += i;
		say(clients[i], text);
		CHECK((servers[i] = accept(listener, NULL, NULL)) >= 0);
		expect(servers[i], text);
	}
	CHECK(accept(listener, NULL, NULL) == -1 && errno == EAGAIN);
	for (int i = 0; i < COUNT; i++) {
		struct ucred peer;
		socklen_t length = sizeof peer;
		CHECK(getsockopt(servers[i], SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid == getpid());
		CHECK(unix_is(clients[i], peer_name, "path"));
		say(servers[i], "welcome");
		expect(clients[i], "welcome");
	}
	return finish();
}
