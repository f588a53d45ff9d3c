/* Connections that the listener has not accepted yet, some of clients that have gone again without a word: in their order. */
#include "unix.h"

int main(int argc, char **argv)
{
	live_init(argc, argv);
	enum { COUNT = 6 };
	char name[64];
	snprintf(name, sizeof name, "@live-%d", getpid());
	int clients[COUNT], servers[COUNT], path = unix_listening(SOCK_STREAM, "path", 8), abstract = unix_listening(SOCK_SEQPACKET, name, 8);
	int other = unix_listening(SOCK_STREAM, "other", 8), with_data = unix_connected(SOCK_STREAM, "other"), accepted = accept(other, NULL, NULL);
	CHECK(with_data >= 0 && accepted >= 0);
	say(with_data, "accepted");
	for (int i = 0; i < COUNT; i++) {
		clients[i] = i & 2 ? unix_connected(SOCK_SEQPACKET, name) : unix_connected(SOCK_STREAM, "path");
		CHECK(clients[i] >= 0);
		if (i & 1) CHECK(close(clients[i]) == 0);
	}
	wait_go();
	CHECK(fcntl(path, F_SETFL, O_NONBLOCK) == 0 && fcntl(abstract, F_SETFL, O_NONBLOCK) == 0);
	for (int i = 0; i < COUNT; i++) {
		CHECK((servers[i] = accept(i & 2 ? abstract : path, NULL, NULL)) >= 0);
		if (i & 1) {
			expect_end(servers[i]);
		} else {
			say(clients[i], "hello");
			expect(servers[i], "hello");
			say(servers[i], "welcome");
			expect(clients[i], "welcome");
		}
	}
	CHECK(accept(path, NULL, NULL) == -1 && errno == EAGAIN && accept(abstract, NULL, NULL) == -1 && errno == EAGAIN);
	expect(accepted, "accepted");
	return finish();
}
