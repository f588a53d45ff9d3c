/*
 * Options of TCP connections and of sockets about to be; listeners that share a port; a socket bound to a device; one to an address that this
 * machine does not have; a corked connection with something to send.
 */
#include "tcp.h"
#include <linux/filter.h>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif

static const struct { int level, name, value; } options[] = {
	{SOL_SOCKET, SO_REUSEADDR, 1}, {SOL_SOCKET, SO_KEEPALIVE, 1}, {SOL_SOCKET, SO_SNDBUF, 60000}, {SOL_SOCKET, SO_RCVBUF, 70000},
	{SOL_SOCKET, SO_BUF_LOCK, 0}, /* read only: what the two before have locked */
	{SOL_SOCKET, SO_PRIORITY, 3}, {SOL_SOCKET, SO_MARK, 9}, {SOL_SOCKET, SO_OOBINLINE, 1}, {SOL_SOCKET, SO_RCVLOWAT, 3},
	{IPPROTO_TCP, TCP_NODELAY, 1}, {IPPROTO_TCP, TCP_KEEPIDLE, 44}, {IPPROTO_TCP, TCP_KEEPINTVL, 33}, {IPPROTO_TCP, TCP_KEEPCNT, 5},
	{IPPROTO_TCP, TCP_USER_TIMEOUT, 90000}, {IPPROTO_TCP, TCP_LINGER2, 17}, {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 123456},
	{IPPROTO_TCP, TCP_WINDOW_CLAMP, 40000}, {IPPROTO_TCP, TCP_INQ, 1}, {IPPROTO_IP, IP_TOS, 0x10}, {IPPROTO_IP, IP_TTL, 55},
	{IPPROTO_IP, IP_TRANSPARENT, 1}, {IPPROTO_IP, IP_FREEBIND, 1}, {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO},
};
enum { COUNT = sizeof options / sizeof *options };
static struct pair pair, corked, bound, plain;
static int before[COUNT], plain_before[COUNT], listeners[3], away, pinned;
static union address shared, away_name;

static void snapshot(int fd, int *to)
{
	for (int i = 0; i < COUNT; i++) {
		socklen_t size = sizeof(int);
		CHECK(getsockopt(fd, options[i].level, options[i].name, &to[i], &size) == 0);
	}
}

static void compare(int fd, const int *was)
{
	int now[COUNT];
	snapshot(fd, now);
	for (int i = 0; i < COUNT; i++)
		if (now[i] != was[i]) live_say("not ok: option %d.%d is %d, not %d", options[i].level, options[i].name, now[i], was[i]);
	for (int i = 0; i < COUNT; i++) CHECK(now[i] == was[i]);
}

static void check_text(int fd, int level, int name, const char *text)
{
	char got[64] = "";
	socklen_t size = sizeof got;
	CHECK(getsockopt(fd, level, name, got, &size) == 0 && strcmp(got, text) == 0);
}

