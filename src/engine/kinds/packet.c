/*
 * Packet sockets: the device and protocol they listen to, their memberships, their fanout group. See packet(7), and sock_diag(7) with
 * linux/packet_diag.h for what getsockopt(2) does not tell.
 *
 * Packets that wait are copies of what went by, of which only the first can be looked at (there is no SO_PEEK_OFF): refused, or dropped as the
 * user wants. What is in a ring is kept (packet_ring.h). Refused too: groups whose members are chosen by a program. Left out: PACKET_STATISTICS, which
 * begins anew.
 */
#include "engine/kinds/packet_ring.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/sock_diag.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_packet.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>

#define MEMBERSHIPS_MAX 1024
#define ADDRESS_MAX 8 /* of packet_mreq */
#define VNET_HDR_SZ 24 /* PACKET_VNET_HDR_SZ, Linux 6.4 */
#define FANOUT_TYPE(value) ((value) >> 16 & 0xff)

struct facts {
	uint32_t ino;
	bool found;
	struct packet_rings rings;
	VEC(struct packet_diag_mclist) list;
};

static int option_of(int fd, int level, int name)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, level, name, &value, &size) < 0 ? 0 : value;
}

static bool recognise(const struct descriptor *f)
{
	return sock_is(f, AF_PACKET);
}

/* ---- what the kernel lists ---- */

static int take_attribute(const struct nlattr *a, void *to)
{
	struct facts *x = to;
	size_t size = mnl_attr_get_payload_len(a);

	switch (mnl_attr_get_type(a)) {
	case PACKET_DIAG_RX_RING:
		x->rings.has_rx = size >= sizeof(x->rings.rx);
		memcpy(&x->rings.rx, mnl_attr_get_payload(a), MIN(size, sizeof(x->rings.rx)));
		break;
	case PACKET_DIAG_TX_RING:
		x->rings.has_tx = size >= sizeof(x->rings.tx);
		memcpy(&x->rings.tx, mnl_attr_get_payload(a), MIN(size, sizeof(x->rings.tx)));
		break;
	case PACKET_DIAG_MCLIST:
		for (size_t i = 0; (i + 1) * sizeof(struct packet_diag_mclist) <= size; i++) {
			struct packet_diag_mclist *m = VEC_PUSH(&x->list);
			if (!m)
				return MNL_CB_ERROR;
			*m = ((const struct packet_diag_mclist *)mnl_attr_get_payload(a))[i];
		}
		break;
	}
	return MNL_CB_OK;
}

static int take_socket(const struct nlmsghdr *h, void *to)
{
	struct facts *x = to;
	const struct packet_diag_msg *m = mnl_nlmsg_get_payload(h);

	if (m->pdiag_ino != x->ino)
		return MNL_CB_OK;
	x->found = true;
	return mnl_attr_parse(h, sizeof(*m), take_attribute, x);
}

static int ask(struct mnl_socket *socket, struct facts *x)
{
	const struct packet_diag_req request = { .sdiag_family = AF_PACKET, .pdiag_show = PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG };

	return sock_diag_dump(socket, &request, sizeof(request), take_socket, x);
}

static int look_up(struct facts *x)
{
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	int r = socket ? ask(socket, x) : -errno;

	if (socket)
		mnl_socket_close(socket);
	return r;
}

/* ---- dump ---- */

static int take_memberships(const struct facts *x, struct pool *pool, PacketSockEntry *e)
{
	e->mclist = pool_take(pool, (x->list.count + 1) * sizeof(*e->mclist));
	if (!e->mclist)
		return -ENOMEM;
	VEC_FOREACH(&x->list, m) {
		PacketMclist *entry = e->mclist[e->n_mclist++] = pool_take(pool, sizeof(*entry));
		if (!entry)
			return -ENOMEM;
		packet_mclist__init(entry);
		entry->index = (uint32_t)m->pdmc_index;
		entry->type = m->pdmc_type;
		entry->addr.len = MIN((size_t)m->pdmc_alen, ADDRESS_MAX);
		entry->addr.data = pool_copy(pool, m->pdmc_addr, entry->addr.len);
		if (!entry->addr.data)
			return -ENOMEM;
	}
	return 0;
}

