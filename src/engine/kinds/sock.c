/* See sock.h; the options are those of socket(7), ip(7), ipv6(7), tcp(7), udp(7), unix(7). */
#include "engine/kinds/sock.h"

#include "base/apart.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/in6.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/time.h>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#endif
#ifndef SO_TXREHASH
#define SO_TXREHASH 74
#endif
#ifndef TCP_NOTSENT_LOWAT
#define TCP_NOTSENT_LOWAT 25
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif
#ifndef SO_INQ
#define SO_INQ 84
#endif
#ifndef SO_RESERVE_MEM
#define SO_RESERVE_MEM 73
#endif
#define BUFFER_MAX (1 << 30)
#define OPTION_MAX 2048 /* bytes; the longest are headers of IPv6 */
#define CHUNK (64UL << 10)
#define PACKETS_MAX 100000
#define SCM_FDS_MAX 253

/* Options with a field of their own in the images. */
#define BOOL_OPTIONS(X) \
	X(SOL_SOCKET, SO_REUSEADDR, reuseaddr) X(SOL_SOCKET, SO_PASSCRED, so_passcred) X(SOL_SOCKET, SO_PASSSEC, so_passsec) \
	X(SOL_SOCKET, SO_DONTROUTE, so_dontroute) X(SOL_SOCKET, SO_NO_CHECK, so_no_check) X(SOL_SOCKET, SO_REUSEPORT, so_reuseport) \
	X(SOL_SOCKET, SO_BROADCAST, so_broadcast) X(SOL_SOCKET, SO_KEEPALIVE, so_keepalive)
#define INT_OPTIONS(X) \
	X(SOL_SOCKET, SO_PRIORITY, so_priority) X(SOL_SOCKET, SO_RCVLOWAT, so_rcvlowat) X(SOL_SOCKET, SO_MARK, so_mark) \
	X(SOL_SOCKET, SO_OOBINLINE, so_oobinline) X(IPPROTO_TCP, TCP_KEEPCNT, tcp_keepcnt) X(IPPROTO_TCP, TCP_KEEPIDLE, tcp_keepidle) \
	X(IPPROTO_TCP, TCP_KEEPINTVL, tcp_keepintvl)

