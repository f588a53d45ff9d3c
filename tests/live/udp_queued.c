/* Datagrams that wait, with their senders, of every size, in order; UDP and UDP-Lite; sockets that share a port, of which each has its own. */
#include "live.h"
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif
#define UDPLITE_SEND_CSCOV 10
#define UDPLITE_RECV_CSCOV 11

union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };
static const int sizes[] = {1, 0, 100, 60000, 7, 1472, 0, 3000};
enum { COUNT = sizeof sizes / sizeof *sizes, KINDS = 4, SHARED = 3 };

struct pair {
	int server, client[2];
	union address at, from[2];
};

static int make(int family, int protocol, union address *at)
{
	int fd = socket(family, SOCK_DGRAM, protocol), one = 1;
	socklen_t size = sizeof *at;
	if (fd < 0) return -1;
	CHECK(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) == 0 && bind(fd, &at->any, sizeof *at) == 0 && getsockname(fd, &at->any, &size) == 0);
	return fd;
}

static union address loopback(int family, unsigned short port)
{
	union address to = {.any.sa_family = (sa_family_t)family};
	if (family == AF_INET) to.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else to.v6.sin6_addr = in6addr_loopback;
	to.v4.sin_port = port;
	return to;
}

/* `mapped`: the server is of IPv6, what comes is of IPv4. */
static int send_all(struct pair *p, int family, int protocol, int mapped)
{
	static char data[60000];
	p->at = loopback(family, 0);
	if (mapped) p->at.v6.sin6_addr = in6addr_any;
	if ((p->server = make(family, protocol, &p->at)) < 0) return 0;
	for (int i = 0; i < 2; i++) {
		p->from[i] = loopback(mapped ? AF_INET : family, 0);
		CHECK((p->client[i] = make(p->from[i].any.sa_family, protocol, &p->from[i])) >= 0);
	}
	union address to = mapped ? loopback(AF_INET, p->at.v6.sin6_port) : p->at;
	for (int i = 0; i < COUNT; i++) {
		memset(data, 'a' + i, sizeof data);
		CHECK(sendto(p->client[i % 2], data, (size_t)sizes[i], 0, &to.any, sizeof to) == sizes[i]);
	}
	return 1;
}

static void receive_all(struct pair *p, int mapped)
{
	static char data[65536];
	for (int i = 0; i < COUNT; i++) {
		union address from = {};
		socklen_t length = sizeof from;
		struct pollfd ready = {.fd = p->server, .events = POLLIN};
		CHECK(poll(&ready, 1, 0) == 1);
		ssize_t n = recvfrom(p->server, data, sizeof data, MSG_DONTWAIT, &from.any, &length);
		if (n != sizes[i]) live_say("not ok: datagram %d has %zd bytes, not %d", i, n, sizes[i]);
		CHECK(n == sizes[i] && (n == 0 || (data[0] == 'a' + i && data[n - 1] == 'a' + i)));
		if (mapped)
			CHECK(from.v6.sin6_port == p->from[i % 2].v4.sin_port && from.v6.sin6_addr.s6_addr32[3] == htonl(INADDR_LOOPBACK) &&
			      from.v6.sin6_addr.s6_addr32[2] == htonl(0xffff));
		else
			CHECK(memcmp(&from, &p->from[i % 2], sizeof from) == 0);
	}
	CHECK(recv(p->server, data, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
	/* It still has its own port. */
	union address to = mapped ? loopback(AF_INET, p->at.v6.sin6_port) : p->at;
	CHECK(sendto(p->client[0], "end", 3, 0, &to.any, sizeof to) == 3 && recv(p->server, data, 9, 0) == 3);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct pair pairs[KINDS];
	int there[KINDS], shared[SHARED], coverage = 20, value, client = -1;
	union address at = loopback(AF_INET, 0), to;
	socklen_t size = sizeof value;
	there[0] = send_all(&pairs[0], AF_INET, 0, 0);
	there[1] = send_all(&pairs[1], AF_INET, IPPROTO_UDPLITE, 0);
	there[2] = send_all(&pairs[2], AF_INET6, 0, 0);
	there[3] = send_all(&pairs[3], AF_INET6, 0, 1);
	CHECK(there[0]);
	if (there[1]) CHECK(setsockopt(pairs[1].server, IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, &coverage, sizeof coverage) == 0);
	/* Each of those that share a port gets one by way of being connected. */
	for (int i = 0; i < SHARED; i++) {
		shared[i] = make(AF_INET, 0, &at);
		client = socket(AF_INET, SOCK_DGRAM, 0);
		to = loopback(AF_INET, 0);
		CHECK(bind(client, &to.any, sizeof to) == 0 && getsockname(client, &to.any, &(socklen_t){sizeof to}) == 0);
		CHECK(connect(shared[i], &to.any, sizeof to) == 0 && sendto(client, &(char){(char)('0' + i)}, 1, 0, &at.any, sizeof at) == 1);
	}
	wait_go();
	for (int i = 0; i < KINDS; i++)
		if (there[i]) receive_all(&pairs[i], i == 3);
	if (there[1]) CHECK(getsockopt(pairs[1].server, IPPROTO_UDPLITE, UDPLITE_RECV_CSCOV, &value, &size) == 0 && value == coverage);
	for (int i = 0; i < SHARED; i++) {
		char c;
		CHECK(recv(shared[i], &c, 1, MSG_DONTWAIT) == 1 && c == '0' + i && recv(shared[i], &c, 1, MSG_DONTWAIT) == -1);
	}
	return finish();
}