static int refuse(struct dump *d, struct descriptor *f, uint32_t fanout)
{
	if (FANOUT_TYPE(fanout) == PACKET_FANOUT_CBPF || FANOUT_TYPE(fanout) == PACKET_FANOUT_EBPF)
		return fd_error(d, f, -ENOTSUP, "is a packet socket in a fanout group with a program, which the kernel does not give; close it first");
	return 0;
}

static void take_state(const struct descriptor *f, PacketSockEntry *e, char device[IF_NAMESIZE])
{
	struct sockaddr_ll at = {};
	socklen_t size = sizeof(at);

	getsockname(f->own_fd, (struct sockaddr *)&at, &size);
	e->type = (uint32_t)option_of(f->own_fd, SOL_SOCKET, SO_TYPE);
	e->protocol = ntohs(at.sll_protocol);
	e->ifindex = (uint32_t)at.sll_ifindex;
	e->device = at.sll_ifindex && if_indextoname((unsigned int)at.sll_ifindex, device) ? device : NULL;
	e->version = (uint32_t)option_of(f->own_fd, SOL_PACKET, PACKET_VERSION);
	e->reserve = (uint32_t)option_of(f->own_fd, SOL_PACKET, PACKET_RESERVE);
	e->aux_data = option_of(f->own_fd, SOL_PACKET, PACKET_AUXDATA) != 0;
	e->orig_dev = option_of(f->own_fd, SOL_PACKET, PACKET_ORIGDEV) != 0;
	e->vnet_hdr = option_of(f->own_fd, SOL_PACKET, PACKET_VNET_HDR) != 0;
	e->loss = option_of(f->own_fd, SOL_PACKET, PACKET_LOSS) != 0;
	e->timestamp = (uint32_t)option_of(f->own_fd, SOL_PACKET, PACKET_TIMESTAMP);
	e->copy_thresh = (uint32_t)option_of(f->own_fd, SOL_PACKET, PACKET_COPY_THRESH);
	e->has_tx_has_off = e->tx_has_off = option_of(f->own_fd, SOL_PACKET, PACKET_TX_HAS_OFF) != 0;
	e->vnet_hdr_size = (uint32_t)option_of(f->own_fd, SOL_PACKET, VNET_HDR_SZ);
	e->has_vnet_hdr_size = e->vnet_hdr_size != 0;
	uint32_t fanout = (uint32_t)option_of(f->own_fd, SOL_PACKET, PACKET_FANOUT);
	e->has_fanout = fanout != 0;
	e->fanout = fanout;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	PacketSockEntry e = PACKET_SOCK_ENTRY__INIT;
	SkOptsEntry options = SK_OPTS_ENTRY__INIT;
	struct facts facts = { .ino = (uint32_t)f->st.st_ino };
	char device[IF_NAMESIZE];
	struct pool pool = {};
	int r = look_up(&facts);

	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	e.opts = &options;
	take_state(f, &e, device);
	if (r)
		r = fd_errno(d, f, r, "does not tell its state (a kernel with CONFIG_PACKET_DIAG is needed)");
	if (!r)
		r = refuse(d, f, e.has_fanout ? e.fanout : 0);
	if (!r && !facts.rings.has_rx) /* with a ring it is that which poll(2) tells of */
		r = sock_refuse_waiting(d, f);
	if (!r)
		r = packet_ring_capture(d, f, &facts.rings, &pool, &e);
	if (!r && (r = take_memberships(&facts, &pool, &e)))
		r = error_set(d->e, r, "out of memory");
	if (!r)
		r = sock_capture_options(d, f, &pool, &options);
	entry.psk = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__PACKETSK);
	VEC_FREE(&facts.list);
	pool_free(&pool);
	return r;
}

/* ---- restore ---- */

static int set(struct restore *s, int fd, int name, int value)
{
	if (!value || setsockopt(fd, SOL_PACKET, name, &value, sizeof(value)) == 0)
		return 0;
	return error_errno(s->e, -errno, "cannot set option %d of a packet socket", name);
}

