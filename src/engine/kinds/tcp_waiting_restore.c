/* See tcp_waiting.h: the restore. */
#include "engine/kinds/inet_diag.h"
#include "engine/kinds/tcp.h"
#include "engine/kinds/tcp_packet.h"
#include "engine/kinds/tcp_waiting.h"
#include "tcp_waiting.pb-c.h"

#include <fcntl.h>
#include <linux/tcp.h>
#include <time.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define CONNECTIONS_MAX 65536U
#define LENGTH_MAX (64U << 20)
#define READ_SIZE (1UL << 20)
#define WSCALE_MAX 14
#define MSS_MIN 48
#define WINDOW 65535
#define PIECE 32256U /* with what the kernel puts around it it just fits into 32 KiB, and so takes little more room than it took */
#define PIECE_MIN 1024U
#define BEHIND 65537U /* how far behind one in TIME-WAIT a new one begins */
#define BEFORE 1000U  /* and how far before it that one's peer had ended */
#define WAIT_TRIES 1000
#define ROOM_MAX (6U << 20) /* of tcp_rmem, tcp(7) */

struct waiting {
	TcpWaitingEntry *e;
	char *data;
	struct connection c;
};

struct tcp_waiting {
	struct file *listener;
	VEC(struct waiting) list;
};

/* ---- reading the image ---- */

static bool is_sound(const TcpWaitingEntry *e, const InetSkEntry *listener)
{
	size_t size = e->family == AF_INET ? 4 : 16;

	return (e->family == AF_INET || e->family == AF_INET6) && e->local.len == size && e->peer.len == size && e->local_port == listener->src_port &&
	       e->local_port && e->peer_port && e->peer_port < 65536 && e->length <= LENGTH_MAX && !(e->options & ~TCP_WAITING_OPTIONS) &&
	       e->snd_wscale <= WSCALE_MAX && e->rcv_wscale <= WSCALE_MAX && e->mss >= MSS_MIN && e->mss < 65536;
}

static int read_one(struct image_file *file, struct tcp_waiting *w, TcpWaitingEntry *e)
{
	struct waiting *x = w->list.count < CONNECTIONS_MAX ? VEC_PUSH(&w->list) : NULL;

	if (!x) {
		tcp_waiting_entry__free_unpacked(e, NULL);
		return w->list.count < CONNECTIONS_MAX ? -ENOMEM : -EBADMSG;
	}
	*x = (struct waiting){ .e = e };
	if (!is_sound(e, w->listener->entry->isk))
		return -EBADMSG;
	x->c = (struct connection){ .family = (int)e->family, .local_port = (uint16_t)e->local_port, .peer_port = (uint16_t)e->peer_port };
	memcpy(x->c.local, e->local.data, e->local.len);
	memcpy(x->c.peer, e->peer.data, e->peer.len);
	for (size_t have = 0, n; have < e->length; have += n) { /* there may be less than is said */
		n = MIN(e->length - have, READ_SIZE);
		char *more = realloc(x->data, have + n);
		if (!more)
			return -ENOMEM;
		x->data = more;
		int r = image_read_bytes(file, more + have, n);
		if (r)
			return r;
	}
	return 0;
}

/* Timestamps go on from the clock of a boot. */
static int check_boot(struct restore *s, const struct tcp_waiting *w)
{
	_cleanup_free_ char *boot = NULL;

	if (read_file_at(AT_FDCWD, BOOT_ID, 256, &boot, NULL))
		return 0;
	boot[strcspn(boot, "\n")] = '\0';
	VEC_FOREACH(&w->list, x)
		if (x->e->options & TCPI_OPT_TIMESTAMPS && strcmp(x->e->boot, boot))
			return error_set(s->e, -ENOTSUP, "port %u had connections not accepted yet, whose timestamps can't go on after the machine was booted, or on another one; "
					 "use --tcp-close to drop them, or --skip-in-flight at the dump", x->e->local_port);
	return 0;
}