/* The others: kept as bytes where they differ from those of a new socket of the same kind. */
static const struct {
	int level, name;
} more_options[] = {
	{ SOL_SOCKET, SO_TIMESTAMP_OLD }, { SOL_SOCKET, SO_TIMESTAMPNS_OLD }, { SOL_SOCKET, SO_TIMESTAMPING_OLD }, { SOL_SOCKET, SO_TIMESTAMP_NEW },
	{ SOL_SOCKET, SO_TIMESTAMPNS_NEW }, { SOL_SOCKET, SO_TIMESTAMPING_NEW }, { SOL_SOCKET, SO_PEEK_OFF }, { SOL_SOCKET, SO_BUSY_POLL },
	{ SOL_SOCKET, SO_PREFER_BUSY_POLL }, { SOL_SOCKET, SO_RXQ_OVFL }, { SOL_SOCKET, SO_WIFI_STATUS }, { SOL_SOCKET, SO_NOFCS },
	{ SOL_SOCKET, SO_SELECT_ERR_QUEUE }, { SOL_SOCKET, SO_MAX_PACING_RATE }, { SOL_SOCKET, SO_INCOMING_CPU }, { SOL_SOCKET, SO_ZEROCOPY },
	{ SOL_SOCKET, SO_TXTIME }, { SOL_SOCKET, SO_TXREHASH }, { SOL_SOCKET, SO_LOCK_FILTER }, { SOL_SOCKET, SO_PASSPIDFD }, { SOL_SOCKET, SO_PASSRIGHTS }, { SOL_SOCKET, SO_INQ },
	{ SOL_SOCKET, SO_RESERVE_MEM }, { SOL_SOCKET, 75 /* SO_RCVMARK */ }, { SOL_SOCKET, 82 /* SO_RCVPRIORITY */ }, { SOL_SOCKET, SO_DEBUG },
	{ IPPROTO_IP, IP_TOS }, { IPPROTO_IP, IP_TTL }, { IPPROTO_IP, IP_RECVERR }, { IPPROTO_IP, IP_PKTINFO }, { IPPROTO_IP, IP_RECVTTL },
	{ IPPROTO_IP, IP_RECVTOS }, { IPPROTO_IP, IP_RECVOPTS }, { IPPROTO_IP, IP_RETOPTS }, { IPPROTO_IP, IP_MTU_DISCOVER },
	{ IPPROTO_IP, IP_FREEBIND }, { IPPROTO_IP, IP_TRANSPARENT }, { IPPROTO_IP, IP_RECVORIGDSTADDR }, { IPPROTO_IP, IP_MINTTL },
	{ IPPROTO_IP, IP_NODEFRAG }, { IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT }, { IPPROTO_IP, IP_CHECKSUM }, { IPPROTO_IP, IP_RECVFRAGSIZE },
	{ IPPROTO_IP, IP_MULTICAST_IF }, { IPPROTO_IP, IP_MULTICAST_TTL }, { IPPROTO_IP, IP_MULTICAST_LOOP }, { IPPROTO_IP, IP_MULTICAST_ALL }, { IPPROTO_IP, IP_UNICAST_IF },
	{ IPPROTO_IP, IP_PASSSEC }, { IPPROTO_IP, 26 /* IP_RECVERR_RFC4884 */ }, { IPPROTO_IP, 51 /* IP_LOCAL_PORT_RANGE */ },
	{ IPPROTO_IPV6, IPV6_TCLASS }, { IPPROTO_IPV6, IPV6_UNICAST_HOPS }, { IPPROTO_IPV6, IPV6_RECVERR }, { IPPROTO_IPV6, IPV6_RECVPKTINFO },
	{ IPPROTO_IPV6, IPV6_RECVHOPLIMIT }, { IPPROTO_IPV6, IPV6_RECVTCLASS }, { IPPROTO_IPV6, IPV6_MTU_DISCOVER }, { IPPROTO_IPV6, IPV6_MULTICAST_HOPS },
	{ IPPROTO_IPV6, IPV6_MULTICAST_LOOP }, { IPPROTO_IPV6, IPV6_MULTICAST_IF }, { IPPROTO_IPV6, IPV6_MULTICAST_ALL }, { IPPROTO_IPV6, IPV6_FREEBIND },
	{ IPPROTO_IPV6, IPV6_TRANSPARENT }, { IPPROTO_IPV6, IPV6_AUTOFLOWLABEL }, { IPPROTO_IPV6, IPV6_RECVORIGDSTADDR }, { IPPROTO_IPV6, IPV6_UNICAST_IF },
	{ IPPROTO_IPV6, IPV6_MINHOPCOUNT }, { IPPROTO_IPV6, IPV6_DONTFRAG }, { IPPROTO_IPV6, 30 /* IPV6_ROUTER_ALERT_ISOLATE */ },
	{ IPPROTO_IPV6, 31 /* IPV6_RECVERR_RFC4884 */ }, { IPPROTO_IPV6, IPV6_2292PKTINFO }, { IPPROTO_IPV6, IPV6_2292HOPOPTS },
	{ IPPROTO_IPV6, IPV6_2292DSTOPTS }, { IPPROTO_IPV6, IPV6_2292RTHDR }, { IPPROTO_IPV6, IPV6_2292HOPLIMIT }, { IPPROTO_IPV6, IPV6_HOPOPTS },
	{ IPPROTO_IPV6, IPV6_RTHDR }, { IPPROTO_IPV6, IPV6_RTHDRDSTOPTS }, { IPPROTO_IPV6, IPV6_DSTOPTS },
	{ IPPROTO_TCP, TCP_NODELAY }, { IPPROTO_TCP, TCP_CORK }, { IPPROTO_TCP, TCP_DEFER_ACCEPT }, { IPPROTO_TCP, TCP_SYNCNT }, { IPPROTO_TCP, TCP_LINGER2 },
	{ IPPROTO_TCP, TCP_WINDOW_CLAMP }, { IPPROTO_TCP, TCP_QUICKACK }, { IPPROTO_TCP, TCP_CONGESTION }, { IPPROTO_TCP, TCP_USER_TIMEOUT },
	{ IPPROTO_TCP, TCP_FASTOPEN }, { IPPROTO_TCP, TCP_FASTOPEN_CONNECT }, { IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE }, { IPPROTO_TCP, TCP_NOTSENT_LOWAT },
	{ IPPROTO_TCP, TCP_SAVE_SYN }, { IPPROTO_TCP, TCP_INQ }, { IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS }, { IPPROTO_TCP, TCP_MAXSEG },
	{ IPPROTO_TCP, TCP_FASTOPEN_KEY }, { IPPROTO_TCP, TCP_TX_DELAY }, { IPPROTO_TCP, 44 /* TCP_RTO_MAX_MS */ }, { IPPROTO_TCP, 45 /* TCP_RTO_MIN_US */ },
	{ IPPROTO_TCP, 46 /* TCP_DELACK_MAX_US */ },
	{ IPPROTO_IP, IP_HDRINCL }, { IPPROTO_IP, IP_OPTIONS }, { IPPROTO_IPV6, IPV6_HDRINCL }, { IPPROTO_IPV6, IPV6_CHECKSUM },
	{ IPPROTO_IPV6, IPV6_RECVHOPOPTS }, { IPPROTO_IPV6, IPV6_RECVRTHDR }, { IPPROTO_IPV6, IPV6_RECVDSTOPTS }, { IPPROTO_IPV6, IPV6_RECVPATHMTU },
	{ IPPROTO_IPV6, IPV6_RECVFRAGSIZE }, { IPPROTO_IPV6, IPV6_FLOWINFO }, { IPPROTO_IPV6, IPV6_FLOWINFO_SEND }, { IPPROTO_IPV6, IPV6_ADDR_PREFERENCES },
	{ SOL_RAW, 1 /* ICMP_FILTER */ }, { IPPROTO_ICMPV6, 1 /* ICMPV6_FILTER */ }, { IPPROTO_UDPLITE, 10 /* UDPLITE_SEND_CSCOV */ },
	{ IPPROTO_UDPLITE, 11 /* UDPLITE_RECV_CSCOV */ },
	{ SOL_NETLINK, 3 /* NETLINK_PKTINFO */ }, { SOL_NETLINK, 4 /* NETLINK_BROADCAST_ERROR */ }, { SOL_NETLINK, 5 /* NETLINK_NO_ENOBUFS */ },
	{ SOL_NETLINK, 8 /* NETLINK_LISTEN_ALL_NSID */ }, { SOL_NETLINK, 10 /* NETLINK_CAP_ACK */ }, { SOL_NETLINK, 11 /* NETLINK_EXT_ACK */ },
	{ SOL_NETLINK, 12 /* NETLINK_GET_STRICT_CHK */ },
	{ SOL_PACKET, 20 /* PACKET_QDISC_BYPASS */ }, { SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */ },
	{ AF_VSOCK, 2 /* SO_VM_SOCKETS_BUFFER_MAX_SIZE */ }, { AF_VSOCK, 1 /* …_MIN_SIZE */ }, { AF_VSOCK, 0 /* SO_VM_SOCKETS_BUFFER_SIZE */ },
	{ AF_VSOCK, 8 /* SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW */ },
	{ IPPROTO_UDP, 1 /* UDP_CORK */ },
	{ IPPROTO_UDP, 100 /* UDP_ENCAP */ }, { IPPROTO_UDP, 101 /* UDP_NO_CHECK6_TX */ }, { IPPROTO_UDP, 102 /* UDP_NO_CHECK6_RX */ },
	{ IPPROTO_UDP, 103 /* UDP_SEGMENT */ }, { IPPROTO_UDP, 104 /* UDP_GRO */ },
};