static int join(struct restore *s, const PacketSockEntry *e, int fd)
{
	for (size_t i = 0; i < e->n_mclist; i++) {
		const PacketMclist *m = e->mclist[i];
		struct packet_mreq request = { .mr_ifindex = (int)m->index, .mr_type = (unsigned short)m->type, .mr_alen = (unsigned short)m->addr.len };
		if (m->addr.len > sizeof(request.mr_address))
			return error_set(s->e, -EBADMSG, "a membership of a packet socket is damaged");
		memcpy(request.mr_address, m->addr.data, m->addr.len);
		if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof(request)) < 0)
			return error_errno(s->e, -errno, "cannot add a membership of a packet socket on device %u", m->index);
	}
	return 0;
}

/* A ring stands in the way of changing most of them, and copies of what does not fit into it come after it. */
static int set_all(struct restore *s, const PacketSockEntry *e, int fd)
{
	const int values[][2] = {
		{ PACKET_VERSION, (int)e->version }, { PACKET_RESERVE, (int)e->reserve }, { PACKET_AUXDATA, e->aux_data }, { PACKET_ORIGDEV, e->orig_dev },
		{ e->vnet_hdr_size ? VNET_HDR_SZ : PACKET_VNET_HDR, e->vnet_hdr_size ? (int)e->vnet_hdr_size : e->vnet_hdr }, { PACKET_LOSS, e->loss },
		{ PACKET_TIMESTAMP, (int)e->timestamp }, { PACKET_TX_HAS_OFF, e->tx_has_off },
	};
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(values); i++)
		r = set(s, fd, values[i][0], values[i][1]);
	if (!r && (e->rx_ring || e->tx_ring))
		r = packet_ring_restore(s, e, fd);
	return r ? r : set(s, fd, PACKET_COPY_THRESH, (int)e->copy_thresh);
}

static int bind_it(struct restore *s, const PacketSockEntry *e, int fd)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)e->protocol), .sll_ifindex = (int)e->ifindex };

	if (e->device && !(at.sll_ifindex = (int)if_nametoindex(e->device)))
		return error_set(s->e, -ENODEV, "this machine has no network device %s, which a packet socket listens to; make one", e->device);
	if ((e->protocol || e->ifindex || e->rx_ring || e->tx_ring) && bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		return error_errno(s->e, -errno, "cannot bind a packet socket to device %u", e->ifindex);
	return 0;
}

/* Its filter is there before a packet comes; with a ring there is one meanwhile that lets nothing pass. */
static int build(struct restore *s, const PacketSockEntry *e, int fd)
{
	const bool ring = e->rx_ring || e->tx_ring;
	int r = set_all(s, e, fd), none = 0;

	if (!r && !ring)
		r = sock_set_options(s, fd, e->opts);
	if (!r)
		r = bind_it(s, e, fd);
	if (!r && ring && e->opts && !e->opts->n_so_filter && setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none)) < 0)
		r = error_errno(s->e, -errno, "cannot take a filter from a packet socket");
	if (!r && ring)
		r = sock_set_options(s, fd, e->opts);
	if (!r)
		r = join(s, e, fd);
	if (!r && e->has_fanout)
		r = set(s, fd, PACKET_FANOUT, (int)e->fanout);
	if (!r && fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0)
		r = error_errno(s->e, -errno, "cannot set the flags of a socket");
	return r;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const PacketSockEntry *e = f->entry->psk;

	if (!e || e->protocol > 0xffff || e->n_mclist > MEMBERSHIPS_MAX || (e->type != SOCK_RAW && e->type != SOCK_DGRAM))
		return error_set(s->e, -EBADMSG, "file %u is a packet socket that can't be", f->id);
	int fd = socket(AF_PACKET, (int)e->type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make a packet socket");
	int r = build(s, e, fd);
	if (r) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int finish(struct dump *d, void **state, bool success)
{
	packet_ring_finish(state);
	return 0;
}

const struct kind kind_packet = {
	.name = "a packet socket",
	.summary = "Packet sockets with their device, memberships, filter, fanout group and rings with what is in them, without packets that wait beside (--skip-in-flight)",
	.type = FD_TYPES__PACKETSK,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = create,
};
