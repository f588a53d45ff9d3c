/*
 * TCP connections, restore; see tcp.h. A socket under repair (TCP_REPAIR) is connected without a packet being sent, gets its numbers, options
 * and queues, and stays under repair until the tree runs: a restore that fails closes it without telling the peer. What the kernel sets
 * only on a packet of the peer's (that it has ended, that it has seen our end) is brought about by one of ours (tcp_packet.h).
 *
 * Last of all the network is let go, and repair is ended, upon which the kernel asks the peer how far it is (a window probe).
 */
#include "base/apart.h"
#include "base/log.h"
#include "engine/kinds/external.h"
#include "engine/kinds/inet_diag.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/tcp.h"
#include "engine/kinds/tcp_packet.h"
#include "engine/kinds/tcp_waiting.h"
#include "tcp_stream.pb-c.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <poll.h>
#include <time.h>

#define QUEUE_MAX (1U << 30)
#define READ_SIZE (1UL << 20)
#define PIECE (64UL << 10)
#define MSS_MIN 48
#define MSS_MAX 65535
#define USER_MSS_MIN 88U /* what TCP_MAXSEG takes */
#define USER_MSS_MAX 32767U
#define TIMESTAMP_SIZE 12 /* which the kernel takes off again */
#define WSCALE_MAX 14
#define WIDE 65536U /* a window that any packet of ours fits into */
#define WAIT_TRIES 1000
#define SOME_PORT 9

/* Options of the protocol, as TCP_REPAIR_OPTIONS names them: RFC 9293, RFC 7323, RFC 2018. */
enum { TCPOPT_MSS = 2, TCPOPT_WINDOW = 3, TCPOPT_SACK_PERM = 4, TCPOPT_TIMESTAMP = 8 };

struct stream {
	struct file *file;
	const InetSkEntry *socket;
	TcpStreamEntry *e;
	char *data[2]; /* to be received, to be sent */
	struct connection c;
};

struct tcp_restore {
	VEC(struct stream) list;
	VEC(struct tcp_waiting *) waiting; /* of listeners */
	struct network_lock *lock; /* NULL: not needed, or not made yet */
};

static bool is_connection(const InetSkEntry *e)
{
	return e->proto == IPPROTO_TCP && e->type == SOCK_STREAM && e->state != STATE_CLOSE && e->state != STATE_LISTEN;
}

/* The peer has ended. */
static bool got_fin(uint32_t state)
{
	return state == STATE_CLOSE_WAIT || state == STATE_LAST_ACK || state == STATE_CLOSING;
}

/* We have, and what stands in the queue is one shorter than the numbers say. */
static bool sent_fin(uint32_t state)
{
	return state == STATE_FIN_WAIT1 || state == STATE_FIN_WAIT2 || state == STATE_LAST_ACK || state == STATE_CLOSING;
}

/* The numbers where each queue begins, and where that which is to be received ends. */
static uint32_t received_end(const struct stream *x)
{
	return x->e->inq_seq - got_fin(x->socket->state);
}

static uint32_t send_begin(const struct stream *x)
{
	return x->e->outq_seq - x->e->outq_len - (sent_fin(x->socket->state) || x->socket->state == STATE_SYN_SENT);
}

/* ---- reading the images ---- */

static bool is_sound(const struct stream *x)
{
	const InetSkEntry *s = x->socket;
	const TcpStreamEntry *e = x->e;
	size_t words = s->family == AF_INET6 ? 4 : 1;
	bool connected = s->state != STATE_CLOSE;

	return e->inq_len <= QUEUE_MAX && e->outq_len <= QUEUE_MAX && e->unsq_len <= e->outq_len && e->snd_wscale <= WSCALE_MAX &&
	       e->rcv_wscale <= WSCALE_MAX && e->snd_wnd <= e->max_window && s->n_src_addr == words && (!connected || s->n_dst_addr == words) &&
	       s->src_port && s->src_port < 65536 && s->dst_port < 65536 &&
	       (!connected || (s->dst_port && e->mss_clamp >= MSS_MIN && e->mss_clamp <= MSS_MAX)) &&
	       (s->state != STATE_SYN_SENT || (!e->inq_len && !e->outq_len)) && (s->state != STATE_FIN_WAIT2 || !e->outq_len);
}