int tcp_waiting_load(struct restore *s, struct file *f, struct tcp_waiting **ret)
{
	struct image_file *file;
	ProtobufCMessage *m;
	char name[40];

	*ret = NULL;
	snprintf(name, sizeof(name), "tcp-waiting-%x.img", f->entry->isk->ino);
	int r = image_open(s->dir, name, IMAGE_MAGIC_TCP_WAITING, &file);
	if (r == -ENOENT)
		return 0;
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	struct tcp_waiting *w = calloc(1, sizeof(*w));
	r = w ? 1 : -ENOMEM;
	if (w)
		w->listener = f;
	while (r == 1 && (r = image_read_message(file, &tcp_waiting_entry__descriptor, &m)) == 1)
		if ((r = read_one(file, w, (TcpWaitingEntry *)m)) == 0)
			r = 1;
	image_close(file);
	r = r ? error_errno(s->e, r, "%s is damaged", name) : check_boot(s, w);
	if (r)
		tcp_waiting_free(TAKE_PTR(w));
	*ret = w;
	return r;
}

size_t tcp_waiting_count(const struct tcp_waiting *w)
{
	return w->list.count;
}

const struct connection *tcp_waiting_at(const struct tcp_waiting *w, size_t i)
{
	return &w->list.data[i].c;
}

void tcp_waiting_free(struct tcp_waiting *w)
{
	if (!w)
		return;
	VEC_FOREACH(&w->list, x) {
		tcp_waiting_entry__free_unpacked(x->e, NULL);
		free(x->data);
	}
	VEC_FREE(&w->list);
	free(w);
}

/* ---- one in TIME-WAIT ---- */

static int set(int fd, int name, int value)
{
	return setsockopt(fd, IPPROTO_TCP, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int info_of(int fd, struct tcp_info *info)
{
	socklen_t size = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &size) < 0 ? -errno : 0;
}

static int wait_state(int fd, int state)
{
	struct timespec pause = { 0, 1000000 };
	struct tcp_info info;
	int r = info_of(fd, &info);

	for (int i = 0; !r && i < WAIT_TRIES && info.tcpi_state != state; i++) {
		nanosleep(&pause, NULL);
		r = info_of(fd, &info);
	}
	return r ? r : info.tcpi_state == state ? 0 : -EPROTO;
}

static socklen_t to_address(int family, const void *address, uint16_t port, union address *to)
{
	*to = (union address){ .any.sa_family = (sa_family_t)family };
	to->v4.sin_port = htons(port); /* both have it at the same place */
	memcpy(family == AF_INET ? (void *)&to->v4.sin_addr : (void *)&to->v6.sin6_addr, address, family == AF_INET ? 4 : 16);
	return family == AF_INET ? sizeof(to->v4) : sizeof(to->v6);
}

/* Connected to the peer without a word, with numbers before those that are wanted. */
static int connect_silently(int fd, const struct connection *c, uint32_t sent, uint32_t received)
{
	union address own, peer;
	socklen_t size = to_address(c->family, c->local, c->local_port, &own);
	int yes = 1, r = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) < 0 ? -errno : 0;

	to_address(c->family, c->peer, c->peer_port, &peer);
	setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &yes, sizeof(yes));
	if (!r)
		r = set(fd, TCP_REPAIR, TCP_REPAIR_ON);
	if (!r)
		r = set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	if (!r)
		r = set(fd, TCP_QUEUE_SEQ, (int)sent);
	if (!r)
		r = set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
	if (!r)
		r = set(fd, TCP_QUEUE_SEQ, (int)received);
	if (!r && (bind(fd, &own.any, size) < 0 || connect(fd, &peer.any, size) < 0))
		r = -errno;
	return r ? r : set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
}

