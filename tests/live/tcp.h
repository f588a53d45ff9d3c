/* Helpers for tests of TCP connections. */
#ifndef LIVE_TCP_H
#define LIVE_TCP_H
#include "live.h"
#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

enum family { FOUR, SIX, MAPPED };

struct pair {
	int client, server;
	union address name[4]; /* as it was: of both, and their peers */
	struct tcp_info info[2];
};

static inline union address loopback(enum family family)
{
	union address to = {.any.sa_family = family == FOUR ? AF_INET : AF_INET6};
	if (family == FOUR) to.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (family == SIX) to.v6.sin6_addr = in6addr_loopback;
	if (family == MAPPED) CHECK(inet_pton(AF_INET6, "::ffff:127.0.0.1", &to.v6.sin6_addr) == 1);
	return to;
}

static inline int has_six(void)
{
	union address to = loopback(SIX);
	int fd = socket(AF_INET6, SOCK_STREAM, 0), usable = fd >= 0 && bind(fd, &to.any, sizeof to.v6) == 0;
	close(fd);
	return usable;
}

static inline union address name_of(int fd, int peer)
{
	union address to;
	socklen_t size = sizeof to;
	memset(&to, 0, sizeof to);
	CHECK((peer ? getpeername : getsockname)(fd, &to.any, &size) == 0);
	return to;
}

static inline struct tcp_info info_of(int fd)
{
	struct tcp_info info;
	socklen_t size = sizeof info;
	memset(&info, 0, sizeof info);
	CHECK(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
	return info;
}

static inline int state_of(int fd) { return info_of(fd).tcpi_state; }

static inline void wait_state(int fd, int state)
{
	for (int i = 0; i < 2000 && state_of(fd) != state; i++) usleep(1000);
	if (state_of(fd) != state) live_say("not ok: state %d, not %d", state_of(fd), state);
	CHECK(state_of(fd) == state);
}

static inline int queued(int fd, unsigned long what)
{
	int n = -1;
	CHECK(ioctl(fd, what, &n) == 0);
	return n;
}

static inline int listen_at(enum family family, union address *at)
{
	int fd = socket(family == FOUR ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*at = loopback(family);
	CHECK(fd >= 0 && bind(fd, &at->any, sizeof *at) == 0 && listen(fd, 8) == 0);
	*at = name_of(fd, 0);
	return fd;
}

/* Set before it connects: the buffers of both ends; 0: as they are. */
static inline struct pair connect_pair(enum family family, int buffer)
{
	union address at;
	struct pair p;
	int listener = listen_at(family, &at);
	p.client = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (buffer) CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) == 0 && setsockopt(p.client, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) == 0);
	CHECK(connect(p.client, &at.any, sizeof at) == 0);
	CHECK((p.server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0);
	close(listener);
	return p;
}

static inline void remember(struct pair *p)
{
	for (int i = 0; i < 4; i++) p->name[i] = name_of(i & 1 ? p->server : p->client, i >> 1);
	p->info[0] = info_of(p->client);
	p->info[1] = info_of(p->server);
}

/* Names and what the ends agreed on. */
static inline void check_same(const struct pair *p)
{
	for (int i = 0; i < 4; i++) {
		union address now = name_of(i & 1 ? p->server : p->client, i >> 1);
		CHECK(memcmp(&now, &p->name[i], sizeof now) == 0);
	}
	for (int i = 0; i < 2; i++) {
		struct tcp_info now = info_of(i ? p->server : p->client);
		const struct tcp_info *was = &p->info[i];
		CHECK((now.tcpi_options & 7) == (was->tcpi_options & 7));
		CHECK(now.tcpi_snd_wscale == was->tcpi_snd_wscale && now.tcpi_rcv_wscale == was->tcpi_rcv_wscale);
		/* It depends on the peer's window too. What a real network has is kept as it is. */
		unsigned mss = was->tcpi_snd_mss < 32000 ? was->tcpi_snd_mss : 32000;
		if (now.tcpi_snd_mss < mss) live_say("not ok: MSS %u, not %u", now.tcpi_snd_mss, was->tcpi_snd_mss);
		CHECK(now.tcpi_snd_mss >= mss);
	}
}

static inline unsigned char byte_at(size_t i, unsigned seed) { return (unsigned char)((i * 2654435761u >> 11) + seed); }

/* As much as goes in, or up to `most`. */
static inline size_t fill_up(int fd, size_t most, unsigned seed)
{
	size_t done = 0;
	char block[4096];
	while (done < most) {
		size_t n = most - done < sizeof block ? most - done : sizeof block;
		for (size_t i = 0; i < n; i++) block[i] = (char)byte_at(done + i, seed);
		ssize_t sent = send(fd, block, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0) {
			CHECK(errno == EAGAIN);
			break;
		}
		done += (size_t)sent;
	}
	return done;
}

/* Exactly so many arrive; `end`: then the peer has ended. */
static inline void drain(int fd, size_t size, unsigned seed, int end)
{
	static unsigned char block[65536];
	for (size_t done = 0; done < size;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		CHECK(poll(&p, 1, 8000) == 1);
		ssize_t n = recv(fd, block, size - done < sizeof block ? size - done : sizeof block, 0);
		if (n <= 0) live_say("not ok: %zd after %zu of %zu bytes", n, done, size);
		CHECK(n > 0);
		for (ssize_t i = 0; i < n; i++)
			if (block[i] != byte_at(done + (size_t)i, seed)) {
				live_say("not ok: byte %zu of %zu", done + (size_t)i, size);
				_exit(1);
			}
		done += (size_t)n;
	}
	if (end) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		CHECK(poll(&p, 1, 8000) == 1 && recv(fd, block, 1, 0) == 0);
	} else {
		CHECK(recv(fd, block, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
	}
}
#endif
