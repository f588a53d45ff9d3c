/*
 * See packet_ring.h: the restore. The place that the kernel is at in a ring moves with packets alone: as many as it takes are sent through the
 * loopback device, with a number that only the filter of this socket lets pass, cut to the length that is needed. Then what was in the ring is put
 * over them.
 *
 * With TPACKET_V3 the kernel hands a block over when time is up, too. Where that comes between, all begins again; once the place is reached it does no
 * harm. The numbers of blocks go on, but begin anew where that would take more than BLOCKS_MAX.
 */
#include "engine/kinds/packet_ring.h"

#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#define PROTOCOL ETH_P_802_EX1 /* for experiments */
#define RING_MAX (1UL << 32)
#define PIECE_MAX (1U << 20)
#define BLOCKS_MAX 256
#define TRIES 10
#define WAITS 20000 /* of 50 us */
#define PAYLOAD 32768U /* at most, in one packet */
#define UNIT 8U /* V3 aligns packets to that */

struct passer {
	const PacketSockEntry *e;
	int fd, sender, loopback;
	unsigned char *ring;
	size_t size, rx_size;
	struct {
		uint32_t number[2];
		unsigned char rest[PAYLOAD - 8];
	} payload;
	uint32_t before; /* V3: bytes of a frame before the packet */
	uint32_t most;	 /* bytes of a packet */
};

/* ---- a filter of our own, and packets that pass it ---- */

/* Lets pass the first `length` bytes of our packets; 0: nothing. */
static int set_filter(const struct passer *p, uint32_t length)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(p->payload.number[0]), 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + 4), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(p->payload.number[1]), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, length), BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog filter = { ARRAY_SIZE(code), code };

	return setsockopt(p->fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) < 0 ? -errno : 0;
}

static int send_one(struct passer *p, uint32_t length)
{
	const struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = p->loopback, .sll_halen = ETH_ALEN };
	const size_t size = MAX(MIN(length, p->most), 64U);
	int r = set_filter(p, length);

	if (r)
		return r;
	return sendto(p->sender, &p->payload, size, 0, (const struct sockaddr *)&to, sizeof(to)) < 0 ? -errno : 0;
}

static void moment(void)
{
	nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
}

/* ---- TPACKET_V1 and V2 ---- */

static unsigned char *frame_of(const struct passer *p, const PacketRing *r, uint32_t i)
{
	const uint32_t each = r->block_size / r->frame_size;

	return p->ring + (r == p->e->tx_ring ? p->rx_size : 0) + (size_t)(i / each) * r->block_size + (size_t)(i % each) * r->frame_size;
}

static uint32_t load(const void *at)
{
	return __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE);
}

static int pass_frames(struct passer *p)
{
	int r = 0;

	for (uint32_t i = 0; !r && i < p->e->rx_place->head; i++) {
		const unsigned char *status = frame_of(p, p->e->rx_ring, i);
		r = send_one(p, 1);
		for (int n = 0; !r && load(status) == TP_STATUS_KERNEL; n++) {
			if (n == WAITS)
				r = -ETIMEDOUT;
			moment();
		}
	}
	if (!r)
		memset(p->ring, 0, p->rx_size);
	return r;
}

/* ---- TPACKET_V3: blocks have numbers, from 1 on ---- */

static struct tpacket_hdr_v1 *block_of(const struct passer *p, uint64_t number)
{
	const PacketRing *r = p->e->rx_ring;

	return &((struct tpacket_block_desc *)(p->ring + (size_t)((number - 1) % r->block_nr) * r->block_size))->hdr.bh1;
}

