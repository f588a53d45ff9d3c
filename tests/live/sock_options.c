/* All that getsockopt(2) shows of internet sockets, each option set to what a new socket does not have, where the kernel takes it. */
#include "live.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>

enum { SOCKETS = 9, NAMES = 128, LEVELS = 6, SIZE = 256 };
static const int levels[LEVELS] = {SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE};
static const struct { int family, type, protocol; } kinds[SOCKETS] = {
	{AF_INET, SOCK_STREAM, 0}, {AF_INET6, SOCK_STREAM, 0}, {AF_INET, SOCK_DGRAM, 0}, {AF_INET6, SOCK_DGRAM, 0}, {AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE},
	{AF_INET, SOCK_RAW, 251}, {AF_INET6, SOCK_RAW, 251}, {AF_INET, SOCK_DGRAM, IPPROTO_ICMP}, {AF_INET, SOCK_STREAM, IPPROTO_MPTCP}};
/* The numbers are linux's: the C library does not have all of them. */
static const struct { int level, name, value; } ints[] = {
	{SOL_SOCKET, SO_DEBUG, 1}, {SOL_SOCKET, SO_REUSEADDR, 1}, {SOL_SOCKET, SO_DONTROUTE, 1}, {SOL_SOCKET, SO_BROADCAST, 1}, {SOL_SOCKET, SO_SNDBUF, 60000},
	{SOL_SOCKET, SO_RCVBUF, 70000}, {SOL_SOCKET, SO_KEEPALIVE, 1}, {SOL_SOCKET, SO_OOBINLINE, 1}, {SOL_SOCKET, SO_NO_CHECK, 1}, {SOL_SOCKET, SO_PRIORITY, 3},
	{SOL_SOCKET, SO_REUSEPORT, 1}, {SOL_SOCKET, SO_RCVLOWAT, 9}, {SOL_SOCKET, 35, 1}, {SOL_SOCKET, SO_MARK, 7}, {SOL_SOCKET, 37, 0x98}, {SOL_SOCKET, 40, 1}, {SOL_SOCKET, 41, 1},
	{SOL_SOCKET, 42, 4}, {SOL_SOCKET, 43, 1}, {SOL_SOCKET, 45, 1}, {SOL_SOCKET, 46, 50}, {SOL_SOCKET, 47, 123456}, {SOL_SOCKET, 49, 1}, {SOL_SOCKET, 60, 1},
	{SOL_SOCKET, 69, 1}, {SOL_SOCKET, 73, 65536}, {SOL_SOCKET, 74, 0}, {SOL_SOCKET, 75, 1}, {SOL_SOCKET, 82, 1}, {SOL_SOCKET, 83, 0},
	{IPPROTO_IP, IP_TOS, 0x10}, {IPPROTO_IP, IP_TTL, 55}, {IPPROTO_IP, IP_RECVERR, 1}, {IPPROTO_IP, IP_PKTINFO, 1}, {IPPROTO_IP, IP_RECVTTL, 1},
	{IPPROTO_IP, IP_RECVTOS, 1}, {IPPROTO_IP, IP_RECVOPTS, 1}, {IPPROTO_IP, IP_RETOPTS, 1}, {IPPROTO_IP, IP_MTU_DISCOVER, 3}, {IPPROTO_IP, IP_FREEBIND, 1},
	{IPPROTO_IP, 18, 1}, {IPPROTO_IP, 19, 1}, {IPPROTO_IP, 20, 1}, {IPPROTO_IP, 21, 5}, {IPPROTO_IP, 22, 1}, {IPPROTO_IP, 23, 1}, {IPPROTO_IP, 24, 1}, {IPPROTO_IP, 25, 1},
	{IPPROTO_IP, 26, 1}, {IPPROTO_IP, IP_MULTICAST_IF, 0x0100007f}, {IPPROTO_IP, IP_MULTICAST_TTL, 9}, {IPPROTO_IP, IP_MULTICAST_LOOP, 0}, {IPPROTO_IP, 49, 0}, {IPPROTO_IP, 50, 0x01000000},
	{IPPROTO_IP, 51, 40000 | 41000 << 16}, {IPPROTO_IP, IP_HDRINCL, 1},
	{IPPROTO_IPV6, 2, 1}, {IPPROTO_IPV6, 3, 1}, {IPPROTO_IPV6, 4, 1}, {IPPROTO_IPV6, 5, 1}, {IPPROTO_IPV6, 8, 1}, {IPPROTO_IPV6, 16, 44}, {IPPROTO_IPV6, 17, 1}, {IPPROTO_IPV6, 18, 9},
	{IPPROTO_IPV6, 19, 0}, {IPPROTO_IPV6, 23, 3}, {IPPROTO_IPV6, 25, 1}, {IPPROTO_IPV6, IPV6_V6ONLY, 1}, {IPPROTO_IPV6, 29, 0}, {IPPROTO_IPV6, 30, 1}, {IPPROTO_IPV6, 31, 1},
	{IPPROTO_IPV6, 33, 1}, {IPPROTO_IPV6, 49, 1}, {IPPROTO_IPV6, 51, 1}, {IPPROTO_IPV6, 53, 1}, {IPPROTO_IPV6, 56, 1}, {IPPROTO_IPV6, 58, 1}, {IPPROTO_IPV6, 60, 1},
	{IPPROTO_IPV6, 62, 1}, {IPPROTO_IPV6, 66, 1}, {IPPROTO_IPV6, 67, 0x20}, {IPPROTO_IPV6, 70, 0}, {IPPROTO_IPV6, 72, 1}, {IPPROTO_IPV6, 73, 7}, {IPPROTO_IPV6, 74, 1},
	{IPPROTO_IPV6, 75, 1}, {IPPROTO_IPV6, 76, 0x01000000}, {IPPROTO_IPV6, 77, 1}, {IPPROTO_IPV6, 78, 1},
	{IPPROTO_TCP, TCP_NODELAY, 1}, {IPPROTO_TCP, TCP_MAXSEG, 1000}, {IPPROTO_TCP, TCP_CORK, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 44}, {IPPROTO_TCP, TCP_KEEPINTVL, 33}, {IPPROTO_TCP, TCP_KEEPCNT, 5},
	{IPPROTO_TCP, TCP_SYNCNT, 3}, {IPPROTO_TCP, TCP_LINGER2, 9}, {IPPROTO_TCP, TCP_DEFER_ACCEPT, 3}, {IPPROTO_TCP, TCP_WINDOW_CLAMP, 20000}, {IPPROTO_TCP, TCP_QUICKACK, 0},
	{IPPROTO_TCP, 16, 1}, {IPPROTO_TCP, 18, 9000}, {IPPROTO_TCP, 23, 5}, {IPPROTO_TCP, 25, 4000}, {IPPROTO_TCP, 27, 1}, {IPPROTO_TCP, 30, 1}, {IPPROTO_TCP, 34, 1}, {IPPROTO_TCP, 36, 1},
	{IPPROTO_TCP, 37, 1000}, {IPPROTO_TCP, 44, 60000}, {IPPROTO_TCP, 45, 100000}, {IPPROTO_TCP, 46, 50000},
	{IPPROTO_UDP, 1, 1}, {IPPROTO_UDP, 100, 2}, {IPPROTO_UDP, 101, 1}, {IPPROTO_UDP, 102, 1}, {IPPROTO_UDP, 103, 500}, {IPPROTO_UDP, 104, 1}, {IPPROTO_UDPLITE, 10, 20}, {IPPROTO_UDPLITE, 11, 20}};