bool sock_is(const struct descriptor *f, int family)
{
	int is = -1;
	socklen_t size = sizeof(is);

	return S_ISSOCK(f->st.st_mode) && !(f->flags & O_PATH) && f->own_fd >= 0 &&
	       getsockopt(f->own_fd, SOL_SOCKET, SO_DOMAIN, &is, &size) == 0 && is == family;
}

/* ---- options, dump ---- */

static bool get_int(int fd, int level, int name, uint32_t *ret)
{
	int value = 0;
	socklen_t size = sizeof(value);

	if (getsockopt(fd, level, name, &value, &size) < 0)
		return false;
	*ret = (uint32_t)value;
	return true;
}

static int number_of(int fd, int name)
{
	uint32_t value = 0;

	get_int(fd, SOL_SOCKET, name, &value);
	return (int)value;
}

static bool applies(int level, int family, int protocol)
{
	switch (level) {
	case SOL_SOCKET: return true;
	case IPPROTO_IP: return family == AF_INET || family == AF_INET6;
	case IPPROTO_IPV6: return family == AF_INET6;
	case SOL_NETLINK: return family == AF_NETLINK;
	case SOL_PACKET: return family == AF_PACKET;
	case AF_VSOCK: return family == AF_VSOCK;
	case IPPROTO_TCP: return (family == AF_INET || family == AF_INET6) && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP);
	case SOL_RAW: return family == AF_INET && protocol == IPPROTO_ICMP;
	default: return (family == AF_INET || family == AF_INET6) && level == protocol;
	}
}