static void make_options(void)
{
	struct sock_filter all[] = {BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_RET | BPF_K, 0xffff)};
	struct sock_fprog filter = {2, all};
	struct linger linger = {1, 7};
	struct timeval time = {11, 0};
	pair = connect_pair(FOUR, 0);
	plain = connect_pair(FOUR, 0);
	for (int i = 0; i < COUNT; i++)
		if (options[i].name != SO_BUF_LOCK)
			CHECK(setsockopt(pair.server, options[i].level, options[i].name, &options[i].value, sizeof(int)) == 0);
	CHECK(setsockopt(pair.server, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);
	CHECK(setsockopt(pair.server, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) == 0);
	CHECK(setsockopt(pair.server, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
	CHECK(setsockopt(pair.server, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
	snapshot(pair.server, before);
	snapshot(plain.client, plain_before);
	CHECK(before[4] == 3 && plain_before[4] == 0);
}

static void make_listeners(void)
{
	shared = loopback(FOUR);
	for (int i = 0; i < 3; i++) {
		int one = 1;
		listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		CHECK(setsockopt(listeners[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) == 0);
		CHECK(bind(listeners[i], &shared.any, sizeof shared) == 0 && listen(listeners[i], 64) == 0);
		if (i == 0) shared = name_of(listeners[0], 0);
	}
	away = socket(AF_INET, SOCK_STREAM, 0);
	away_name = loopback(FOUR);
	CHECK(inet_pton(AF_INET, "198.51.100.77", &away_name.v4.sin_addr) == 1);
	int one = 1, zero = 0;
	CHECK(setsockopt(away, IPPROTO_IP, IP_FREEBIND, &one, sizeof one) == 0 && bind(away, &away_name.any, sizeof away_name) == 0);
	CHECK(setsockopt(away, IPPROTO_IP, IP_FREEBIND, &zero, sizeof zero) == 0 && listen(away, 3) == 0);
	away_name = name_of(away, 0);
	pinned = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(setsockopt(pinned, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) == 0);
}

static void check_listeners(void)
{
	int zero = -1, each[3] = {};
	socklen_t size = sizeof zero;
	for (int i = 0; i < 60; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0);
		CHECK(connect(client, &shared.any, sizeof shared) == 0);
		struct pollfd p[3];
		for (int k = 0; k < 3; k++) p[k] = (struct pollfd){.fd = listeners[k], .events = POLLIN};
		CHECK(poll(p, 3, 5000) == 1);
		for (int k = 0; k < 3; k++)
			if (p[k].revents) {
				each[k]++;
				CHECK(close(accept(listeners[k], NULL, NULL)) == 0);
			}
		close(client);
	}
	CHECK(each[0] && each[1] && each[2]);
	union address now = name_of(away, 0);
	CHECK(memcmp(&now, &away_name, sizeof now) == 0 && state_of(away) == TCP_LISTEN);
	CHECK(getsockopt(away, IPPROTO_IP, IP_FREEBIND, &zero, &size) == 0 && zero == 0);
	check_text(pinned, SOL_SOCKET, SO_BINDTODEVICE, "lo");
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int one = 1, zero = 0;
	make_options();
	make_listeners();
	bound = connect_pair(FOUR, 0);
	CHECK(setsockopt(bound.client, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) == 0 && shutdown(bound.server, SHUT_WR) == 0);
	wait_state(bound.client, TCP_CLOSE_WAIT);
	corked = connect_pair(FOUR, 0);
	CHECK(setsockopt(corked.client, IPPROTO_TCP, TCP_CORK, &one, sizeof one) == 0 && fill_up(corked.client, 100, 1) == 100);
	CHECK(queued(corked.client, SIOCOUTQNSD) == 100);
	wait_go();
	compare(pair.server, before);
	compare(plain.client, plain_before);
	check_text(pair.server, IPPROTO_TCP, TCP_CONGESTION, "reno");
	struct sock_filter filter[4];
	socklen_t size = 4;
	CHECK(getsockopt(pair.server, SOL_SOCKET, SO_GET_FILTER, filter, &size) == 0 && size == 2 && filter[1].k == 0xffff);
	struct linger linger;
	struct timeval time;
	size = sizeof linger;
	CHECK(getsockopt(pair.server, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff && linger.l_linger == 7);
	size = sizeof time;
	CHECK(getsockopt(pair.server, SOL_SOCKET, SO_RCVTIMEO, &time, &size) == 0 && time.tv_sec == 11);
	CHECK(fill_up(pair.client, 500, 3) == 500);
	drain(pair.server, 500, 3, 0);
	check_listeners();
	check_text(bound.client, SOL_SOCKET, SO_BINDTODEVICE, "lo");
	CHECK(state_of(bound.client) == TCP_CLOSE_WAIT && fill_up(bound.client, 10, 4) == 10);
	drain(bound.server, 10, 4, 0);
	drain(bound.client, 0, 0, 1);
	int value = 0;
	size = sizeof value;
	CHECK(getsockopt(corked.client, IPPROTO_TCP, TCP_CORK, &value, &size) == 0 && value);
	CHECK(fill_up(corked.client, 0, 0) == 0 && setsockopt(corked.client, IPPROTO_TCP, TCP_CORK, &zero, sizeof zero) == 0);
	drain(corked.server, 100, 1, 0);
	return finish();
}
