/*
 * Internet sockets: TCP, whose connections are in tcp.c; Multipath TCP without connections; UDP and UDP-Lite, with what waits in them (udp.c); raw sockets, and those that send
 * pings (icmp(7)), which have no SO_PEEK_OFF, so that only the first packet that waits can be looked at: refused, or dropped as the user wants. See ip(7), tcp(7), udp(7), raw(7).
 */
#include "engine/kinds/inet_diag.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/multicast.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/tcp.h"
#include "engine/kinds/udp.h"
#include "engine/kinds/uring.h"
#include "engine/task/task.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>

#define PROC_MAX (16UL << 20)

static int option_of(int fd, int level, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? -1 : value;
}

static bool is_udp(const InetSkEntry *e)
{
	return e->proto == IPPROTO_UDP || e->proto == IPPROTO_UDPLITE;
}

static bool recognise(const struct descriptor *f)
{
	if (!sock_is(f, AF_INET) && !sock_is(f, AF_INET6))
		return false;
	int protocol = option_of(f->own_fd, SOL_SOCKET, SO_PROTOCOL), type = option_of(f->own_fd, SOL_SOCKET, SO_TYPE);
	return (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)) || type == SOCK_DGRAM || type == SOCK_RAW;
}

/* ---- dump ---- */

void inet_split(const union address *a, uint32_t *port, uint32_t *addr, uint32_t *scope)
{
	if (a->any.sa_family == AF_INET) {
		*port = ntohs(a->v4.sin_port);
		addr[0] = a->v4.sin_addr.s_addr;
	} else if (a->any.sa_family == AF_INET6) {
		*port = ntohs(a->v6.sin6_port);
		memcpy(addr, &a->v6.sin6_addr, 16);
		*scope = a->v6.sin6_scope_id;
	}
}

/* Whether a socket can be bound to such an address here, as far as the address goes. */
static bool is_here(const InetSkEntry *e, const union address *own)
{
	union address at = *own;
	_cleanup_close_ int fd = socket((int)e->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	at.v4.sin_port = 0; /* both have it at the same place */
	return fd < 0 || bind(fd, &at.any, sizeof(at.v6)) == 0 || errno != EADDRNOTAVAIL;
}

/*
 * Raw sockets and those for ping are connected to an address without a port, which getpeername(2) does not tell; /proc/net does:
 * "N: ADDRESS:PORT ADDRESS:PORT STATE … INODE", an address as the words of memory.
 */
static void find_peer(const struct descriptor *f, InetSkEntry *e, uint32_t address[4])
{
	const char *name = e->type == SOCK_RAW ? "raw" : "icmp";
	_cleanup_free_ char *text = NULL;
	char path[64], peer[40];
	unsigned int port, state;
	unsigned long inode;

	snprintf(path, sizeof(path), "/proc/%d/net/%s%s", f->task->proc, name, e->family == AF_INET6 ? "6" : "");
	if (read_file_at(AT_FDCWD, path, PROC_MAX, &text, NULL))
		return;
	for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
		if (sscanf(line, " %*d: %*[0-9A-F]:%*x %39[0-9A-F]:%x %x %*s %*s %*s %*u %*u %lu", peer, &port, &state, &inode) != 4 ||
		    inode != e->ino || state != STATE_ESTABLISHED)
			continue;
		for (size_t i = 0; i < 4 && strlen(peer) >= 8 * (i + 1); i++)
			sscanf(peer + 8 * i, "%8x", &address[i]);
		e->dst_port = port;
		e->state = STATE_ESTABLISHED;
	}
}

/* Both ends, in `addresses`, and the device that a link-local one belongs to, in `device`. */
static void take_addresses(const struct descriptor *f, InetSkEntry *e, uint32_t addresses[2][4], char device[IF_NAMESIZE])
{
	union address own = {}, peer = {};
	socklen_t size = sizeof(own);
	uint32_t scope = 0;

	getsockname(f->own_fd, &own.any, &size);
	inet_split(&own, &e->src_port, addresses[0], &scope);
	e->has_address_gone = e->address_gone = !is_here(e, &own);
	size = sizeof(peer);
	if (getpeername(f->own_fd, &peer.any, &size) == 0) {
		inet_split(&peer, &e->dst_port, addresses[1], &scope);
		e->state = STATE_ESTABLISHED;
	} else if (e->type != SOCK_STREAM && !is_udp(e)) {
		find_peer(f, e, addresses[1]);
	}
	e->n_src_addr = e->n_dst_addr = e->family == AF_INET6 ? 4 : 1;
	e->src_addr = addresses[0];
	e->dst_addr = addresses[1];
	e->ifname = scope && if_indextoname(scope, device) ? device : NULL;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	InetSkEntry e = INET_SK_ENTRY__INIT;
	SkOptsEntry options = SK_OPTS_ENTRY__INIT;
	uint32_t addresses[2][4] = {};
	char device[IF_NAMESIZE];
	struct pool pool = {};

	e.id = f->id;
	e.ino = (uint32_t)f->st.st_ino;
	e.family = (uint32_t)option_of(f->own_fd, SOL_SOCKET, SO_DOMAIN);
	e.type = (uint32_t)option_of(f->own_fd, SOL_SOCKET, SO_TYPE);
	e.proto = (uint32_t)option_of(f->own_fd, SOL_SOCKET, SO_PROTOCOL);
	e.state = STATE_CLOSE;
	e.flags = f->flags;
	e.fown = f->fown;
	e.opts = &options;
	e.has_v6only = e.family == AF_INET6;
	e.v6only = e.has_v6only && option_of(f->own_fd, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
	take_addresses(f, &e, addresses, device);
	int r = sock_capture_options(d, f, &pool, &options);
	if (!r && e.proto != IPPROTO_MPTCP)
		r = multicast_capture(d, f, &pool, &e);
	if (!r && e.type == SOCK_STREAM)
		r = tcp_capture(d, f, &pool, &e);
	if (!r && is_udp(&e))
		r = udp_capture_queue(d, f);
	if (!r && e.type != SOCK_STREAM && !is_udp(&e))
		r = sock_refuse_waiting(d, f);
	entry.isk = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__INETSK);
	pool_free(&pool);
	return r;
}