static int capture_more(int fd, struct pool *pool, SkOptsEntry *o)
{
	int family = number_of(fd, SO_DOMAIN), protocol = number_of(fd, SO_PROTOCOL);
	_cleanup_close_ int fresh = socket(family, number_of(fd, SO_TYPE) | SOCK_CLOEXEC, protocol);

	o->more = pool_take(pool, sizeof(*o->more) * ARRAY_SIZE(more_options));
	if (fresh < 0 || !o->more)
		return fresh < 0 ? -errno : -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(more_options); i++) {
		char is[OPTION_MAX], was[OPTION_MAX];
		socklen_t size = sizeof(is), fresh_size = sizeof(was);
		int level = more_options[i].level, name = more_options[i].name;
		if (!applies(level, family, protocol) || getsockopt(fd, level, name, is, &size) < 0)
			continue;
		if (getsockopt(fresh, level, name, was, &fresh_size) == 0 && size == fresh_size && !memcmp(is, was, size))
			continue;
		SockOptEntry *e = pool_take(pool, sizeof(*e));
		if (!e)
			return -ENOMEM;
		sock_opt_entry__init(e);
		e->level = level;
		e->name = name;
		e->value.len = size;
		e->value.data = pool_copy(pool, is, size);
		o->more[o->n_more++] = e;
	}
	return 0;
}

static int capture_filter(int fd, struct pool *pool, SkOptsEntry *o)
{
	socklen_t count = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0)
		return errno == ENOPROTOOPT ? 0 : -ENOTSUP;
	if (!count)
		return 0;
	o->so_filter = pool_take(pool, count * sizeof(struct sock_filter));
	if (!o->so_filter)
		return -ENOMEM;
	o->n_so_filter = count;
	return getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, o->so_filter, &count) < 0 ? -errno : 0;
}

/* A socket stays in the namespace that it was made in, wherever its process goes. Who may not ask has no other. */
static int check_namespace(struct dump *d, const struct descriptor *f)
{
	_cleanup_close_ int ns = ioctl(f->own_fd, SIOCGSKNS);
	struct stat st;

	if (ns < 0)
		return 0;
	if (!d->own_net && stat("/proc/self/ns/net", &st) == 0)
		d->own_net = st.st_ino;
	return fstat(ns, &st) < 0 || st.st_ino == d->own_net ? 0 : fd_error(d, f, -ENOTSUP, "is of another network namespace, which is not saved yet");
}

int sock_capture_options(struct dump *d, struct descriptor *f, struct pool *pool, SkOptsEntry *o)
{
	int fd = f->own_fd;
	struct timeval send_time = {}, receive_time = {};
	socklen_t size = sizeof(struct timeval);
	struct linger linger = {};
	char device[IFNAMSIZ] = "";
	int family = number_of(fd, SO_DOMAIN), protocol = number_of(fd, SO_PROTOCOL);
	uint32_t value;
	int r = check_namespace(d, f);

	if (r)
		return r;
	o->so_sndbuf = (uint32_t)number_of(fd, SO_SNDBUF);
	o->so_rcvbuf = (uint32_t)number_of(fd, SO_RCVBUF);
	o->has_so_buf_lock = get_int(fd, SOL_SOCKET, SO_BUF_LOCK, &o->so_buf_lock);
	getsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_time, &size);
	getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive_time, &size);
	o->so_snd_tmo_sec = (uint64_t)send_time.tv_sec;
	o->so_snd_tmo_usec = (uint64_t)send_time.tv_usec;
	o->so_rcv_tmo_sec = (uint64_t)receive_time.tv_sec;
	o->so_rcv_tmo_usec = (uint64_t)receive_time.tv_usec;
