/* UDP sockets: bound, connected, both, IPv4 and IPv6, with options and multicast groups. */
#include "live.h"
#include <arpa/inet.h>
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

/* The filter of a group that a socket has joined on lo; the number of sources, or -1. */
static int filter_of(int fd, const union address *group, uint32_t *mode, union address *source)
{
	static union { struct group_filter filter; char room[GROUP_FILTER_SIZE(8)]; } it;
	socklen_t size = sizeof it;
	memset(&it, 0, sizeof it);
	it.filter.gf_interface = 1;
	it.filter.gf_numsrc = 8;
	memcpy(&it.filter.gf_group, group, sizeof *group);
	if (getsockopt(fd, group->any.sa_family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_MSFILTER, &it, &size) != 0) return -1;
	*mode = it.filter.gf_fmode;
	memcpy(source, it.filter.gf_slist, sizeof *source);
	return (int)it.filter.gf_numsrc;
}

static union address four_at(const char *text)
{
	union address to = {.v4.sin_family = AF_INET};
	CHECK(inet_pton(AF_INET, text, &to.v4.sin_addr) == 1);
	return to;
}

static union address six_at(const char *text)
{
	union address to = {.v6.sin6_family = AF_INET6};
	CHECK(inet_pton(AF_INET6, text, &to.v6.sin6_addr) == 1);
	return to;
}

static int join(int fd, const union address *group)
{
	struct group_req request = {.gr_interface = 1};
	memcpy(&request.gr_group, group, sizeof *group);
	return setsockopt(fd, group->any.sa_family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_JOIN_GROUP, &request, sizeof request);
}

static void join_groups(int fd, int fd6)
{
	union address plain = four_at("239.1.2.3"), from = four_at("232.5.6.7"), not_from = four_at("239.8.9.10"), six = six_at("ff15::1234");
	struct group_source_req request = {.gsr_interface = 1};
	CHECK(join(fd, &plain) == 0 && join(fd, &not_from) == 0 && (fd6 < 0 || join(fd6, &six) == 0));
	union address source = four_at("127.0.0.9");
	memcpy(&request.gsr_group, &from, sizeof from);
	memcpy(&request.gsr_source, &source, sizeof source);
	CHECK(setsockopt(fd, IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, &request, sizeof request) == 0);
	memcpy(&request.gsr_group, &not_from, sizeof from);
	CHECK(setsockopt(fd, IPPROTO_IP, MCAST_BLOCK_SOURCE, &request, sizeof request) == 0);
	CHECK(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &(struct in_addr){htonl(INADDR_LOOPBACK)}, sizeof(struct in_addr)) == 0);
}

static void check_groups(int fd, int fd6, int other)
{
	union address plain = four_at("239.1.2.3"), from = four_at("232.5.6.7"), not_from = four_at("239.8.9.10"), six = six_at("ff15::1234");
	union address source = four_at("127.0.0.9"), got;
	struct in_addr device;
	socklen_t size = sizeof device;
	uint32_t mode;
	CHECK(filter_of(fd, &plain, &mode, &got) == 0 && mode == MCAST_EXCLUDE);
	CHECK(filter_of(fd, &from, &mode, &got) == 1 && mode == MCAST_INCLUDE && got.v4.sin_addr.s_addr == source.v4.sin_addr.s_addr);
	CHECK(filter_of(fd, &not_from, &mode, &got) == 1 && mode == MCAST_EXCLUDE && got.v4.sin_addr.s_addr == source.v4.sin_addr.s_addr);
	CHECK(fd6 < 0 || (filter_of(fd6, &six, &mode, &got) == 0 && mode == MCAST_EXCLUDE));
	CHECK(filter_of(other, &plain, &mode, &got) == -1 && errno == EADDRNOTAVAIL);
	CHECK(getsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &device, &size) == 0 && device.s_addr == htonl(INADDR_LOOPBACK));
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
	join_groups(server, server6);
	check_groups(server, server6, client);
	wait_go();
	check_groups(server, server6, client);
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