/* In pieces, as there may be less than is said. */
static int read_queue(struct image_file *file, char **to, size_t size)
{
	for (size_t have = 0, n; have < size; have += n) {
		n = MIN(size - have, READ_SIZE);
		char *more = realloc(*to, have + n);
		if (!more)
			return -ENOMEM;
		*to = more;
		int r = image_read_bytes(file, more + have, n);
		if (r)
			return r;
	}
	return 0;
}

static int read_stream(struct restore *s, struct stream *x)
{
	struct image_file *file;
	char name[40];

	snprintf(name, sizeof(name), "tcp-stream-%x.img", x->socket->ino);
	int r = image_open(s->dir, name, IMAGE_MAGIC_TCP_STREAM, &file);
	if (r == -ENOENT && x->socket->state == STATE_CLOSE)
		return 0;
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	r = image_read_message(file, &tcp_stream_entry__descriptor, (ProtobufCMessage **)&x->e);
	r = r == 1 ? is_sound(x) ? 0 : -EBADMSG : r ? r : -EBADMSG;
	if (!r)
		r = read_queue(file, &x->data[0], x->e->inq_len);
	if (!r)
		r = read_queue(file, &x->data[1], x->e->outq_len);
	image_close(file);
	return r ? error_errno(s->e, r, "%s is damaged", name) : 0;
}

static void to_connection(const InetSkEntry *e, struct connection *c)
{
	static const unsigned char prefix[12] = { [10] = 0xff, [11] = 0xff };
	size_t size = e->family == AF_INET ? 4 : 16, skip = 0;

	*c = (struct connection){ .family = (int)e->family, .local_port = (uint16_t)e->src_port, .peer_port = (uint16_t)e->dst_port };
	if (size == 16 && !memcmp(e->dst_addr, prefix, sizeof(prefix))) {
		c->family = AF_INET;
		size = 4;
		skip = 12;
	}
	memcpy(c->local, (const char *)e->src_addr + skip, size);
	memcpy(c->peer, (const char *)e->dst_addr + skip, size);
}

/* What a listener has not accepted. */
static int load_waiting(struct restore *s, struct file *f)
{
	struct tcp_waiting *w, **slot;
	int r = tcp_waiting_load(s, f, &w);

	if (r || !w)
		return r;
	if (!(slot = VEC_PUSH(&s->tcp->waiting))) {
		tcp_waiting_free(w);
		return error_set(s->e, -ENOMEM, "out of memory");
	}
	*slot = w;
	return s->request->tcp_established ? 0 : error_set(s->e, -ENOTSUP, "file %u has TCP connections that were not accepted; use --tcp-established to have "
							    "them again, or --tcp-close to drop them", f->id);
}

static int load_socket(struct restore *s, struct file *f)
{
	const InetSkEntry *e = f->entry->isk;
	bool connected = is_connection(e);

	if (e->state > STATE_CLOSING || !e->state || e->state == STATE_SYN_RECV || e->state == STATE_TIME_WAIT)
		return error_set(s->e, -EBADMSG, "file %u is a TCP socket in the state %u, which can't be", f->id, e->state);
	if ((connected && s->request->tcp_close) || external_given(s->request, "socket", e->ino) >= 0)
		return 0;
	if (connected && !s->request->tcp_established)
		return error_set(s->e, -ENOTSUP, "file %u is a TCP connection; use --tcp-established to have it again, or --tcp-close to have it closed", f->id);
	if (e->state == STATE_LISTEN && !s->request->tcp_close)
		return load_waiting(s, f);
	if (!connected && (e->state == STATE_LISTEN || e->shutdown != SK_SHUTDOWN__BOTH))
		return 0;
	struct stream *x = VEC_PUSH(&s->tcp->list);
	if (!x)
		return error_set(s->e, -ENOMEM, "out of memory");
	*x = (struct stream){ .file = f, .socket = e };
	int r = read_stream(s, x);
	if (!r && connected)
		to_connection(e, &x->c);
	return r;
}