#define X(option_level, option, field) \
	if (applies(option_level, family, protocol) && get_int(fd, option_level, option, &value)) \
		o->has_##field = 1, o->field = value;
	BOOL_OPTIONS(X)
	INT_OPTIONS(X)
#undef X
	size = sizeof(linger);
	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &size) == 0 && linger.l_onoff) {
		o->has_so_linger = 1;
		o->so_linger = (uint32_t)linger.l_linger;
	}
	size = sizeof(device);
	if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &size) == 0 && size && device[0])
		o->so_bound_dev = pool_copy(pool, device, strlen(device) + 1);
	if (family == AF_INET6 && get_int(fd, IPPROTO_IPV6, IPV6_ROUTER_ALERT, &value) && value)
		return fd_error(d, f, -ENOTSUP, "gets packets with a router alert (IPV6_ROUTER_ALERT), of a number that the kernel does not tell; close it first");
	r = capture_filter(fd, pool, o);
	if (r == -ENOTSUP)
		return fd_error(d, f, r, "has an eBPF program attached, which is not saved; detach it first");
	if (!r)
		r = capture_more(fd, pool, o);
	return r ? fd_errno(d, f, r, "does not tell its options") : 0;
}

/* ---- options, restore ---- */

static int set_int(struct restore *s, int fd, int level, int name, int value)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) == 0)
		return 0;
	return error_errno(s->e, -errno, "cannot set option %d.%d of a socket to %d", level, name, value);
}

int sock_set_early(struct restore *s, int fd, const SkOptsEntry *o)
{
	static const int names[] = { IP_FREEBIND, IP_TRANSPARENT };
	int r = set_int(s, fd, SOL_SOCKET, SO_REUSEADDR, 1);

	if (!r && o->so_reuseport)
		r = set_int(s, fd, SOL_SOCKET, SO_REUSEPORT, 1);
	for (size_t i = 0; !r && i < o->n_more; i++)
		for (size_t k = 0; !r && k < ARRAY_SIZE(names); k++)
			if (o->more[i]->level == IPPROTO_IP && o->more[i]->name == names[k])
				r = set_int(s, fd, IPPROTO_IP, names[k], 1);
	if (!r && o->so_bound_dev && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, o->so_bound_dev, (socklen_t)strlen(o->so_bound_dev) + 1) < 0)
		r = error_errno(s->e, -errno, "cannot bind a socket to the device %s", o->so_bound_dev);
	return r;
}

static int set_buffer(struct restore *s, int fd, int name, int force, uint32_t wanted)
{
	if (number_of(fd, name) == (int)wanted || wanted > BUFFER_MAX)
		return 0;
	int half = (int)wanted / 2;
	/* Without the capability: up to what the machine allows. */
	if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof(half)) == 0)
		return 0;
	return set_int(s, fd, SOL_SOCKET, name, half);
}

int sock_set_buffers(struct restore *s, int fd, const SkOptsEntry *o)
{
	int r = set_buffer(s, fd, SO_SNDBUF, SO_SNDBUFFORCE, o->so_sndbuf);

	return r ? r : set_buffer(s, fd, SO_RCVBUF, SO_RCVBUFFORCE, o->so_rcvbuf);
}

static int set_timeout(struct restore *s, int fd, int name, uint64_t sec, uint64_t usec)
{
	struct timeval time = { (time_t)sec, (suseconds_t)usec };

	if ((!sec && !usec) || setsockopt(fd, SOL_SOCKET, name, &time, sizeof(time)) == 0)
		return 0;
	return error_errno(s->e, -errno, "cannot set a timeout of a socket");
}