/* What tells of the moment, or of the socket itself; what takes something away; what is not a socket's at all (a firewall's). */
static int is_left_out(int level, int name)
{
	static const int out[][2] = {
		{SOL_SOCKET, SO_ERROR}, {SOL_SOCKET, 55}, {SOL_SOCKET, 56}, {SOL_SOCKET, 57}, {SOL_SOCKET, 77}, {IPPROTO_TCP, TCP_INFO}, {IPPROTO_TCP, 19}, {IPPROTO_TCP, 20},
		{IPPROTO_TCP, 21}, {IPPROTO_TCP, 22}, {IPPROTO_TCP, 24}, {IPPROTO_TCP, 26}, {IPPROTO_TCP, 28}, {IPPROTO_TCP, 29}, {IPPROTO_TCP, 35}, {IPPROTO_IPV6, 6},
		{IPPROTO_IPV6, 64}, {IPPROTO_IPV6, 65}, {IPPROTO_IPV6, 68}, {IPPROTO_IPV6, 69}, {IPPROTO_IPV6, 71}};
	for (size_t i = 0; i < sizeof out / sizeof *out; i++)
		if (out[i][0] == level && out[i][1] == name) return 1;
	return (level == IPPROTO_IP && name >= 60) || (level == IPPROTO_IPV6 && name >= 80);
}