int tcp_load(struct restore *s)
{
	int r = 0;

	s->tcp = calloc(1, sizeof(*s->tcp));
	if (!s->tcp)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < s->files.count; i++) {
		const InetSkEntry *e = s->files.data[i].entry->isk;
		if (e && e->proto == IPPROTO_TCP && e->type == SOCK_STREAM)
			r = load_socket(s, &s->files.data[i]);
	}
	return r;
}

static struct stream *stream_of(const struct restore *s, const struct file *f)
{
	VEC_FOREACH(&s->tcp->list, x)
		if (x->file == f)
			return x;
	return NULL;
}

bool tcp_has_state(const struct restore *s, const struct file *f)
{
	const InetSkEntry *e = f->entry->isk;

	return is_connection(e) || (e->proto == IPPROTO_TCP && e->state == STATE_CLOSE && e->shutdown == SK_SHUTDOWN__BOTH);
}

/* ---- small steps ---- */

static int set(int fd, int name, int value)
{
	return setsockopt(fd, IPPROTO_TCP, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int set_seq(int fd, int queue, uint32_t seq)
{
	int r = set(fd, TCP_REPAIR_QUEUE, queue);

	return r ? r : set(fd, TCP_QUEUE_SEQ, (int)seq);
}

static int state_of(int fd)
{
	struct tcp_info info = {};
	socklen_t size = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0 ? -errno : info.tcpi_state;
}

static int failed(struct restore *s, const struct stream *x, int r, const char *what)
{
	return error_errno(s->e, r, "cannot %s of the TCP connection from port %u to port %u", what, x->socket->src_port, x->socket->dst_port);
}

static int set_options(const struct stream *x, int fd)
{
	const TcpStreamEntry *e = x->e;
	struct tcp_repair_opt list[4] = { { TCPOPT_MSS, e->mss_clamp } };
	size_t n = 1;

	if (e->opt_mask & TCPI_OPT_WSCALE)
		list[n++] = (struct tcp_repair_opt){ TCPOPT_WINDOW, e->snd_wscale | e->rcv_wscale << 16 };
	if (e->opt_mask & TCPI_OPT_SACK)
		list[n++] = (struct tcp_repair_opt){ TCPOPT_SACK_PERM, 0 };
	if (e->opt_mask & TCPI_OPT_TIMESTAMPS)
		list[n++] = (struct tcp_repair_opt){ TCPOPT_TIMESTAMP, 0 };
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, list, (socklen_t)(n * sizeof(*list))) < 0)
		return -errno;
	return e->has_timestamp ? set(fd, TCP_TIMESTAMP, (int)e->timestamp) : 0;
}

/*
 * The kernel computes the size of segments when it connects, under the least that every peer takes, and not again when it is told what this
 * one takes: as if the user had set it, for the moment of connecting. It is at most half of the peer's window.
 */
static void set_mss(const struct stream *x, int fd, bool connecting)
{
	uint32_t half = x->e->max_window > 2 * USER_MSS_MIN ? x->e->max_window / 2 + TIMESTAMP_SIZE : USER_MSS_MAX;

	set(fd, TCP_MAXSEG, connecting ? (int)MAX(MIN(MIN(x->e->mss_clamp, half), USER_MSS_MAX), USER_MSS_MIN) : 0);
}

/* IPv4 does when its options change: to none, which there are as yet. */
static void sync_mss(const struct stream *x, int fd)
{
	if (x->c.family == AF_INET)
		setsockopt(fd, IPPROTO_IP, IP_OPTIONS, NULL, 0);
}

/* The greater of two sequence numbers is not what it seems: they wrap. */
static uint32_t not_after(uint32_t seq, uint32_t limit)
{
	return (int32_t)(seq - limit) > 0 ? limit : seq;
}

