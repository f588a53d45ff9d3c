/* Datagram sockets with names: several senders to one, whose messages wait with the senders' names. */
#include "unix.h"

static void expect_from(int fd, const char *text, const char *sender)
{
	struct sockaddr_un from, wanted;
	socklen_t length = sizeof from, wanted_length = *sender ? unix_name(&wanted, sender) : 0;
	char got[64];
	ssize_t n = recvfrom(fd, got, sizeof got, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
	CHECK(n == (ssize_t)strlen(text) && memcmp(got, text, n) == 0);
	CHECK(length == wanted_length && (!*sender || memcmp(&from, &wanted, length) == 0));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char name[64];
	struct sockaddr_un address;
	snprintf(name, sizeof name, "@live-%d", getpid());
	int server = unix_bound(SOCK_DGRAM, "server"), named = unix_bound(SOCK_DGRAM, "client");
	int abstract = unix_bound(SOCK_DGRAM, name), plain = unix_connected(SOCK_DGRAM, "server");
	socklen_t length = unix_name(&address, "server");
	CHECK(plain >= 0 && connect(named, (struct sockaddr *)&address, length) == 0);
	say(named, "one");
	CHECK(sendto(abstract, "two", 3, 0, (struct sockaddr *)&address, length) == 3);
	say(plain, "three");
	say(named, "four");
	wait_go();
	CHECK(unix_is(server, own_name, "server") && unix_is(named, own_name, "client"));
	CHECK(unix_is(abstract, own_name, name));
	CHECK(unix_is(plain, own_name, "") && unix_is(plain, peer_name, "server") && unix_is(named, peer_name, "server"));
	socklen_t any = sizeof address;
	CHECK(getpeername(abstract, (struct sockaddr *)&address, &any) == -1 && errno == ENOTCONN);
	expect_from(server, "one", "client");
	expect_from(server, "two", name);
	expect_from(server, "three", "");
	expect_from(server, "four", "client");
	expect_nothing(server);
	say(named, "five");
	expect_from(server, "five", "client");
	length = unix_name(&address, name);
	CHECK(sendto(server, "back", 4, 0, (struct sockaddr *)&address, length) == 4);
	expect_from(abstract, "back", "server");
	return finish();
}