static int applies(int k, int level)
{
	int protocol = kinds[k].protocol ? kinds[k].protocol : kinds[k].type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
	return level == SOL_SOCKET || level == IPPROTO_IP || (level == IPPROTO_IPV6 && kinds[k].family == AF_INET6) || level == protocol ||
	       (level == IPPROTO_TCP && protocol == IPPROTO_MPTCP);
}

static struct value { int size; unsigned char bytes[SIZE]; } before[SOCKETS][LEVELS][NAMES];

static struct value value_of(int fd, int level, int name)
{
	struct value v = {};
	socklen_t size = SIZE;
	v.size = getsockopt(fd, level, name, v.bytes, &size) == 0 ? (int)size : -1;
	return v;
}

static void set_all(int fd, int k)
{
	static const unsigned char header[8] = {0, 0, 1, 4, 0, 0, 0, 0}, nops[4] = {1, 1, 1, 1}, key[16] = "sixteen letters";
	static const int headers[] = {54, 59};
	struct linger linger = {1, 6};
	struct timeval time = {5, 20000};
	struct { int clock; unsigned flags; } txtime = {CLOCK_MONOTONIC, 1};
	for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
		if (applies(k, ints[i].level)) setsockopt(fd, ints[i].level, ints[i].name, &ints[i].value, sizeof(int));
	CHECK(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0 && setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time) == 0);
	setsockopt(fd, SOL_SOCKET, 61, &txtime, sizeof txtime);
	setsockopt(fd, IPPROTO_IP, IP_OPTIONS, nops, sizeof nops);
	for (int i = 0; i < 2 && kinds[k].family == AF_INET6; i++) setsockopt(fd, IPPROTO_IPV6, headers[i], header, sizeof header);
	if (applies(k, IPPROTO_TCP)) {
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
		setsockopt(fd, IPPROTO_TCP, 33, key, sizeof key);
	}
	setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &(int){1}, sizeof(int));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int fd[SOCKETS], wrong = 0;
	for (int k = 0; k < SOCKETS; k++) {
		fd[k] = socket(kinds[k].family, kinds[k].type, kinds[k].protocol);
		if (fd[k] < 0) continue;
		set_all(fd[k], k);
		for (int l = 0; l < LEVELS; l++)
			for (int name = 0; name < NAMES; name++)
				if (applies(k, levels[l]) && !is_left_out(levels[l], name)) before[k][l][name] = value_of(fd[k], levels[l], name);
	}
	wait_go();
	for (int k = 0; k < SOCKETS; k++)
		for (int l = 0; l < LEVELS; l++)
			for (int name = 0; fd[k] >= 0 && name < NAMES; name++) {
				if (!applies(k, levels[l]) || is_left_out(levels[l], name)) continue;
				struct value now = value_of(fd[k], levels[l], name), *was = &before[k][l][name];
				if (now.size == was->size && memcmp(now.bytes, was->bytes, SIZE) == 0) continue;
				live_say("not ok: socket %d option %d.%d is %d bytes %02x%02x%02x%02x, not %d bytes %02x%02x%02x%02x", k, levels[l], name, now.size, now.bytes[0], now.bytes[1],
					 now.bytes[2], now.bytes[3], was->size, was->bytes[0], was->bytes[1], was->bytes[2], was->bytes[3]);
				wrong = 1;
			}
	CHECK(!wrong);
	return finish();
}
