/* UDP sockets: bound, connected, both, IPv4 and IPv6, with options. */
#include "live.h"
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

static const struct { int level, option, value; } options[] = {
	{SOL_SOCKET, SO_REUSEADDR, 1}, {SOL_SOCKET, SO_BROADCAST, 1}, {SOL_SOCKET, SO_SNDBUF, 60000},
	{SOL_SOCKET, SO_RCVBUF, 70000}, {SOL_SOCKET, SO_PRIORITY, 2}, {SOL_SOCKET, SO_MARK, 5},
	{SOL_SOCKET, SO_TIMESTAMP, 1}, {IPPROTO_IP, IP_TOS, 0x10}, {IPPROTO_IP, IP_TTL, 55}, {IPPROTO_IP, IP_PKTINFO, 1},
	{IPPROTO_IP, IP_RECVTTL, 1}, {IPPROTO_IP, IP_MULTICAST_TTL, 4}, {IPPROTO_IP, IP_MULTICAST_LOOP, 0},
	{IPPROTO_IP, IP_RECVERR, 1}};
enum { COUNT = sizeof options / sizeof *options };
union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };

static void snapshot(int fd, int *to)
{
	for (int i = 0; i < COUNT; i++) {
		socklen_t length = sizeof(int);
		to[i] = 0;
		CHECK(getsockopt(fd, options[i].level, options[i].option, &to[i], &length) == 0);
	}
}

static int bound(const union address *to)
{
	int fd = socket(to->any.sa_family, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	return fd >= 0 && bind(fd, &to->any, to->any.sa_family == AF_INET ? sizeof to->v4 : sizeof to->v6) == 0 ? fd : -1;
}

static union address name(int fd, int peer)
{
	union address to;
	socklen_t length = sizeof to;
	memset(&to, 0, sizeof to);
	CHECK((peer ? getpeername : getsockname)(fd, &to.any, &length) == 0);
	return to;
}

static int same(union address one, union address other) { return memcmp(&one, &other, sizeof one) == 0; }

static void receive(int fd, const char *text)
{
	char got[16];
	CHECK(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) == 1);
	CHECK(recv(fd, got, sizeof got, 0) == (ssize_t)strlen(text) && memcmp(got, text, strlen(text)) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	union address four = {.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
	union address six = {.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
	int server = bound(&four), client = bound(&four), server6 = bound(&six), client6 = -1, fresh;
	int before[COUNT], after[COUNT];
	CHECK(server >= 0 && client >= 0 && (fresh = socket(AF_INET, SOCK_DGRAM, 0)) >= 0);
	union address at = name(server, 0), from = name(client, 0), at6, from6;
	CHECK(connect(client, &at.any, sizeof at.v4) == 0);
	if (server6 >= 0) {
		at6 = name(server6, 0);
		CHECK((client6 = socket(AF_INET6, SOCK_DGRAM, 0)) >= 0 && connect(client6, &at6.any, sizeof at6.v6) == 0);
		from6 = name(client6, 0);
	}
	for (int i = 0; i < COUNT; i++)
		CHECK(setsockopt(server, options[i].level, options[i].option, &options[i].value, sizeof(int)) == 0);
	snapshot(server, before);
	wait_go();
	snapshot(server, after);
	for (int i = 0; i < COUNT; i++)
		if (before[i] != after[i]) {
			live_say("not ok: option %d.%d is %d, not %d", options[i].level, options[i].option, after[i], before[i]);
			return 1;
		}
	CHECK(same(name(server, 0), at) && same(name(client, 0), from) && same(name(client, 1), at));
	socklen_t length = sizeof four;
	CHECK(getpeername(server, &four.any, &length) == -1 && errno == ENOTCONN);
	CHECK(send(client, "to server", 9, 0) == 9 && sendto(server, "to client", 9, 0, &from.any, sizeof from.v4) == 9);
	receive(server, "to server");
	receive(client, "to client");
	CHECK(recv(client, &length, 1, 0) == -1 && errno == EAGAIN);
	if (client6 >= 0) {
		CHECK(same(name(server6, 0), at6) && same(name(client6, 0), from6) && same(name(client6, 1), at6));
		CHECK(send(client6, "six", 3, 0) == 3);
		receive(server6, "six");
	}
	CHECK(sendto(fresh, "fresh", 5, 0, &at.any, sizeof at.v4) == 5);
	receive(server, "fresh");
	return finish();
}