static int set_window(const struct stream *x, int fd, uint32_t rcv_nxt, uint32_t rcv_wnd)
{
	const TcpStreamEntry *e = x->e;
	struct tcp_repair_window w = { not_after(e->snd_wl1, rcv_nxt + rcv_wnd), e->snd_wnd, e->max_window, rcv_wnd, not_after(e->rcv_wup, rcv_nxt) };

	if (!e->has_rcv_wup)
		return 0;
	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, sizeof(w)) < 0 ? -errno : 0;
}

static int put_queue(int fd, int queue, const char *data, size_t size)
{
	int r = set(fd, TCP_REPAIR_QUEUE, queue);

	for (size_t done = 0; !r && done < size;) {
		ssize_t n = send(fd, data + done, MIN(size - done, PIECE), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			done += (size_t)n;
		else
			r = n < 0 ? -errno : -EIO;
	}
	return r;
}

/* Room for what was there already, whatever the kernel's accounts say of it. */
static void widen(int fd)
{
	int much = 1 << 30;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &much, sizeof(much));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &much, sizeof(much));
}

static uint32_t scope_of(const InetSkEntry *e)
{
	return e->ifname ? if_nametoindex(e->ifname) : 0;
}

/* Sends what the peer might have sent, and waits until the socket is in that state. */
static int bring_to(const struct stream *x, int fd, struct tcp_packet p, int state)
{
	struct timespec pause = { 0, 1000000 };

	p.to = x->c;
	p.scope = scope_of(x->socket);
	p.seq = received_end(x);
	p.window = (uint16_t)MIN(x->e->snd_wnd >> (x->e->opt_mask & TCPI_OPT_WSCALE ? x->e->snd_wscale : 0), 0xffffU);
	int r = tcp_packet_send(&p);
	for (int i = 0; !r && i < WAIT_TRIES && state_of(fd) != state; i++)
		nanosleep(&pause, NULL);
	return r ? r : state_of(fd) == state ? 0 : -EPROTO;
}

/* How much was sent already. In CLOSING our end must stand in the queue before that of the peer arrives, and all that is before it. */
static uint32_t sent_of(const struct stream *x)
{
	return x->socket->state == STATE_CLOSING ? x->e->outq_len : x->e->outq_len - x->e->unsq_len;
}

/* What was still to be sent goes out before our end does: that waits for tcp_resume. */
static bool ends_later(const struct stream *x)
{
	return sent_fin(x->socket->state) && sent_of(x) < x->e->outq_len;
}

static int end_sending(int fd)
{
	int r = set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);

	return r ? r : shutdown(fd, SHUT_WR) < 0 ? -errno : 0;
}

static int set_state(const struct stream *x, int fd)
{
	struct tcp_packet fin = { .fin = true, .ack = send_begin(x) }, seen = { .ack = x->e->outq_seq };
	bool now = sent_fin(x->socket->state) && !ends_later(x);
	int r = 0;

	switch (x->socket->state) {
	case STATE_CLOSE_WAIT: return bring_to(x, fd, fin, STATE_CLOSE_WAIT);
	case STATE_LAST_ACK:
		r = bring_to(x, fd, fin, STATE_CLOSE_WAIT);
		return r || !now ? r : end_sending(fd);
	case STATE_FIN_WAIT1: return now ? end_sending(fd) : 0;
	case STATE_FIN_WAIT2:
		r = end_sending(fd);
		return r ? r : bring_to(x, fd, seen, STATE_FIN_WAIT2);
	case STATE_CLOSING:
		r = end_sending(fd);
		return r ? r : bring_to(x, fd, fin, STATE_CLOSING);
	}
	return 0;
}

/* ---- building ---- */

static int hold_back(struct restore *s)
{
	struct tcp_restore *t = s->tcp;
	VEC(struct connection) list = {};
	int r = 0;

	if (t->lock || s->request->network_lock == NETWORK_LOCK_SKIP)
		return 0;
	r = network_lock_new(&t->lock, s->e);
	if (!r)
		network_lock_clean(t->lock);
	VEC_FOREACH(&t->list, x) {
		struct connection *c = !r && x->e && is_connection(x->socket) ? VEC_PUSH(&list) : NULL;
		if (c)
			*c = x->c;
	}
	for (size_t i = 0; i < t->waiting.count; i++)
		for (size_t k = 0; !r && k < tcp_waiting_count(t->waiting.data[i]); k++) {
			struct connection *c = VEC_PUSH(&list);
			if (c)
				*c = *tcp_waiting_at(t->waiting.data[i], k);
		}
	if (!r)
		r = network_lock_add(t->lock, list.data, list.count, s->e);
	VEC_FREE(&list);
	return r;
}

