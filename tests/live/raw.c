/* Raw sockets, bound and connected, with their options and filters; sockets for ping where the machine lets one have them. */
#include "live.h"
#include <arpa/inet.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sys/socket.h>

#define ICMP_FILTER_OPTION 1
#define PROTOCOL 253 /* for experiments */

union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };

static int value_of(int fd, int level, int name)
{
	int value = -1;
	socklen_t size = sizeof value;
	CHECK(getsockopt(fd, level, name, &value, &size) == 0);
	return value;
}

static union address four(const char *text)
{
	union address to = {.v4.sin_family = AF_INET};
	CHECK(inet_pton(AF_INET, text, &to.v4.sin_addr) == 1);
	return to;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	union address here = four("127.0.0.1"), there = four("127.0.0.7"), six = {.v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}}, at = {};
	int one = 1, mask = 1 << ICMP_ECHOREPLY, offset = 2;
	int own = socket(AF_INET, SOCK_RAW, PROTOCOL), connected = socket(AF_INET, SOCK_RAW, PROTOCOL), header = socket(AF_INET, SOCK_RAW, PROTOCOL + 1);
	int icmp = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), raw6 = socket(AF_INET6, SOCK_RAW, PROTOCOL), icmp6 = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
	int ping = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
	struct icmp6_filter filter;
	CHECK(own >= 0 && bind(own, &here.any, sizeof here.v4) == 0 && connected >= 0 && connect(connected, &there.any, sizeof there.v4) == 0);
	CHECK(header >= 0 && setsockopt(header, IPPROTO_IP, IP_HDRINCL, &one, sizeof one) == 0);
	CHECK(icmp >= 0 && setsockopt(icmp, SOL_RAW, ICMP_FILTER_OPTION, &mask, sizeof mask) == 0);
	ICMP6_FILTER_SETBLOCKALL(&filter);
	ICMP6_FILTER_SETPASS(ICMP6_ECHO_REQUEST, &filter);
	if (icmp6 >= 0) CHECK(setsockopt(icmp6, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter) == 0);
	if (raw6 >= 0) CHECK(setsockopt(raw6, IPPROTO_IPV6, IPV6_CHECKSUM, &offset, sizeof offset) == 0 && connect(raw6, &six.any, sizeof six.v6) == 0);
	if (ping >= 0) {
		here.v4.sin_port = htons(4711);
		CHECK(bind(ping, &here.any, sizeof here.v4) == 0);
		here.v4.sin_port = 0;
	}
	wait_go();
	socklen_t size = sizeof at;
	char got[128];
	CHECK(getsockname(own, &at.any, &size) == 0 && at.v4.sin_addr.s_addr == here.v4.sin_addr.s_addr);
	CHECK(value_of(own, SOL_SOCKET, SO_PROTOCOL) == PROTOCOL && value_of(own, SOL_SOCKET, SO_TYPE) == SOCK_RAW);
	CHECK(value_of(header, IPPROTO_IP, IP_HDRINCL) == 1 && value_of(own, IPPROTO_IP, IP_HDRINCL) == 0);
	CHECK(value_of(icmp, SOL_RAW, ICMP_FILTER_OPTION) == mask);
	/* Connected: it sends there without being told, and hears only from there. */
	int peer = socket(AF_INET, SOCK_RAW, PROTOCOL);
	CHECK(bind(peer, &there.any, sizeof there.v4) == 0 && send(connected, "x", 1, 0) == 1);
	CHECK(poll(&(struct pollfd){.fd = peer, .events = POLLIN}, 1, 5000) == 1 && recv(peer, got, sizeof got, 0) == 21 && got[20] == 'x');
	CHECK(sendto(own, "no", 2, 0, &here.any, sizeof here.v4) == 2 && sendto(peer, "yes", 3, 0, &here.any, sizeof here.v4) == 3);
	CHECK(recv(connected, got, sizeof got, 0) == 23 && memcmp(got + 20, "yes", 3) == 0);
	if (raw6 >= 0) CHECK(value_of(raw6, IPPROTO_IPV6, IPV6_CHECKSUM) == offset && send(raw6, "abcdef", 6, 0) == 6);
	if (icmp6 >= 0) {
		struct icmp6_filter now;
		size = sizeof now;
		CHECK(getsockopt(icmp6, IPPROTO_ICMPV6, ICMP6_FILTER, &now, &size) == 0 && memcmp(&now, &filter, sizeof now) == 0);
	}
	if (ping >= 0) {
		struct icmphdr echo = {.type = ICMP_ECHO};
		size = sizeof at;
		CHECK(getsockname(ping, &at.any, &size) == 0 && at.v4.sin_port == htons(4711));
		CHECK(sendto(ping, &echo, sizeof echo, 0, &here.any, sizeof here.v4) == sizeof echo && recv(ping, got, sizeof got, 0) == sizeof echo);
	}
	return finish();
}
