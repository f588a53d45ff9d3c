/*
 * See udp.h; udp(7), udplite(7). What waits is looked at with MSG_PEEK. On restore it is sent again with the address it came from
 * (loop_packet.h), before the socket is bound: to a port that the kernel chose and that it gives back afterwards, so that no other socket that
 * shares the real one gets it.
 *
 * Left out: what came along with a datagram besides its sender, as the time or the device it came by.
 */
#include "engine/kinds/udp.h"

#include "base/log.h"
#include "engine/kinds/loop_packet.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/tcp.h"
#include "engine/task/task.h"

#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/udp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <time.h>

#define DATAGRAM_MAX 65507U
#define WAIT_TRIES 200

struct udp_table {
	struct sock_queue *queues;
};

/* ---- dump ---- */

static int flag_of(int fd, int level, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? 0 : value;
}

static int check_pending(struct dump *d, struct descriptor *f)
{
	struct pollfd p = { .fd = f->own_fd, .events = POLLIN };
	int corked = 0;

	if (poll(&p, 1, 0) > 0 && p.revents & POLLERR)
		return fd_error(d, f, -ENOTSUP, "has an error that the program was not told of yet; try again");
	if (flag_of(f->own_fd, IPPROTO_UDP, UDP_CORK) && ioctl(f->own_fd, SIOCOUTQ, &corked) == 0 && corked)
		return fd_error(d, f, -ENOTSUP, "has a datagram that is not complete yet (UDP_CORK); try again");
	return 0;
}

int udp_capture_queue(struct dump *d, struct descriptor *f)
{
	struct sock_packets packets = {};
	int r = check_pending(d, f);

	if (!r && (r = sock_peek(f->own_fd, NULL, &packets)))
		r = fd_errno(d, f, r, "does not show what is queued in it");
	VEC_FOREACH(&packets.list, p) {
		p->entry.id_for = f->id;
		if (!r)
			r = sock_packet_write(d, p);
	}
	sock_packets_free(&packets);
	return r;
}

/* ---- restore ---- */

static const InetSkEntry *udp_of(struct restore *s, uint32_t id)
{
	const struct file *f = file_find(s, id);
	const InetSkEntry *e = f ? f->entry->isk : NULL;

	return e && (e->proto == IPPROTO_UDP || e->proto == IPPROTO_UDPLITE) ? e : NULL;
}

/* The sender's name lacks its family. */
static size_t name_size(const InetSkEntry *e)
{
	return (e->family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)) - sizeof(sa_family_t);
}

int udp_load(struct restore *s)
{
	bool any = false;

	VEC_FOREACH(&s->files, f)
		any = any || udp_of(s, f->id);
	if (!any)
		return 0;
	s->udp = calloc(1, sizeof(*s->udp));
	int r = s->udp ? sock_queues_load(s, &s->udp->queues) : error_set(s->e, -ENOMEM, "out of memory");
	for (const struct sock_queue *q = r ? NULL : s->udp->queues; q; q = q->next) {
		const InetSkEntry *e = udp_of(s, q->entry->id_for);
		if (e && (q->entry->length > DATAGRAM_MAX || q->entry->addr.len != name_size(e)))
			return error_set(s->e, -EBADMSG, "sk-queues.img has a datagram for file %u that can't be", q->entry->id_for);
	}
	return r;
}

/* From its sender to the loopback address of the same kind. */
static int send_again(const InetSkEntry *e, const struct sock_queue *q, uint16_t port)
{
	static const unsigned char prefix[12] = { [10] = 0xff, [11] = 0xff };
	struct {
		struct udphdr h;
		char data[DATAGRAM_MAX];
	} *packet = malloc(sizeof(*packet));
	struct connection c = { .family = (int)e->family, .local_port = port };
	union address from = {};

	if (!packet)
		return -ENOMEM;
	from.any.sa_family = (sa_family_t)e->family;
	memcpy((char *)&from + sizeof(sa_family_t), q->entry->addr.data, q->entry->addr.len);
	c.peer_port = ntohs(from.v4.sin_port);
	bool mapped = e->family == AF_INET6 && !memcmp(&from.v6.sin6_addr, prefix, sizeof(prefix));
	if (e->family == AF_INET)
		memcpy(c.peer, &from.v4.sin_addr, 4);
	else
		memcpy(c.peer, (const char *)&from.v6.sin6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
	if (mapped)
		c.family = AF_INET;
	memcpy(c.local, c.family == AF_INET ? (const void *)&(in_addr_t){ htonl(INADDR_LOOPBACK) } : (const void *)&in6addr_loopback,
	       c.family == AF_INET ? 4 : 16);
	size_t size = sizeof(packet->h) + q->entry->length;
	packet->h = (struct udphdr){ .source = htons(c.peer_port), .dest = htons(port), .len = htons((uint16_t)size) };
	memcpy(packet->data, q->data, q->entry->length);
	packet->h.check = loop_packet_checksum(&c, (int)e->proto, packet, size);
	int r = loop_packet_send(&c, 0, (int)e->proto, packet, size);
	free(packet);
	return r;
}

/* How much memory what waits takes: more, when one more has come. */
static uint32_t memory_of(int fd)
{
	uint32_t info[SK_MEMINFO_VARS] = {};
	socklen_t size = sizeof(info);

	return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &size) < 0 ? 0 : info[SK_MEMINFO_RMEM_ALLOC];
}

/* One after the other, or they might come in another order. 1: it did not come. */
static int put(const InetSkEntry *e, const struct sock_queue *q, int fd, uint16_t port)
{
	struct timespec pause = { 0, 1000000 };
	uint32_t before = memory_of(fd);
	int r = send_again(e, q, port);

	for (int i = 0; !r && memory_of(fd) == before; i++) {
		if (i == WAIT_TRIES)
			return 1;
		nanosleep(&pause, NULL);
	}
	return r;
}

/* A send that must fail leaves it bound to some port. */
static uint16_t bind_anywhere(int fd)
{
	union address at = { .any.sa_family = 0xff };
	socklen_t size = sizeof(at);

	sendto(fd, "", 0, 0, &at.any, sizeof(at));
	return getsockname(fd, &at.any, &size) < 0 ? 0 : ntohs(at.v4.sin_port);
}

static bool unbind(int fd)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	union address at;
	socklen_t size = sizeof(at);

	connect(fd, &none, sizeof(none));
	return getsockname(fd, &at.any, &size) == 0 && !at.v4.sin_port;
}

int udp_fill(struct restore *s, const struct file *f, int fd)
{
	const struct sock_queue *q = s->udp ? s->udp->queues : NULL;
	int much = 1 << 30, r = 0;

	while (q && q->entry->id_for != f->id)
		q = q->next;
	if (!q)
		return 0;
	uint16_t port = bind_anywhere(fd);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &much, sizeof(much));
	for (; !r && port && q; q = q->next)
		if (q->entry->id_for == f->id)
			r = put(f->entry->isk, q, fd, port);
	if (r > 0)
		log_warning("Datagrams that waited in file %u are lost (does a firewall rule drop them?)", f->id);
	if (r < 0 || !port || !unbind(fd))
		return error_errno(s->e, r < 0 ? r : -EPROTO, "cannot restore the datagrams that waited in file %u", f->id);
	return 0;
}

void udp_release(struct restore *s)
{
	struct udp_table *t = TAKE_PTR(s->udp);

	if (t)
		sock_queues_free(t->queues);
	free(t);
}
