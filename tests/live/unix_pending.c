/* Connections that the listener has not accepted yet: in their order, with what the clients have sent; two clients have
 * gone already. */
#include "unix.h"

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
	wait_go();
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