/* Gives back all blocks up to the one that is being filled, whose number this is, at first `from` or later. */
static uint64_t current(const struct passer *p, uint64_t from)
{
	for (; __atomic_load_n(&block_of(p, from + 1)->seq_num, __ATOMIC_ACQUIRE) == from + 1; from++)
		__atomic_store_n(&block_of(p, from)->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	return from;
}

/* A frame of `size` bytes. Until it is there: in the block, or in the next one, whose number *number is then. */
static int put(struct passer *p, uint32_t size, uint64_t *number)
{
	const uint64_t was = *number;
	const uint32_t length = load(&block_of(p, was)->blk_len);
	int r = size > p->before && size - p->before <= p->most ? send_one(p, size - p->before) : -EBADMSG;

	for (int n = 0; !r; n++) {
		*number = current(p, was);
		if (*number != was || load(&block_of(p, was)->blk_len) != length)
			break;
		if (n == WAITS)
			return -ETIMEDOUT;
		moment();
	}
	return r;
}

/* Fills block *number, which is the last before the one that is wanted, so that nothing more fits in. */
static int fill_up(struct passer *p, uint64_t *number)
{
	const uint64_t was = *number;
	const uint32_t least = ALIGN_UP(p->before + 1, UNIT), most = (p->before + p->most) / UNIT * UNIT;
	int r = 0;

	while (!r && *number == was) {
		const uint32_t room = p->e->rx_ring->block_size - load(&block_of(p, was)->blk_len);
		if (room < least + UNIT)
			return 0;
		uint32_t size = MIN(room - UNIT, most);
		if (size < room - UNIT && room - UNIT - size < least)
			size -= ALIGN_UP(least, UNIT);
		r = put(p, size, number);
	}
	return r ? r : -EAGAIN;
}

/* The frames of the wanted block up to `to`, from `at` on. The first one opens the block. */
static int put_up_to(struct passer *p, uint32_t at, uint32_t to, uint64_t *number, uint64_t wanted)
{
	const uint32_t least = ALIGN_UP(p->before + 1, UNIT), most = (p->before + p->most) / UNIT * UNIT;
	int r = 0;

	while (!r && at < to) {
		uint32_t size = MIN(to - at, most);
		if (size < to - at && to - at - size < least)
			size -= ALIGN_UP(least, UNIT);
		r = put(p, size, number);
		if (!r && *number != wanted)
			r = -EAGAIN;
		at += size;
	}
	return r;
}

/* How much stands before a packet, from a first one. */
static int measure(struct passer *p, uint64_t *number)
{
	const unsigned char *b = p->ring;
	const struct tpacket3_hdr *first;

	p->before = 0;
	int r = put(p, 1, number);
	if (r)
		return r;
	first = (const struct tpacket3_hdr *)(b + block_of(p, 1)->offset_to_first_pkt);
	p->before = first->tp_mac;
	return first->tp_snaplen == 1 && p->before >= sizeof(*first) && p->before < PAGE_SIZE ? 0 : -EIO;
}

/* No block is open: the kernel waits for the one that comes next, which the program has. */
static int freeze(struct passer *p, uint64_t number)
{
	struct tpacket_hdr_v1 *next = block_of(p, number + 1), *last = block_of(p, number);
	int r = 0;

	__atomic_store_n(&next->block_status, TP_STATUS_USER, __ATOMIC_RELEASE);
	r = send_one(p, 1);
	for (int n = 0; !r && !(load(&last->block_status) & TP_STATUS_USER); n++) {
		if (n == WAITS)
			return -ETIMEDOUT;
		moment();
	}
	last->block_status = TP_STATUS_KERNEL;
	return r;
}

static int pass_blocks(struct passer *p)
{
	const PacketRingPlace *place = p->e->rx_place;
	const uint32_t count = p->e->rx_ring->block_nr, most = (p->before + p->most) / UNIT * UNIT;
	const uint64_t opened = place->sequence - (place->frozen ? 0 : 1);
	uint64_t wanted = opened > BLOCKS_MAX ? (opened - 1) % count + 1 : opened, number = 1;
	const uint32_t next = place->next, last = place->last;
	int r = 0;

	if (opened < 1 || (wanted - 1) % count != place->head)
		return -EBADMSG;
	if (wanted == 1 && !place->frozen && load(&block_of(p, 1)->blk_len) == next) /* as it is when new */
		return 0;
	r = measure(p, &number);
	if (wanted == 1) /* the packet that was measured is in the way: another round */
		wanted += count;
	while (!r && number + 1 < wanted)
		r = put(p, most, &number);
	if (!r)
		r = number == wanted - 1 ? fill_up(p, &number) : -EAGAIN;
	if (r)
		return r;
	if (place->frozen)
		return freeze(p, number);
	const uint32_t first = load(&block_of(p, 1)->offset_to_first_pkt);
	if (last == next) { /* it had no packet yet: one of ours is passed over */
		r = put_up_to(p, first, first + ALIGN_UP(p->before + 1, UNIT), &number, wanted);
		if (r)
			return r;
		block_of(p, wanted)->num_pkts = 0;
		block_of(p, wanted)->offset_to_first_pkt = first + ALIGN_UP(p->before + 1, UNIT);
		moment(); /* the kernel may just be handing it over, with our packet in it */
		return load(&block_of(p, wanted)->block_status) == TP_STATUS_KERNEL && block_of(p, wanted + 1)->seq_num != wanted + 1 ? 0 : -EAGAIN;
	}
	r = put_up_to(p, first, last, &number, wanted);
	if (!r)
		r = put_up_to(p, last, next, &number, wanted);
	return !r && load(&block_of(p, wanted)->blk_len) != next ? -EAGAIN : r;
}

/* ---- sending ---- */

static int pass_sent(struct passer *p)
{
	static const uint32_t heads[] = { TPACKET_HDRLEN, TPACKET2_HDRLEN, TPACKET3_HDRLEN };
	const struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = p->loopback, .sll_halen = ETH_ALEN };
	const PacketRing *r = p->e->tx_ring;
	const uint32_t head = p->e->tx_place->head, from = heads[p->e->version] - (uint32_t)sizeof(struct sockaddr_ll);
	const uint32_t length = (p->e->type == SOCK_RAW ? ETH_HLEN : 1) + (p->e->has_vnet_hdr_size ? p->e->vnet_hdr_size : p->e->vnet_hdr ? 10 : 0);
	uint32_t done = 0;

	for (uint32_t i = 0; i < head; i++) {
		unsigned char *frame = frame_of(p, r, i);
		if (p->e->version == TPACKET_V1)
			*(struct tpacket_hdr *)frame = (struct tpacket_hdr){ .tp_status = TP_STATUS_SEND_REQUEST, .tp_len = length, .tp_mac = (uint16_t)from, .tp_net = (uint16_t)from };
		else if (p->e->version == TPACKET_V2)
			*(struct tpacket2_hdr *)frame = (struct tpacket2_hdr){ .tp_status = TP_STATUS_SEND_REQUEST, .tp_len = length, .tp_mac = (uint16_t)from, .tp_net = (uint16_t)from };
		else
			*(struct tpacket3_hdr *)frame = (struct tpacket3_hdr){ .tp_status = TP_STATUS_SEND_REQUEST, .tp_len = length, .tp_mac = (uint16_t)from, .tp_net = (uint16_t)from };
	}
	for (int n = 0; done < head; n++) {
		if (sendto(p->fd, NULL, 0, MSG_DONTWAIT, (const struct sockaddr *)&to, sizeof(to)) < 0 && errno != EAGAIN && errno != ENOBUFS)
			return -errno;
		for (const size_t at = p->e->version == TPACKET_V3 ? offsetof(struct tpacket3_hdr, tp_status) : 0;
		     done < head && load(frame_of(p, r, done) + at) == TP_STATUS_AVAILABLE; done++)
			n = 0;
		if (done < head && n == WAITS)
			return -ETIMEDOUT;
		if (done < head)
			moment();
	}
	memset(p->ring + p->rx_size, 0, p->size - p->rx_size);
	return 0;
}