/* Nothing else is set on an image's word. */
static bool is_listed(const SockOptEntry *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(more_options); i++)
		if (more_options[i].level == m->level && more_options[i].name == m->name)
			return true;
	return false;
}

/* Memory set aside beforehand, which takes a memory control group. */
static bool is_hint(const SockOptEntry *m)
{
	return m->level == SOL_SOCKET && m->name == SO_RESERVE_MEM;
}

/* Multipath TCP sets some and says that it could not, as a part of it could not. */
static bool is_set(int fd, const SockOptEntry *m)
{
	char is[OPTION_MAX];
	socklen_t size = sizeof(is);

	return getsockopt(fd, m->level, m->name, is, &size) == 0 && size == m->value.len && !memcmp(is, m->value.data, size);
}

static int set_rest(struct restore *s, int fd, const SkOptsEntry *o)
{
	struct sock_fprog filter = { (unsigned short)o->n_so_filter, (struct sock_filter *)o->so_filter };

	if (o->has_so_linger) {
		struct linger linger = { 1, (int)o->so_linger };
		if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0)
			return error_errno(s->e, -errno, "cannot set the lingering of a socket");
	}
	if (o->n_so_filter && setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0)
		return error_errno(s->e, -errno, "cannot attach the filter of a socket");
	for (size_t i = 0; i < o->n_more; i++) {
		const SockOptEntry *m = o->more[i];
		if (!is_listed(m))
			return error_set(s->e, -EBADMSG, "a socket has an option %d.%d that can't be", m->level, m->name);
		int r = setsockopt(fd, m->level, m->name, m->value.data, (socklen_t)m->value.len) < 0 ? -errno : 0;
		if (r && !is_hint(m) && !is_set(fd, m))
			return error_errno(s->e, r, "cannot set option %d.%d of a socket", m->level, m->name);
	}
	return 0;
}

int sock_set_options(struct restore *s, int fd, const SkOptsEntry *o)
{
	int family = number_of(fd, SO_DOMAIN), protocol = number_of(fd, SO_PROTOCOL), r = 0;
	uint32_t now;

	if (!o)
		return 0;
#define X(option_level, option, field) \
	if (!r && o->has_##field && applies(option_level, family, protocol) && get_int(fd, option_level, option, &now) && \
	    now != (uint32_t)o->field) \
		r = set_int(s, fd, option_level, option, (int)o->field);
	BOOL_OPTIONS(X)
	INT_OPTIONS(X)
#undef X
	if (!r)
		r = set_timeout(s, fd, SO_SNDTIMEO, o->so_snd_tmo_sec, o->so_snd_tmo_usec);
	if (!r)
		r = set_timeout(s, fd, SO_RCVTIMEO, o->so_rcv_tmo_sec, o->so_rcv_tmo_usec);
	if (!r)
		r = sock_set_buffers(s, fd, o);
	if (!r && o->has_so_buf_lock && number_of(fd, SO_BUF_LOCK) != (int)o->so_buf_lock)
		r = set_int(s, fd, SOL_SOCKET, SO_BUF_LOCK, (int)o->so_buf_lock);
	return r ? r : set_rest(s, fd, o);
}

/* ---- what waits to be received ---- */

struct peek_job {
	int fd;
	struct sock_packets *to;
};

static int take_control(struct sock_packets *to, struct sock_packet *p, struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred sender;
			memcpy(&sender, CMSG_DATA(c), sizeof(sender));
			p->entry.has_pid = p->entry.has_uid = p->entry.has_gid = 1;
			p->entry.pid = (uint32_t)sender.pid;
			p->entry.uid = sender.uid;
			p->entry.gid = sender.gid;
		} else if (c->cmsg_type == SCM_RIGHTS) {
			p->n_fds = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			p->fds = pool_copy(&to->pool, CMSG_DATA(c), p->n_fds * sizeof(int));
			if (!p->fds)
				return -ENOMEM;
		}
	}
	return m->msg_flags & MSG_CTRUNC ? -EMFILE : 0;
}

static void drop_rights(struct sock_packet *p)
{
	for (size_t i = 0; i < p->n_fds; i++)
		close(p->fds[i]);
	p->n_fds = 0;
}