/* Ended by us first, then by the peer. */
static int make_time_wait(const struct connection *c, uint32_t sent, uint32_t received)
{
	struct tcp_packet p = { .to = *c, .seq = received, .ack = sent + 1, .window = WINDOW };
	_cleanup_close_ int fd = socket(c->family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int r = fd < 0 ? -errno : connect_silently(fd, c, sent, received);

	if (!r && shutdown(fd, SHUT_WR) < 0)
		r = -errno;
	if (!r)
		r = tcp_packet_send(&p);
	if (!r)
		r = wait_state(fd, STATE_FIN_WAIT2);
	p.fin = true;
	if (!r)
		r = tcp_packet_send(&p);
	return r ? r : wait_state(fd, STATE_CLOSE);
}

/* ---- the handshake, and what came behind it ---- */

static void put_number(unsigned char *to, uint32_t number)
{
	number = htonl(number);
	memcpy(to, &number, sizeof(number));
}

static void add_timestamp(struct tcp_packet *p, const TcpWaitingEntry *e)
{
	unsigned char *o = p->options + p->n_options;

	if (!(e->options & TCPI_OPT_TIMESTAMPS))
		return;
	memcpy(o, (unsigned char[]){ 1, 1, 8, 10 }, 4);
	put_number(o + 4, e->timestamp);
	put_number(o + 8, 0);
	p->n_options += 12;
}

/* What the peer had offered, as far as it was agreed on: RFC 9293, RFC 7323, RFC 2018. */
static void add_offers(struct tcp_packet *p, const TcpWaitingEntry *e)
{
	memcpy(p->options, (unsigned char[]){ 2, 4, (unsigned char)(e->mss >> 8), (unsigned char)e->mss }, 4);
	p->n_options = 4;
	if (e->options & TCPI_OPT_SACK) {
		memcpy(p->options + p->n_options, (unsigned char[]){ 1, 1, 4, 2 }, 4);
		p->n_options += 4;
	}
	if (e->options & TCPI_OPT_WSCALE) {
		memcpy(p->options + p->n_options, (unsigned char[]){ 1, 3, 3, (unsigned char)e->snd_wscale }, 4);
		p->n_options += 4;
	}
	add_timestamp(p, e);
}

static struct tcp_packet packet_of(const struct waiting *x, uint32_t seq)
{
	const TcpWaitingEntry *e = x->e;
	struct tcp_packet p = { .to = x->c, .seq = seq, .ack = e->sent };

	p.window = (uint16_t)MIN(e->window >> (e->options & TCPI_OPT_WSCALE ? e->snd_wscale : 0), (uint32_t)WINDOW);
	add_timestamp(&p, e);
	return p;
}

static int shake_hands(int listener, const struct waiting *x)
{
	struct tcp_packet syn = { .to = x->c, .seq = x->e->received - 1, .syn = true, .window = WINDOW }, ack = packet_of(x, x->e->received);
	struct timespec pause = { 0, 1000000 };
	struct tcp_info before, now;
	int r = info_of(listener, &before);

	add_offers(&syn, x->e);
	if (!r)
		r = tcp_packet_send(&syn);
	for (int i = 0; !r && i < WAIT_TRIES; i++) {
		r = tcp_packet_send(&ack);
		if (!r)
			r = info_of(listener, &now);
		if (r || now.tcpi_unacked > before.tcpi_unacked)
			return r;
		nanosleep(&pause, NULL);
	}
	return r ? r : -EPROTO;
}

/* How much of it is there, with the peer's end. */
static int look(const struct waiting *x, uint32_t *ret)
{
	struct inet_diags all = {};
	int r = inet_diag_read(IPPROTO_TCP, &all);
	const struct inet_diag *diag = r ? NULL : inet_diag_find_connection(&all, &x->c);

	if (!r)
		r = !diag || (diag->options & TCP_WAITING_OPTIONS) != x->e->options || diag->snd_wscale != x->e->snd_wscale ||
		    diag->rcv_wscale != x->e->rcv_wscale || diag->unread > x->e->length + x->e->ended ? -EPROTO : 0;
	if (!r)
		*ret = diag->unread;
	inet_diag_free(&all);
	return r;
}

static int send_piece(const struct waiting *x, uint32_t from, uint32_t size)
{
	struct tcp_packet p = packet_of(x, x->e->received + from);

	p.data = x->data ? x->data + from : NULL;
	p.size = MIN(x->e->length - from, size);
	p.fin = x->e->ended && from + p.size == x->e->length;
	return tcp_packet_send(&p);
}

/* Its window grows with what has come: what does not fit comes again, and smaller. */
static int send_again(const struct waiting *x)
{
	const uint32_t all = x->e->length + x->e->ended;
	struct timespec pause = { 0, 1000000 };
	uint32_t there = 0, piece = PIECE;
	int r = look(x, &there);

	for (int i = 0; !r && there < all; i++) {
		uint32_t before = there;
		r = i == WAIT_TRIES ? -EPROTO : send_piece(x, there, piece);
		bool large = r == -EMSGSIZE && piece > PIECE_MIN;
		if (!r || large)
			r = look(x, &there);
		if (there == before && !large)
			nanosleep(&pause, NULL);
		piece = there > before ? PIECE : MAX(piece / 2, PIECE_MIN);
	}
	return r;
}

static int build_one(struct restore *s, int listener, const struct waiting *x)
{
	const TcpWaitingEntry *e = x->e;

	/* What a restore that was killed has left in TIME-WAIT would answer in its place for a minute. */
	inet_diag_destroy(IPPROTO_TCP, &x->c);
	int r = make_time_wait(&x->c, e->sent - 1 - BEHIND - 1, e->received - 1 - BEFORE);

	if (!r)
		r = shake_hands(listener, x);
	if (!r)
		r = send_again(x);
	return r ? error_errno(s->e, r, "cannot restore a connection from port %u that port %u has not accepted (does a firewall rule drop it, or has the machine other "
				"limits of TCP now? --tcp-close drops it)", e->peer_port, e->local_port) : 0;
}

struct room {
	int size, lock;
};

/* A connection begins with the listener's room for what was not read. What comes in other pieces than it had come in may need more than that: so it gets
 * more, as it could have got by itself (the room is not locked), up to where its window would be scaled otherwise. */
static void widen(int listener, const struct tcp_waiting *w, struct room *before)
{
	socklen_t size = sizeof(int);
	uint32_t most = 0;
	int none = 0;

	if (getsockopt(listener, SOL_SOCKET, SO_RCVBUF, &before->size, &size) < 0 || getsockopt(listener, SOL_SOCKET, SO_BUF_LOCK, &before->lock, &size) < 0)
		before->size = 0;
	VEC_FOREACH(&w->list, x)
		most = MAX(most, x->e->length);
	int wanted = (int)MIN(most, ROOM_MAX / 2); /* the kernel takes it twice */
	if (!before->size || wanted * 2 <= before->size || before->lock & SOCK_RCVBUF_LOCK) {
		before->size = 0;
		return;
	}
	setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &wanted, size);
	setsockopt(listener, SOL_SOCKET, SO_BUF_LOCK, &none, size);
}

static void narrow(int listener, const struct room *before)
{
	const int size = before->size / 2;

	if (!before->size)
		return;
	setsockopt(listener, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	setsockopt(listener, SOL_SOCKET, SO_BUF_LOCK, &before->lock, sizeof(before->lock));
}

int tcp_waiting_build(struct restore *s, struct tcp_waiting *w)
{
	int fd = w->listener->fd, defer = 0, r = 0;
	socklen_t size = sizeof(defer);
	struct room room;

	/* One that waits for data would not take a handshake alone. */
	if (getsockopt(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &defer, &size) == 0 && defer)
		set(fd, TCP_DEFER_ACCEPT, 0);
	widen(fd, w, &room);
	VEC_FOREACH(&w->list, x)
		r = r ? r : build_one(s, fd, x);
	narrow(fd, &room);
	if (defer)
		set(fd, TCP_DEFER_ACCEPT, defer);
	return r;
}