/* ---- what is in them ---- */

/* All but the word with which the kernel hands over the block that it fills. */
static void put_bytes(struct passer *p, size_t at, const unsigned char *from, size_t size)
{
	const PacketRing *rx = p->e->rx_ring;
	const bool open = rx && p->e->version == TPACKET_V3 && !p->e->rx_place->frozen;
	const size_t word = open ? (size_t)p->e->rx_place->head * rx->block_size + offsetof(struct tpacket_block_desc, hdr.bh1.block_status) : SIZE_MAX;

	if (word < at || word - at >= size) {
		memcpy(p->ring + at, from, size);
		return;
	}
	struct tpacket_block_desc *b = (struct tpacket_block_desc *)(p->ring + word - offsetof(struct tpacket_block_desc, hdr.bh1.block_status));
	const uint32_t length = b->hdr.bh1.blk_len;
	const bool empty = !((const struct tpacket_block_desc *)(from + (word - at) - offsetof(struct tpacket_block_desc, hdr.bh1.block_status)))->hdr.bh1.num_pkts;
	memcpy(p->ring + at, from, word - at);
	memcpy(p->ring + word + 4, from + (word - at) + 4, size - (word - at) - 4);
	if (empty) {
		b->hdr.bh1.offset_to_first_pkt = length;
		b->hdr.bh1.blk_len = length;
	}
}

static int fill(struct restore *s, struct passer *p)
{
	_cleanup_free_ unsigned char *bytes = malloc(PIECE_MAX);
	struct image_file *file;
	ProtobufCMessage *m;
	char name[40];

	snprintf(name, sizeof(name), "packet-ring-%x.img", p->e->id);
	int r = bytes ? image_open(s->dir, name, IMAGE_MAGIC_PACKET_RING, &file) : -ENOMEM;
	if (r)
		return r == -ENOENT ? 0 : r;
	while ((r = image_read_message(file, &packet_ring_piece__descriptor, &m)) == 1) {
		const PacketRingPiece piece = *(PacketRingPiece *)m;
		protobuf_c_message_free_unpacked(m, NULL);
		if (piece.offset % PAGE_SIZE || piece.length > PIECE_MAX || piece.offset > p->size || piece.length > p->size - piece.offset || piece.length % PAGE_SIZE)
			r = -EBADMSG;
		else
			r = image_read_bytes(file, bytes, piece.length);
		if (r)
			break;
		put_bytes(p, piece.offset, bytes, piece.length);
	}
	image_close(file);
	return r;
}