/*
 * One look, with `size` bytes of room. 1: one more packet, -EMSGSIZE: it needs *ret_size; 0: no more. A message without bytes shows once
 * only, so it is not looked at twice.
 */
static int peek_sized(int fd, bool stream, bool ended, char *room, size_t size, struct sock_packets *to, size_t *ret_size)
{
	union {
		char bytes[CMSG_SPACE(sizeof(int) * SCM_FDS_MAX) + CMSG_SPACE(sizeof(struct ucred)) + 512];
		struct cmsghdr align;
	} control;
	char name[128];
	struct iovec v = { room, size };
	struct msghdr m = { .msg_name = name, .msg_namelen = sizeof(name), .msg_iov = &v, .msg_iovlen = 1,
			    .msg_control = control.bytes, .msg_controllen = sizeof(control) };
	struct sock_packet one = {};

	ssize_t n = recvmsg(fd, &m, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC | (stream ? 0 : MSG_TRUNC));
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (n == 0 && (stream || (ended && !m.msg_controllen)))
		return 0;
	sk_packet_entry__init(&one.entry);
	one.entry.length = (uint32_t)n;
	*ret_size = (size_t)n;
	int r = take_control(to, &one, &m);
	if (!r && (size_t)n > size)
		r = -EMSGSIZE;
	if (!r && !(one.data = pool_copy(&to->pool, room, (size_t)n)))
		r = -ENOMEM;
	if (!r && !stream && m.msg_namelen > sizeof(sa_family_t)) {
		one.entry.has_addr = 1;
		one.entry.addr.len = m.msg_namelen - sizeof(sa_family_t);
		one.entry.addr.data = pool_copy(&to->pool, name + sizeof(sa_family_t), one.entry.addr.len);
		r = one.entry.addr.data ? 0 : -ENOMEM;
	}
	struct sock_packet *p = r || to->list.count >= PACKETS_MAX ? NULL : VEC_PUSH(&to->list);
	if (!p) {
		drop_rights(&one);
		return r ? r : -ENOMEM;
	}
	*p = one;
	return 1;
}

/* 1: one more packet; 0: no more. *offset: of all that was looked at. */
static int peek_one(int fd, int type, bool ended, char room[CHUNK], struct sock_packets *to, int *offset)
{
	size_t size = 0;
	int r = peek_sized(fd, type == SOCK_STREAM, ended && type == SOCK_SEQPACKET, room, CHUNK, to, &size);

	if (r == -EMSGSIZE) {
		_cleanup_free_ char *more = malloc(size);
		if (!more || setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, offset, sizeof(*offset)) < 0)
			return more ? -errno : -ENOMEM;
		r = peek_sized(fd, false, false, more, size, to, &size);
	}
	if (r == 1)
		*offset += (int)size;
	return r;
}

/*
 * With SO_PEEK_OFF each look goes on where the last one ended; it passes over a datagram without bytes that was looked at before, so
 * that one which waits for a second dump of the same process is not seen. SO_PASSCRED shows the credentials that messages carry, whether or not the
 * program has asked for them yet; the descriptors of SO_PASSPIDFD follow from these. The options are the socket's own: set back whatever
 * happens.
 */
static int peek_all(void *argument)
{
	static const struct {
		int name, value;
	} look[] = { { SO_PASSPIDFD, 0 }, { SO_PASSCRED, 1 }, { SO_PEEK_OFF, 0 } };
	struct peek_job *job = argument;
	int before[ARRAY_SIZE(look)], r = 0, offset = 0, type = number_of(job->fd, SO_TYPE);
	struct pollfd p = { .fd = job->fd, .events = POLLIN | POLLRDHUP };
	_cleanup_free_ char *room = malloc(CHUNK);
	char urgent;

	if (!room)
		return -ENOMEM;
	if (type == SOCK_STREAM && recv(job->fd, &urgent, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) == 1)
		return -EDOM;
	const bool local = number_of(job->fd, SO_DOMAIN) == AF_UNIX;
	for (size_t i = 0; i < ARRAY_SIZE(look); i++) {
		socklen_t size = sizeof(before[i]);
		before[i] = look[i].value;
		if (!local && look[i].name != SO_PEEK_OFF)
			continue;
		if (getsockopt(job->fd, SOL_SOCKET, look[i].name, &before[i], &size) < 0)
			r = look[i].name == SO_PASSPIDFD ? r : -errno; /* Linux 6.5 */
		else if (before[i] != look[i].value && setsockopt(job->fd, SOL_SOCKET, look[i].name, &look[i].value, sizeof(look[i].value)) < 0)
			r = -errno;
	}
	if (r)
		goto set_back;
	do
		r = poll(&p, 1, 0) > 0 && p.revents & POLLIN ? peek_one(job->fd, type, p.revents & POLLRDHUP, room, job->to, &offset) : 0;
	while (r > 0);
set_back:
	for (size_t i = 0; i < ARRAY_SIZE(look); i++)
		if (before[i] != look[i].value)
			setsockopt(job->fd, SOL_SOCKET, look[i].name, &before[i], sizeof(before[i]));
	return r;
}

