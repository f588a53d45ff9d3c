/* Sockets of Multipath TCP: fresh, bound and listening, with their options; they take connections of it, and plain ones. */
#include "tcp.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

static int option_of(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof value;
	CHECK(getsockopt(fd, level, name, &value, &size) == 0);
	return value;
}

static int bound(enum family family, union address *at)
{
	int fd = socket(family == FOUR ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);
	*at = loopback(family);
	CHECK(fd >= 0 && bind(fd, &at->any, sizeof *at) == 0);
	*at = name_of(fd, 0);
	return fd;
}

static void talk(int listener, const union address *at, int protocol)
{
	int client = socket(at->any.sa_family, SOCK_STREAM, protocol), server;
	char got[8];
	CHECK(client >= 0 && connect(client, &at->any, sizeof *at) == 0 && (server = accept(listener, NULL, NULL)) >= 0);
	CHECK(option_of(server, SOL_SOCKET, SO_PROTOCOL) == (protocol ? protocol : IPPROTO_TCP));
	CHECK(send(client, "ask", 3, 0) == 3 && recv(server, got, 3, MSG_WAITALL) == 3 && send(server, "tell", 4, 0) == 4 && recv(client, got, 4, MSG_WAITALL) == 4);
	CHECK(close(client) == 0 && recv(server, got, 1, 0) == 0 && close(server) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int fresh = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP), families = has_six() ? 2 : 1, listener[2], one = 1, idle = 44;
	if (fresh < 0) {
		live_say("skip: no Multipath TCP");
		return 0;
	}
	union address at[2], other;
	int only = bound(FOUR, &other);
	for (int i = 0; i < families; i++) {
		listener[i] = bound((enum family)i, &at[i]);
		CHECK(setsockopt(listener[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0 && setsockopt(listener[i], IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle) == 0);
		CHECK(setsockopt(listener[i], SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one) == 0 && listen(listener[i], 7) == 0);
	}
	wait_go();
	for (int i = 0; i < families; i++) {
		union address now = name_of(listener[i], 0);
		CHECK(memcmp(&now, &at[i], sizeof now) == 0 && option_of(listener[i], SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP);
		CHECK(state_of(listener[i]) == TCP_LISTEN && info_of(listener[i]).tcpi_sacked == 7);
		CHECK(option_of(listener[i], IPPROTO_TCP, TCP_NODELAY) == 1 && option_of(listener[i], IPPROTO_TCP, TCP_KEEPIDLE) == idle);
		CHECK(option_of(listener[i], SOL_SOCKET, SO_KEEPALIVE) == 1);
		talk(listener[i], &at[i], IPPROTO_MPTCP);
		talk(listener[i], &at[i], 0);
	}
	CHECK(option_of(only, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP && option_of(only, SOL_SOCKET, SO_ACCEPTCONN) == 0);
	CHECK(listen(only, 1) == 0);
	talk(only, &other, IPPROTO_MPTCP);
	CHECK(option_of(fresh, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP && connect(fresh, &at[0].any, sizeof at[0]) == 0);
	return finish();
}