/* ---- all of it ---- */

static bool is_sound(const PacketRing *r, const PacketRingPlace *place, bool blocks)
{
	return !r || (r->block_size && r->block_size % PAGE_SIZE == 0 && r->frame_size && r->frame_size <= r->block_size && r->block_nr && packet_ring_size(r) <= RING_MAX / 2 &&
		      r->frame_nr == (uint64_t)(r->block_size / r->frame_size) * r->block_nr &&
		      (!place || (place->head < (blocks ? r->block_nr : r->frame_nr) &&
				  (!blocks || (place->next <= r->block_size && place->last <= place->next && place->next % UNIT == 0 && place->last % UNIT == 0)))));
}

static int set_ring(const struct passer *p, int option, const PacketRing *r)
{
	struct tpacket_req3 request = {};

	if (r)
		request = (struct tpacket_req3){ r->block_size, r->block_nr, r->frame_size, r->frame_nr, r->retire_tmo, r->sizeof_priv, r->features };
	return setsockopt(p->fd, SOL_PACKET, option, &request, sizeof(request)) < 0 ? -errno : 0;
}

static void unmap(struct passer *p)
{
	if (p->ring)
		munmap(p->ring, p->size);
	p->ring = NULL;
}

static int make(struct passer *p)
{
	const bool v3 = p->e->version == TPACKET_V3;
	int r = p->e->rx_ring ? set_ring(p, PACKET_RX_RING, p->e->rx_ring) : 0;

	if (!r && p->e->tx_ring)
		r = set_ring(p, PACKET_TX_RING, p->e->tx_ring);
	if (r)
		return r;
	p->ring = mmap(NULL, p->size, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (p->ring == MAP_FAILED) {
		p->ring = NULL;
		return -errno;
	}
	if (p->e->rx_ring && p->e->rx_place)
		r = v3 ? pass_blocks(p) : pass_frames(p);
	if (!r && p->e->tx_ring && p->e->tx_place)
		r = pass_sent(p);
	return r;
}

static int open_passer(struct passer *p)
{
	const struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(PROTOCOL), .sll_ifindex = p->loopback };

	struct ifreq request = { .ifr_name = "lo" };

	p->sender = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (p->sender < 0 || ioctl(p->sender, SIOCGIFMTU, &request) < 0)
		return -errno;
	p->most = MIN(PAYLOAD, (uint32_t)request.ifr_mtu);
	if (getrandom(p->payload.number, sizeof(p->payload.number), 0) < 0)
		return -errno;
	int r = set_filter(p, 0);
	return r ? r : bind(p->fd, (const struct sockaddr *)&at, sizeof(at)) < 0 ? -errno : 0;
}

int packet_ring_restore(struct restore *s, const PacketSockEntry *e, int fd)
{
	_cleanup_free_ struct passer *p = calloc(1, sizeof(*p));
	int r = p ? 0 : -ENOMEM;

	if (r)
		return error_set(s->e, r, "out of memory");
	if (!is_sound(e->rx_ring, e->rx_place, e->version == TPACKET_V3) || !is_sound(e->tx_ring, e->tx_place, false) || e->version > TPACKET_V3)
		return error_set(s->e, -EBADMSG, "file %u is a packet socket with a ring that can't be", e->id);
	*p = (struct passer){ .e = e, .fd = fd, .sender = -1, .loopback = (int)if_nametoindex("lo"), .size = packet_rings_size(e), .rx_size = packet_ring_size(e->rx_ring) };
	r = open_passer(p);
	for (int tries = 0; !r || r == -EAGAIN; tries++) {
		r = make(p);
		if (r != -EAGAIN || tries == TRIES)
			break;
		unmap(p);
		r = set_ring(p, PACKET_RX_RING, NULL);
		if (!r)
			r = set_ring(p, PACKET_TX_RING, NULL);
	}
	set_filter(p, 0);
	if (r)
		r = error_errno(s->e, r, "cannot bring the ring of packet socket %u to its place, with packets through the loopback device", e->id);
	else if ((r = fill(s, p)))
		r = error_errno(s->e, r, "cannot fill the ring of packet socket %u", e->id);
	unmap(p);
	if (p->sender >= 0)
		close(p->sender);
	return r;
}
