/*
 * Internet sockets: TCP that listens, is bound or fresh; UDP. See ip(7), tcp(7), udp(7).
 *
 * Datagrams that wait in a UDP socket are dropped, as the network might have. A connected TCP socket is refused.
 */
#include "engine/kinds/kind.h"
#include "engine/kinds/multicast.h"
#include "engine/kinds/sock.h"
#include "engine/task/task.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static int option_of(int fd, int level, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? -1 : value;
}

static bool recognise(const struct descriptor *f)
{
	if (!sock_is(f, AF_INET) && !sock_is(f, AF_INET6))
		return false;
	int protocol = option_of(f->own_fd, SOL_SOCKET, SO_PROTOCOL), type = option_of(f->own_fd, SOL_SOCKET, SO_TYPE);
	return (type == SOCK_STREAM && protocol == IPPROTO_TCP) || (type == SOCK_DGRAM && (protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE));
}

/* ---- dump ---- */

/* Port and address as the images have them: host order, network order. */
static void split(const union address *a, uint32_t *port, uint32_t *addr, uint32_t *scope)
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

/* The state of a TCP socket; what can't be saved is refused. */
static int tcp_state(struct dump *d, struct descriptor *f, InetSkEntry *e)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);

	if (getsockopt(f->own_fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
		return fd_errno(d, f, -errno, "does not tell its state");
	e->state = info.tcpi_state;
	if (info.tcpi_state == TCP_LISTEN) {
		e->backlog = info.tcpi_sacked;
		if (info.tcpi_unacked && !d->request->skip_in_flight)
			return fd_error(d, f, -ENOTSUP, "has %u connections not accepted yet; try again, or use --skip-in-flight to drop them",
					info.tcpi_unacked);
		return 0;
	}
	if (info.tcpi_state != TCP_CLOSE)
		return fd_error(d, f, -ENOTSUP, "is a TCP connection, which is not saved yet; close it first");
	return 0;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	InetSkEntry e = INET_SK_ENTRY__INIT;
	SkOptsEntry options = SK_OPTS_ENTRY__INIT;
	union address own = {}, peer = {};
	uint32_t from[4] = {}, to[4] = {}, scope = 0;
	char device[IF_NAMESIZE];
	struct pool pool = {};
	socklen_t size = sizeof(own);

	e.id = f->id;
	e.ino = (uint32_t)f->st.st_ino;
	e.family = (uint32_t)option_of(f->own_fd, SOL_SOCKET, SO_DOMAIN);
	e.type = (uint32_t)option_of(f->own_fd, SOL_SOCKET, SO_TYPE);
	e.proto = (uint32_t)option_of(f->own_fd, SOL_SOCKET, SO_PROTOCOL);
	e.state = TCP_CLOSE;
	e.flags = f->flags;
	e.fown = f->fown;
	e.opts = &options;
	if (e.proto == IPPROTO_TCP) {
		int r = tcp_state(d, f, &e);
		if (r)
			return r;
	}
	getsockname(f->own_fd, &own.any, &size);
	split(&own, &e.src_port, from, &scope);
	size = sizeof(peer);
	if (e.proto != IPPROTO_TCP && getpeername(f->own_fd, &peer.any, &size) == 0) {
		split(&peer, &e.dst_port, to, &scope);
		e.state = TCP_ESTABLISHED;
	}
	e.n_src_addr = e.n_dst_addr = e.family == AF_INET6 ? 4 : 1;
	e.src_addr = from;
	e.dst_addr = to;
	e.has_v6only = e.family == AF_INET6;
	e.v6only = e.has_v6only && option_of(f->own_fd, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
	e.ifname = scope && if_indextoname(scope, device) ? device : NULL;
	int r = sock_capture_options(d, f, &pool, &options);
	if (!r)
		r = multicast_capture(d, f, &pool, &e);
	entry.isk = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__INETSK);
	pool_free(&pool);
	return r;
}

/* ---- restore ---- */

static socklen_t join(const InetSkEntry *e, uint32_t port, const uint32_t *addr, size_t n, union address *to)
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

static int failed(struct restore *s, const InetSkEntry *e, int r, const char *what, const union address *at, uint32_t port)
{
	char text[INET6_ADDRSTRLEN] = "";

	inet_ntop((int)e->family, e->family == AF_INET ? (const void *)&at->v4.sin_addr : (const void *)&at->v6.sin6_addr, text, sizeof(text));
	const char *remedy = r == -EADDRINUSE	 ? " (another process has the port; end that first)" :
			     r == -EADDRNOTAVAIL ? " (this machine does not have the address)" :
						   "";
	return error_errno(s->e, r, "cannot %s %s port %u%s", what, text, port, remedy);
}

static int build(struct restore *s, const InetSkEntry *e, int fd)
{
	union address at;
	int no = e->v6only, r = sock_set_early(s, fd, e->opts);
	uint32_t any[4] = {};

	if (!r && e->has_v6only && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no)) < 0)
		r = error_errno(s->e, -errno, "cannot set a socket to IPv6 only");
	if (r)
		return r;
	bool bound = e->src_port || (e->n_src_addr && memcmp(e->src_addr, any, MIN(e->n_src_addr, 4UL) * 4));
	socklen_t size = join(e, e->src_port, e->src_addr, e->n_src_addr, &at);
	if (bound && bind(fd, &at.any, size) < 0)
		return failed(s, e, -errno, "bind a socket to", &at, e->src_port);
	if (e->state == TCP_LISTEN && e->proto == IPPROTO_TCP) {
		/* Some options are a listener's only as long as it does not listen yet. */
		if ((r = sock_set_options(s, fd, e->opts)))
			return r;
		return listen(fd, (int)e->backlog) < 0 ? failed(s, e, -errno, "listen at", &at, e->src_port) : 0;
	}
	if (e->state == TCP_ESTABLISHED) {
		size = join(e, e->dst_port, e->dst_addr, e->n_dst_addr, &at);
		if (connect(fd, &at.any, size) < 0)
			return failed(s, e, -errno, "connect a socket to", &at, e->dst_port);
	}
	r = sock_set_options(s, fd, e->opts);
	return r ? r : multicast_join(s, fd, e);
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const InetSkEntry *e = f->entry->isk;

	if (!e || !e->opts || (e->family != AF_INET && e->family != AF_INET6))
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	if (e->proto == IPPROTO_TCP && e->state != TCP_CLOSE && e->state != TCP_LISTEN)
		return error_set(s->e, -ENOTSUP, "file %u is a TCP connection, which is not restored yet", f->id);
	int fd = socket((int)e->family, (int)e->type | SOCK_CLOEXEC, (int)e->proto);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make an internet socket");
	int r = build(s, e, fd);
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
	.summary = "TCP sockets that listen, are bound or fresh; UDP sockets with their multicast groups, without datagrams that wait; IPv4 and IPv6",
	.type = FD_TYPES__INETSK,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