int sock_peek(int fd, struct sock_packets *ret)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	struct peek_job job = { fd, ret };

	if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLIN))
		return 0;
	return run_apart(NULL, peek_all, &job);
}

int sock_refuse_waiting(struct dump *d, struct descriptor *f)
{
	struct pollfd p = { .fd = f->own_fd, .events = POLLIN };

	if (d->request->skip_in_flight || poll(&p, 1, 0) <= 0 || !(p.revents & (POLLIN | POLLERR)))
		return 0;
	return fd_error(d, f, -ENOTSUP, "has %s, which the kernel gives only to who takes it; try again, or use --skip-in-flight to drop it",
			p.revents & POLLERR ? "an error that was not read yet" : "a packet that was not read yet");
}

void sock_packets_free(struct sock_packets *p)
{
	VEC_FOREACH(&p->list, x)
		for (size_t i = 0; i < x->n_fds; i++)
			if (x->fds[i] >= 0)
				close(x->fds[i]);
	VEC_FREE(&p->list);
	pool_free(&p->pool);
}

int sock_packet_write(struct dump *d, const struct sock_packet *p)
{
	int r = d->sk_queues ? 0 : image_create(d->dir, "sk-queues.img", IMAGE_MAGIC_SK_QUEUES, &d->sk_queues);

	if (!r)
		r = image_write_message(d->sk_queues, &p->entry.base);
	if (!r)
		r = image_write_bytes(d->sk_queues, p->data, p->entry.length);
	return r ? error_errno(d->e, r, "cannot write sk-queues.img") : 0;
}

int sock_packets_finish(struct dump *d)
{
	int r = d->sk_queues ? image_close(TAKE_PTR(d->sk_queues)) : 0;

	return r ? error_errno(d->e, r, "cannot write sk-queues.img") : 0;
}

int sock_queues_load(struct restore *s, struct sock_queue **ret)
{
	struct image_file *file;
	struct sock_queue **end = ret;
	ProtobufCMessage *m;
	int r = image_open(s->dir, "sk-queues.img", IMAGE_MAGIC_SK_QUEUES, &file);

	if (r)
		return r == -ENOENT ? 0 : error_errno(s->e, r, "cannot read sk-queues.img");
	while ((r = image_read_message(file, &sk_packet_entry__descriptor, &m)) == 1) {
		struct sock_queue *q = calloc(1, sizeof(*q));
		SkPacketEntry *e = (SkPacketEntry *)m;
		if (!q) {
			sk_packet_entry__free_unpacked(e, NULL);
			r = -ENOMEM;
			break;
		}
		*end = q;
		end = &q->next;
		q->entry = e;
		q->data = e->length <= IMAGE_RECORD_MAX ? malloc(e->length + 1UL) : NULL;
		r = q->data ? image_read_bytes(file, q->data, e->length) : -EBADMSG;
		if (r)
			break;
	}
	image_close(file);
	return r ? error_errno(s->e, r, "sk-queues.img is damaged") : 0;
}

void sock_queues_free(struct sock_queue *q)
{
	while (q) {
		struct sock_queue *next = q->next;
		if (q->entry)
			sk_packet_entry__free_unpacked(q->entry, NULL);
		free(q->data);
		free(q);
		q = next;
	}
}