static int begin(struct restore *s, struct stream *x, int fd)
{
	SkOptsEntry early = *x->socket->opts;
	int v6only = x->socket->v6only;

	/* A packet of ours comes by way of the loopback device. */
	early.so_bound_dev = NULL;
	int r = sock_set_early(s, fd, &early);
	if (!r && x->socket->has_v6only && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof(v6only)) < 0)
		r = error_errno(s->e, -errno, "cannot set a socket to IPv6 only");
	if (!r && (r = set(fd, TCP_REPAIR, TCP_REPAIR_ON)))
		return failed(s, x, r, "begin the repair");
	if (!r && ((r = set_seq(fd, TCP_SEND_QUEUE, send_begin(x))) || (r = set_seq(fd, TCP_RECV_QUEUE, received_end(x) - x->e->inq_len))))
		return failed(s, x, r, "set the numbers");
	return r ? r : inet_bind(s, x->socket, fd);
}

/* What nobody has any more may stand in the way: a connection that the kernel still ends, to which nobody hears. */
static int connect_to_peer(struct restore *s, const struct stream *x, int fd)
{
	union address to;
	socklen_t size = inet_join(x->socket, x->socket->dst_port, x->socket->dst_addr, x->socket->n_dst_addr, &to);

	int r = 0;

	set_mss(x, fd, true);
	if (connect(fd, &to.any, size) < 0 && (errno != EADDRNOTAVAIL || !s->tcp->lock || inet_diag_destroy(IPPROTO_TCP, &x->c) ||
					       connect(fd, &to.any, size) < 0))
		r = inet_failed(s, x->socket, -errno, "connect a socket to", &to, x->socket->dst_port);
	set_mss(x, fd, false);
	return r;
}

static int fill(struct restore *s, const struct stream *x, int fd)
{
	int r;

	if ((r = set_options(x, fd)))
		return failed(s, x, r, "set the options");
	sync_mss(x, fd);
	widen(fd);
	if ((r = put_queue(fd, TCP_RECV_QUEUE, x->data[0], x->e->inq_len)))
		return failed(s, x, r, "restore what is to be received");
	if ((r = put_queue(fd, TCP_SEND_QUEUE, x->data[1], sent_of(x))))
		return failed(s, x, r, "restore what is to be sent");
	if ((r = set_window(x, fd, received_end(x), MAX(x->e->rcv_wnd, WIDE))))
		return failed(s, x, r, "set the window");
	if ((r = set_state(x, fd)))
		return failed(s, x, r, "restore how far the end is (does a firewall rule drop it?)");
	if ((r = set_window(x, fd, x->e->inq_seq, x->e->rcv_wnd)))
		return failed(s, x, r, "set the window");
	sync_mss(x, fd);
	set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
	return 0;
}

/* While the tree is built others must be able to bind to the same port. */
static int set_all_options(struct restore *s, const InetSkEntry *e, int fd)
{
	SkOptsEntry o = *e->opts;

	o.has_reuseaddr = 0;
	return sock_set_options(s, fd, &o);
}

/* Under way: the first packet is sent anew, with its number, when all runs. */
static int build_opening(struct restore *s, struct stream *x, int fd)
{
	int r = set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);

	return r ? failed(s, x, r, "end the repair") : set_all_options(s, x->socket, fd);
}

