/* Listening TCP sockets, IPv4 and IPv6, with their options and backlog; one bound only; one fresh. */
#include "live.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static const struct { int level, option, value; } options[] = {
	{SOL_SOCKET, SO_REUSEADDR, 1}, {SOL_SOCKET, SO_REUSEPORT, 1}, {SOL_SOCKET, SO_KEEPALIVE, 1},
	{SOL_SOCKET, SO_SNDBUF, 60000}, {SOL_SOCKET, SO_RCVBUF, 70000}, {SOL_SOCKET, SO_PRIORITY, 2},
	{SOL_SOCKET, SO_MARK, 5}, {SOL_SOCKET, SO_OOBINLINE, 1}, {IPPROTO_TCP, TCP_NODELAY, 1},
	{IPPROTO_TCP, TCP_DEFER_ACCEPT, 3}, {IPPROTO_TCP, TCP_KEEPIDLE, 44}, {IPPROTO_TCP, TCP_KEEPINTVL, 33},
	{IPPROTO_TCP, TCP_KEEPCNT, 5}, {IPPROTO_TCP, TCP_MAXSEG, 1000}, {IPPROTO_TCP, TCP_USER_TIMEOUT, 9000},
	{IPPROTO_TCP, TCP_SYNCNT, 3}, {IPPROTO_IP, IP_FREEBIND, 1}, {IPPROTO_IP, IP_TOS, 0x10}, {IPPROTO_IP, IP_TTL, 55}};
enum { COUNT = sizeof options / sizeof *options };
static int before[COUNT], after[COUNT];
union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };

static void snapshot(int fd, int *to)
{
	for (int i = 0; i < COUNT; i++) {
		socklen_t length = sizeof(int);
		CHECK(getsockopt(fd, options[i].level, options[i].option, &to[i], &length) == 0);
	}
}

static int bound(const union address *address, socklen_t length, union address *to)
{
	int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(fd >= 0 && bind(fd, &address->any, length) == 0);
	memset(to, 0, sizeof *to);
	length = sizeof *to;
	CHECK(getsockname(fd, &to->any, &length) == 0);
	return fd;
}

static int backlog(int fd)
{
	struct tcp_info info;
	socklen_t length = sizeof info;
	CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_state == TCP_LISTEN);
	return info.tcpi_sacked;
}

static void check(int listener, const union address *address, int family)
{
	union address now;
	socklen_t length = sizeof now;
	char got[8];
	memset(&now, 0, sizeof now);
	CHECK(getsockname(listener, &now.any, &length) == 0 && memcmp(&now, address, sizeof now) == 0);
	int client = socket(family, SOCK_STREAM, 0), server;
	CHECK(client >= 0 && connect(client, &address->any, sizeof *address) == 0 && send(client, "ask", 3, 0) == 3);
	CHECK((server = accept(listener, NULL, NULL)) >= 0);
	CHECK(recv(server, got, 3, MSG_WAITALL) == 3 && send(server, "tell", 4, 0) == 4);
	CHECK(recv(client, got, 4, MSG_WAITALL) == 4 && close(client) == 0 && recv(server, got, 1, 0) == 0);
}

/* A listener on ::1; -1 on a machine without IPv6. */
static int listening6(union address *to)
{
	union address loopback = {.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
	int probe = socket(AF_INET6, SOCK_STREAM, 0);
	if (probe < 0) return -1;
	int usable = bind(probe, &loopback.any, sizeof loopback.v6) == 0;
	close(probe);
	if (!usable) return -1;
	int fd = bound(&loopback, sizeof loopback.v6, to);
	CHECK(listen(fd, 9) == 0);
	return fd;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	union address loopback = {.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
	union address four, six, other;
	int listener = bound(&loopback, sizeof loopback.v4, &four);
	int bound_only = bound(&loopback, sizeof loopback.v4, &other);
	int fresh = socket(AF_INET, SOCK_STREAM, 0), listener6 = listening6(&six), value;
	socklen_t length = sizeof value;
	for (int i = 0; i < COUNT; i++)
		CHECK(setsockopt(listener, options[i].level, options[i].option, &options[i].value, sizeof(int)) == 0);
	CHECK(listen(listener, 7) == 0);
	snapshot(listener, before);
	wait_go();
	snapshot(listener, after);
	for (int i = 0; i < COUNT; i++)
		if (before[i] != after[i]) {
			live_say("not ok: option %d.%d is %d, not %d", options[i].level, options[i].option, after[i], before[i]);
			return 1;
		}
	CHECK(backlog(listener) == 7 && fcntl(listener, F_GETFD) == FD_CLOEXEC);
	check(listener, &four, AF_INET);
	if (listener6 >= 0) CHECK(backlog(listener6) == 9);
	if (listener6 >= 0) check(listener6, &six, AF_INET6);
	CHECK(getsockopt(bound_only, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value == 0);
	CHECK(listen(bound_only, 1) == 0);
	check(bound_only, &other, AF_INET);
	CHECK(connect(fresh, &four.any, sizeof four.v4) == 0);
	return finish();
}