/* ---- restore ---- */

socklen_t inet_join(const InetSkEntry *e, uint32_t port, const uint32_t *addr, size_t n, union address *to)
{
	*to = (union address){};
	to->any.sa_family = (sa_family_t)e->family;
	if (e->family == AF_INET) {
		to->v4.sin_port = htons((uint16_t)port);
		to->v4.sin_addr.s_addr = n ? addr[0] : 0;
		return sizeof(to->v4);
	}
	to->v6.sin6_port = htons((uint16_t)port);
	if (n)
		memcpy(&to->v6.sin6_addr, addr, MIN(n, 4UL) * 4);
	if (e->ifname)
		to->v6.sin6_scope_id = if_nametoindex(e->ifname);
	return sizeof(to->v6);
}

int inet_failed(struct restore *s, const InetSkEntry *e, int r, const char *what, const union address *at, uint32_t port)
{
	char text[INET6_ADDRSTRLEN] = "";

	inet_ntop((int)e->family, e->family == AF_INET ? (const void *)&at->v4.sin_addr : (const void *)&at->v6.sin6_addr, text, sizeof(text));
	const char *remedy = r == -EADDRINUSE	 ? " (another process has the port; end that first)" :
			     r == -EADDRNOTAVAIL ? " (this machine does not have the address)" :
						   "";
	return error_errno(s->e, r, "cannot %s %s port %u%s", what, text, port, remedy);
}

int inet_bind(struct restore *s, const InetSkEntry *e, int fd)
{
	uint32_t any[4] = {};
	union address at;
	socklen_t size = inet_join(e, e->src_port, e->src_addr, e->n_src_addr, &at);
	int free = option_of(fd, IPPROTO_IP, IP_FREEBIND), yes = 1, tries = 0, r;

	if (!e->src_port && (!e->n_src_addr || !memcmp(e->src_addr, any, MIN(e->n_src_addr, 4UL) * 4)))
		return 0;
	if (e->address_gone)
		setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &yes, sizeof(yes));
	while ((r = bind(fd, &at.any, size)) < 0 && errno == EADDRINUSE && uring_wait_for_old(s, &tries))
		;
	if (r < 0 && (errno != EADDRINUSE || e->proto != IPPROTO_TCP || !inet_diag_forget_closed(IPPROTO_TCP, (uint16_t)e->src_port) || bind(fd, &at.any, size) < 0))
		r = inet_failed(s, e, -errno, "bind a socket to", &at, e->src_port);
	else
		r = 0;
	if (e->address_gone && free >= 0)
		setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &free, sizeof(free));
	return r;
}

static int build(struct restore *s, const struct file *f, int fd)
{
	const InetSkEntry *e = f->entry->isk;
	union address at;
	int no = e->v6only, r = sock_set_early(s, fd, e->opts);

	if (!r && e->has_v6only && option_of(fd, IPPROTO_IPV6, IPV6_V6ONLY) != no && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)) < 0)
		r = error_errno(s->e, -errno, "cannot set a socket to IPv6 only");
	if (!r && is_udp(e))
		r = udp_fill(s, f, fd);
	if (!r)
		r = inet_bind(s, e, fd);
	if (r)
		return r;
	if (e->state == STATE_LISTEN && e->type == SOCK_STREAM) {
		/* Some options are a listener's only as long as it does not listen yet. */
		if ((r = sock_set_options(s, fd, e->opts)))
			return r;
		inet_join(e, e->src_port, e->src_addr, e->n_src_addr, &at);
		return listen(fd, (int)e->backlog) < 0 ? inet_failed(s, e, -errno, "listen at", &at, e->src_port) : 0;
	}
	if (e->state == STATE_ESTABLISHED) {
		socklen_t size = inet_join(e, e->dst_port, e->dst_addr, e->n_dst_addr, &at);
		if (connect(fd, &at.any, size) < 0)
			return inet_failed(s, e, -errno, "connect a socket to", &at, e->dst_port);
	}
	r = sock_set_options(s, fd, e->opts);
	return r ? r : multicast_join(s, fd, e);
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const InetSkEntry *e = f->entry->isk;

	if (!e || !e->opts || (e->family != AF_INET && e->family != AF_INET6))
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	if (e->proto == IPPROTO_MPTCP && e->state != STATE_LISTEN && e->state != STATE_CLOSE)
		return error_set(s->e, -EBADMSG, "file %u is a Multipath TCP socket in the state %u, which can't be", f->id, e->state);
	int fd = socket((int)e->family, (int)e->type | SOCK_CLOEXEC, (int)e->proto);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make an internet socket");
	int r = tcp_has_state(s, f) ? tcp_build(s, f, fd) : build(s, f, fd);
	if (!r && fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0)
		r = error_errno(s->e, -errno, "cannot set the flags of a socket");
	if (r) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

const struct kind kind_inet = {
	.name = "an internet socket",
	.summary = "TCP and Multipath TCP sockets that listen, are bound or fresh; TCP connections in all states, with what is queued, also those not accepted yet (--tcp-established); UDP and UDP-Lite sockets with what waits in them and their multicast groups; raw sockets and those for ping, without what waits (--skip-in-flight); IPv4 and IPv6",
	.type = FD_TYPES__INETSK,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