static int build_connection(struct restore *s, struct stream *x, int fd)
{
	const SkOptsEntry *o = x->socket->opts;
	int r = hold_back(s);

	if (!r)
		r = begin(s, x, fd);
	if (!r && x->socket->state == STATE_SYN_SENT)
		return build_opening(s, x, fd);
	if (!r)
		r = connect_to_peer(s, x, fd);
	if (!r)
		r = fill(s, x, fd);
	if (!r)
		r = set_all_options(s, x->socket, fd);
	if (!r && o->so_bound_dev && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, o->so_bound_dev, (socklen_t)strlen(o->so_bound_dev) + 1) < 0)
		r = error_errno(s->e, -errno, "cannot bind a socket to the device %s", o->so_bound_dev);
	return r;
}

/* What a connection that has ended left to be read: there is a connection again, to nobody, which is reset. */
static int build_remains(struct restore *s, struct stream *x, int fd)
{
	InetSkEntry e = *x->socket;
	uint32_t own[4] = { htonl(INADDR_LOOPBACK) };
	int error;
	socklen_t size = sizeof(error);

	if (e.family == AF_INET6) {
		static const unsigned char prefix[12] = { [10] = 0xff, [11] = 0xff };
		memcpy(own, memcmp(e.src_addr, prefix, sizeof(prefix)) ? (const void *)&in6addr_loopback : prefix, 12);
		own[3] = memcmp(e.src_addr, prefix, sizeof(prefix)) ? htonl(1) : htonl(INADDR_LOOPBACK);
	}
	e.dst_addr = own;
	e.n_dst_addr = e.family == AF_INET6 ? 4 : 1;
	e.dst_port = SOME_PORT;
	x->socket = &e;
	to_connection(&e, &x->c);
	x->e->outq_seq = x->e->outq_len = x->e->unsq_len = 0;
	int r = begin(s, x, fd);
	if (!r)
		r = connect_to_peer(s, x, fd);
	widen(fd);
	if (!r && (r = put_queue(fd, TCP_RECV_QUEUE, x->data[0], x->e->inq_len)))
		r = failed(s, x, r, "restore what is to be received");
	if (!r && (r = bring_to(x, fd, (struct tcp_packet){ .rst = true }, STATE_CLOSE)))
		r = failed(s, x, r, "restore the end (does a firewall rule drop it?)");
	x->socket = x->file->entry->isk;
	set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
	return r ? r : set_all_options(s, &e, fd);
}

/* Without a connection, and no way to get one. */
static int build_closed(struct restore *s, const InetSkEntry *e, int fd, bool bound)
{
	int r = sock_set_early(s, fd, e->opts), yes = 1;

	/* Under repair the port may be another's: it belongs to the listener. */
	if (!r && bound && set(fd, TCP_REPAIR, TCP_REPAIR_ON) == 0) {
		r = inet_bind(s, e, fd);
		set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	}
	if (!r)
		r = set_all_options(s, e, fd);
	shutdown(fd, SHUT_RDWR); /* says that it is not connected, and is closed then */
	return r;
}

int tcp_build(struct restore *s, struct file *f, int fd)
{
	struct stream *x = stream_of(s, f);
	const InetSkEntry *e = f->entry->isk;
	int r;

	if (!x || !x->e)
		return build_closed(s, e, fd, !is_connection(e));
	r = is_connection(e) ? build_connection(s, x, fd) : build_remains(s, x, fd);
	return r;
}

/* When all else is there that their packets could go to. */
int tcp_build_waiting(struct restore *s)
{
	int r = s->tcp && s->tcp->waiting.count ? hold_back(s) : 0;

	for (size_t i = 0; s->tcp && !r && i < s->tcp->waiting.count; i++)
		r = tcp_waiting_build(s, s->tcp->waiting.data[i]);
	return r;
}

/* ---- the end ---- */

static void set_buffer(int fd, int value)
{
	int half = value / 2;

	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &half, sizeof(half));
}

/* What was not sent yet, and an end behind it. */
static int send_rest(const struct stream *x, int fd)
{
	const TcpStreamEntry *e = x->e;
	int buffer = 0, lock = 0, much = 1 << 30, r = 0;
	socklen_t size = sizeof(int);

	if (sent_of(x) == e->outq_len)
		return 0;
	getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, &size);
	getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, &size);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &much, sizeof(much));
	for (size_t done = sent_of(x); !r && done < e->outq_len;) {
		ssize_t n = send(fd, x->data[1] + done, MIN(e->outq_len - done, PIECE), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			done += (size_t)n;
		else
			r = n < 0 ? -errno : -EIO;
	}
	set_buffer(fd, buffer);
	setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock));
	if (!r && sent_fin(x->socket->state) && shutdown(fd, SHUT_WR) < 0)
		r = -errno;
	return r;
}

static int open_again(const struct stream *x, int fd)
{
	union address to;
	socklen_t size = inet_join(x->socket, x->socket->dst_port, x->socket->dst_addr, x->socket->n_dst_addr, &to);
	int flags = fcntl(fd, F_GETFL), r = 0;

	fcntl(fd, F_SETFL, flags | O_NONBLOCK);
	if (connect(fd, &to.any, size) < 0 && errno != EINPROGRESS)
		r = -errno;
	fcntl(fd, F_SETFL, flags);
	return r;
}

static void complain(const struct stream *x, int r)
{
	if (r)
		log_warning("The TCP connection from port %u to port %u does not go on: %s", x->socket->src_port, x->socket->dst_port, strerror(-r));
}

/* What the program sends from now on comes behind all that it had sent. */
static void end_repair(const struct stream *x)
{
	int fd = x->file->fd, reuse = x->socket->opts->reuseaddr;

	if (is_connection(x->socket) && x->socket->state != STATE_SYN_SENT) {
		int r = set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
		complain(x, r ? r : send_rest(x, fd));
		if (x->socket->shutdown & SK_SHUTDOWN__READ && !got_fin(x->socket->state))
			shutdown(fd, SHUT_RD);
	}
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
}

/* The end of a repair is what makes the kernel ask the peer how far it is. */
static void probe(const struct stream *x)
{
	int fd = x->file->fd, reuse = x->socket->opts->reuseaddr;

	if (set(fd, TCP_REPAIR, TCP_REPAIR_ON) == 0)
		set(fd, TCP_REPAIR, TCP_REPAIR_OFF);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
}

static int resume_apart(void *argument)
{
	struct restore *s = argument;
	struct tcp_restore *t = s->tcp;
	struct error e = {};

	if (s->network_lock_id && !t->lock && network_lock_new(&t->lock, &e))
		log_warning("The network lock that the dump made stays: %s", e.text);
	if (s->network_lock_id && t->lock && network_lock_remove(t->lock, s->network_lock_id))
		log_warning("The network lock that the dump made can't be removed");
	network_lock_free(TAKE_PTR(t->lock));
	VEC_FOREACH(&t->list, x) {
		if (x->file->fd >= 0 && x->socket->state == STATE_SYN_SENT)
			complain(x, open_again(x, x->file->fd));
		else if (x->file->fd >= 0 && x->socket->state == STATE_ESTABLISHED)
			probe(x);
	}
	return 0;
}

void tcp_end_repair(struct restore *s)
{
	VEC_FOREACH(&s->tcp->list, x)
		if (x->file->fd >= 0)
			end_repair(x);
}

bool tcp_must_resume(const struct restore *s)
{
	return s->tcp->list.count || s->tcp->waiting.count || s->network_lock_id;
}

void tcp_resume(struct restore *s)
{
	int r = run_apart(NULL, resume_apart, s);

	if (r)
		log_warning("The TCP connections do not go on: %s", strerror(-r));
}

void tcp_restore_release(struct restore *s)
{
	struct tcp_restore *t = TAKE_PTR(s->tcp);

	if (!t)
		return;
	VEC_FOREACH(&t->list, x) {
		free(x->data[0]);
		free(x->data[1]);
		if (x->e)
			tcp_stream_entry__free_unpacked(x->e, NULL);
	}
	for (size_t i = 0; i < t->waiting.count; i++)
		tcp_waiting_free(t->waiting.data[i]);
	VEC_FREE(&t->waiting);
	VEC_FREE(&t->list);
	network_lock_free(t->lock);
	free(t);
}
