/* See packet_ring.h: the dump. */
#include "engine/kinds/packet_ring.h"

#include "base/pool.h"
#include "engine/kernel.h"
#include "engine/task/inside.h"
#include "engine/task/task.h"

#include <linux/if_packet.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>

#define TRIES 200
#define WINDOW 512 /* of the kernel's struct: all that is looked at stands in its beginning */
#define RING_MAX (1UL << 32)
#define PIECE_MAX (1U << 20)

#define refuse(d, f, format, ...) fd_error(d, f, -ENOTSUP, "is a packet socket with a ring, " format, ##__VA_ARGS__)

struct seen {
	ino_t ino;
	uint32_t id;
	size_t size;
};

struct state {
	VEC(struct seen) seen;
};

extern const struct kind kind_packet;

/* Where the parts of struct packet_ring_buffer are. */
struct layout {
	int rx, tx; /* in struct packet_sock */
	int head, owners, vector, frame_size, frame_max, pages, length;
	int queue, active, frozen, start, sequence, last, next, filling;
};

/* How far the kernel is. */
struct now {
	uint32_t head, frozen, next, last;
	uint64_t sequence, owners;
	uint32_t filling;
};

struct reader {
	struct kernel *k;
	struct layout l;
	uint64_t sock;
	bool v3;
	const PacketRing *rx;
	char *bytes; /* a copy of the mapping */
	size_t size;
};

size_t packet_ring_size(const PacketRing *r)
{
	return r ? (size_t)r->block_size * r->block_nr : 0;
}

size_t packet_rings_size(const PacketSockEntry *e)
{
	return packet_ring_size(e->rx_ring) + packet_ring_size(e->tx_ring);
}

/* ---- what the kernel's own memory tells ---- */

static int find_layout(const struct kernel *k, struct layout *l)
{
	static const char ring[] = "packet_ring_buffer", core[] = "tpacket_kbdq_core";
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->rx, "packet_sock", "rx_ring" }, { &l->tx, "packet_sock", "tx_ring" }, { &l->head, ring, "head" }, { &l->owners, ring, "rx_owner_map" },
		{ &l->vector, ring, "pg_vec" }, { &l->frame_size, ring, "frame_size" }, { &l->frame_max, ring, "frame_max" }, { &l->pages, ring, "pg_vec_pages" },
		{ &l->length, ring, "pg_vec_len" }, { &l->queue, ring, "prb_bdqc" }, { &l->active, core, "kactive_blk_num" },
		{ &l->frozen, core, "reset_pending_on_curr_blk" }, { &l->start, core, "pkblk_start" }, { &l->sequence, core, "knxt_seq_num" },
		{ &l->last, core, "prev" }, { &l->next, core, "nxt_offset" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0 || *wanted[i].to + 8 > (i < 2 ? INT32_MAX : WINDOW / 2))
			return -ENOTSUP;
	l->filling = kernel_offset(k, core, "blk_fill_in_prog_lock");
	if (l->filling < 0) /* before Linux 5.8 */
		l->filling = kernel_offset(k, core, "blk_fill_in_prog");
	return l->filling < 0 || l->filling + 8 > WINDOW / 2 || kernel_offset(k, "packet_sock", "sk") ? -ENOTSUP : 0;
}

static uint64_t number_at(const char *window, int offset, size_t size)
{
	uint64_t value = 0;

	memcpy(&value, window + offset, size);
	return value;
}

static int open_reader(struct dump *d, struct descriptor *f, struct reader *r)
{
	uint64_t at;
	int s = (r->k = dump_kernel(d)) ? find_layout(r->k, &r->l) : -ENOTSUP;

	if (!s)
		s = kernel_file(r->k, f->own_fd, &at);
	if (!s)
		s = inside_follow(d, &at, "file", "private_data");
	if (!s)
		s = inside_follow(d, &at, "socket", "sk");
	r->sock = s ? 0 : at;
	return s ? refuse(d, f, "and how far the kernel is there stands in its memory, which can't be read here (BTF, BPF); close it first") : 0;
}

static int look(const struct reader *r, int ring, struct now *ret)
{
	const struct layout *l = &r->l;
	char w[WINDOW];
	int s = kernel_read(r->k, r->sock + (uint64_t)ring, w, sizeof(w));

	*ret = (struct now){};
	if (s)
		return s;
	if (!r->v3 || ring == l->tx) {
		ret->head = (uint32_t)number_at(w, l->head, 4);
		ret->owners = number_at(w, l->owners, 8);
		return 0;
	}
	const char *q = w + l->queue;
	const uint64_t start = number_at(q, l->start, 8);
	ret->head = (uint32_t)number_at(q, l->active, 2);
	ret->frozen = number_at(q, l->frozen, 1) != 0;
	ret->sequence = number_at(q, l->sequence, 8);
	ret->next = (uint32_t)(number_at(q, l->next, 8) - start);
	ret->last = (uint32_t)(number_at(q, l->last, 8) - start);
	ret->filling = (uint32_t)number_at(q, l->filling, 4);
	return 0;
}

/* Whether a packet is just being put into a frame that counts already. */
static int is_filling(const struct reader *r, const struct now *now, bool *ret)
{
	uint64_t bits[PAGE_SIZE / 8];
	const size_t size = ALIGN_UP((r->rx->frame_nr + 7) / 8, 8);

	*ret = now->filling != 0;
	for (size_t at = 0, n; !r->v3 && now->owners && !*ret && at < size; at += n) {
		n = MIN(size - at, sizeof(bits));
		int s = kernel_read(r->k, now->owners + at, bits, n);
		if (s)
			return s;
		for (size_t i = 0; i < n / 8; i++)
			*ret |= bits[i] != 0;
	}
	return 0;
}

static char *frame_of(const struct reader *r, uint32_t i)
{
	const uint32_t each = r->rx->block_size / r->rx->frame_size;

	return r->bytes + (size_t)(i / each) * r->rx->block_size + (size_t)(i % each) * r->rx->frame_size;
}

static struct tpacket_block_desc *block_of(const struct reader *r, uint64_t i)
{
	return (struct tpacket_block_desc *)(r->bytes + (size_t)(i % r->rx->block_nr) * r->rx->block_size);
}

static uint64_t status_of(const struct reader *r, bool v1, const char *frame)
{
	return v1 ? number_at(frame, 0, 8) : number_at(frame, 0, 4);
}

/* ---- what came after we had looked ---- */

/* *full: the frame that is next was not given back by the program, so none can have come. */
static void clean_frames(struct reader *r, bool v1, const struct now *was, const struct now *is, bool full)
{
	const uint32_t count = r->rx->frame_nr;
	uint32_t i = was->head;
	bool all = !full && was->head == is->head && status_of(r, v1, frame_of(r, i)) != TP_STATUS_KERNEL;

	for (; !full && (i != is->head || all); i = (i + 1) % count, all &= i != is->head)
		memset(frame_of(r, i), 0, r->rx->frame_size);
	for (i = 0; i < count; i++)
		if (status_of(r, v1, frame_of(r, i)) == TP_STATUS_KERNEL)
			memset(frame_of(r, i), 0, r->rx->frame_size);
}

/* The block that is being filled, as it was: its packets counted, the last of them the end. */
static int clean_active(struct reader *r, struct now *was)
{
	struct tpacket_block_desc *b = block_of(r, was->head);
	struct tpacket_hdr_v1 *h = &b->hdr.bh1;
	const uint32_t first = h->offset_to_first_pkt;
	uint32_t at = first, count = 0;

	if (first > was->next || was->next > r->rx->block_size)
		return -EBADMSG;
	while (at < was->next) {
		struct tpacket3_hdr *packet = (struct tpacket3_hdr *)((char *)b + at);
		if (at == was->last)
			packet->tp_next_offset = was->next - at;
		if (packet->tp_next_offset < sizeof(*packet) || packet->tp_next_offset > was->next - at)
			return -EBADMSG;
		at += packet->tp_next_offset;
		count++;
	}
	h->block_status = TP_STATUS_KERNEL;
	h->num_pkts = count;
	if (!count) /* a restore may have left a gap before the first */
		was->last = was->next;
	h->blk_len = was->next;
	memset((char *)b + was->next, 0, r->rx->block_size - was->next);
	return 0;
}

static int clean_blocks(struct reader *r, struct now *was, const struct now *is)
{
	const uint64_t came = is->sequence - was->sequence;

	if (came > r->rx->block_nr)
		return -EBADMSG;
	for (uint64_t i = 1; i <= came && i < r->rx->block_nr; i++)
		memset(block_of(r, was->head + i), 0, r->rx->block_size);
	for (uint32_t i = 0; i < r->rx->block_nr; i++)
		if ((was->frozen || i != was->head) && block_of(r, i)->hdr.bh1.block_status == TP_STATUS_KERNEL)
			memset(block_of(r, i), 0, r->rx->block_size);
	return was->frozen ? 0 : clean_active(r, was);
}

/* Packets that are on their way out are not ours any more: the device has them. */
static void clean_sent(struct reader *r, uint32_t version, const PacketRing *tx)
{
	const uint32_t each = tx->block_size / tx->frame_size;
	const size_t at = version == TPACKET_V3 ? offsetof(struct tpacket3_hdr, tp_status) : 0;

	for (uint32_t i = 0; i < tx->frame_nr; i++) {
		char *frame = r->bytes + packet_ring_size(r->rx) + (size_t)(i / each) * tx->block_size + (size_t)(i % each) * tx->frame_size + at;
		uint32_t status;
		memcpy(&status, frame, sizeof(status));
		if (status == TP_STATUS_SENDING)
			memset(frame, 0, sizeof(status));
	}
}

/* ---- capture ---- */

static PacketRing *take_sizes(struct pool *pool, const struct packet_diag_ring *told)
{
	PacketRing *r = pool_take(pool, sizeof(*r));

	if (!r)
		return NULL;
	packet_ring__init(r);
	r->block_size = told->pdr_block_size;
	r->block_nr = told->pdr_block_nr;
	r->frame_size = told->pdr_frame_size;
	r->frame_nr = told->pdr_frame_nr;
	r->retire_tmo = told->pdr_retire_tmo;
	r->sizeof_priv = told->pdr_sizeof_priv;
	r->features = told->pdr_features;
	return r;
}

/* With TPACKET_V3 only the kernel's memory has the sizes of the ring for sending. */
static int find_tx(const struct reader *r, struct packet_diag_ring *ret, bool *has)
{
	char w[WINDOW];
	int s = kernel_read(r->k, r->sock + (uint64_t)r->l.tx, w, sizeof(w));

	if (s || !number_at(w, r->l.vector, 8))
		return s;
	*has = true;
	*ret = (struct packet_diag_ring){ .pdr_block_size = (uint32_t)number_at(w, r->l.pages, 4) * PAGE_SIZE, .pdr_block_nr = (uint32_t)number_at(w, r->l.length, 4),
					  .pdr_frame_size = (uint32_t)number_at(w, r->l.frame_size, 4),
					  .pdr_frame_nr = (uint32_t)number_at(w, r->l.frame_max, 4) + 1 };
	return 0;
}

static int copy(struct dump *d, struct descriptor *f, struct reader *r, const char *ring, uint32_t version, struct now *was)
{
	const struct timespec moment = { .tv_nsec = 50000 };
	struct now is = {};
	bool busy = true, full = false;
	int s = 0, tries = 0;

	for (; busy && tries < TRIES && r->rx; tries++) {
		s = look(r, r->l.rx, was);
		if (!s)
			s = is_filling(r, was, &busy);
		const size_t at = r->v3 || s ? 0 : (size_t)(frame_of(r, was->head) - r->bytes);
		full = !r->v3 && status_of(r, version == TPACKET_V1, ring + at) != TP_STATUS_KERNEL;
		if (!s)
			s = look(r, r->l.rx, &is);
		if (s)
			return fd_errno(d, f, s, "does not tell how far its ring is");
		busy |= memcmp(was, &is, sizeof(is)) != 0;
		if (busy)
			nanosleep(&moment, NULL);
	}
	if (r->rx && busy)
		return refuse(d, f, "and gets more packets than can be followed; try again");
	memcpy(r->bytes, ring, r->size);
	if (r->rx && (s = look(r, r->l.rx, &is)))
		return fd_errno(d, f, s, "does not tell how far its ring is");
	if (r->rx && !r->v3)
		clean_frames(r, version == TPACKET_V1, was, &is, full);
	else if (r->rx && clean_blocks(r, was, &is))
		return fd_error(d, f, -EIO, "has a ring that is not as the kernel fills it; let the program close it first");
	return 0;
}

static bool is_zero(const char *from, size_t size)
{
	return !from[0] && !memcmp(from, from + 1, size - 1);
}

static int write_pieces(struct image_file *file, const char *bytes, size_t size)
{
	int r = 0;

	for (size_t at = 0, end; !r && at < size; at = end) {
		PacketRingPiece piece = PACKET_RING_PIECE__INIT;
		end = at + PAGE_SIZE;
		if (is_zero(bytes + at, PAGE_SIZE))
			continue;
		while (end < size && end - at < PIECE_MAX && !is_zero(bytes + end, PAGE_SIZE))
			end += PAGE_SIZE;
		piece.offset = at;
		piece.length = (uint32_t)(end - at);
		r = image_write_message(file, &piece.base);
		if (!r)
			r = image_write_bytes(file, bytes + at, end - at);
	}
	return r;
}

static int write_content(struct dump *d, const struct descriptor *f, const struct reader *r)
{
	struct image_file *file;
	char name[40];

	snprintf(name, sizeof(name), "packet-ring-%x.img", f->id);
	int s = image_create(d->dir, name, IMAGE_MAGIC_PACKET_RING, &file);
	if (!s) {
		s = write_pieces(file, r->bytes, r->size);
		int closed = image_close(file);
		s = s ? s : closed;
	}
	return s ? error_errno(d->e, s, "cannot write %s", name) : 0;
}

static PacketRingPlace *take_place(struct pool *pool, const struct now *now, bool v3)
{
	PacketRingPlace *p = pool_take(pool, sizeof(*p));

	if (!p)
		return NULL;
	packet_ring_place__init(p);
	p->head = now->head;
	p->has_sequence = p->has_next = p->has_last = p->has_frozen = v3;
	p->sequence = now->sequence;
	p->next = now->next;
	p->last = now->last;
	p->frozen = now->frozen;
	return p;
}

/* Both rings, which are one mapping. */
static int capture_content(struct dump *d, struct descriptor *f, struct reader *r, struct pool *pool, PacketSockEntry *e)
{
	struct now rx = {}, tx = {};
	int s;

	r->rx = e->rx_ring;
	r->size = packet_rings_size(e);
	if (!r->size || r->size > RING_MAX)
		return refuse(d, f, "which is too large; close it first");
	const char *ring = mmap(NULL, r->size, PROT_READ, MAP_SHARED, f->own_fd, 0);
	if (ring == MAP_FAILED)
		return fd_errno(d, f, -errno, "has a ring that can't be mapped");
	r->bytes = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	s = r->bytes == MAP_FAILED ? error_set(d->e, -ENOMEM, "out of memory") : copy(d, f, r, ring, e->version, &rx);
	if (!s && e->tx_ring) {
		s = look(r, r->l.tx, &tx);
		clean_sent(r, e->version, e->tx_ring);
		if (s)
			s = fd_errno(d, f, s, "does not tell how far its ring is");
	}
	if (!s)
		s = write_content(d, f, r);
	if (!s && ((e->rx_ring && !(e->rx_place = take_place(pool, &rx, r->v3))) || (e->tx_ring && !(e->tx_place = take_place(pool, &tx, false)))))
		s = error_set(d->e, -ENOMEM, "out of memory");
	if (r->bytes != MAP_FAILED)
		munmap(r->bytes, r->size);
	munmap((void *)ring, r->size);
	return s;
}

static int note(struct dump *d, const struct descriptor *f, size_t size)
{
	void **at = kind_state(d, &kind_packet);
	struct state *s = *at = *at ? *at : calloc(1, sizeof(*s));
	struct seen *x = s ? VEC_PUSH(&s->seen) : NULL;

	if (!x)
		return error_set(d->e, -ENOMEM, "out of memory");
	*x = (struct seen){ f->st.st_ino, f->id, size };
	return 0;
}

int packet_ring_capture(struct dump *d, struct descriptor *f, const struct packet_rings *told, struct pool *pool, PacketSockEntry *e)
{
	struct packet_rings all = *told;
	struct reader r = { .v3 = e->version == TPACKET_V3 };
	int waiting = 0, s = 0;

	if (!told->has_rx && !told->has_tx && !r.v3)
		return 0;
	if (told->has_rx || told->has_tx || dump_kernel(d)) {
		s = open_reader(d, f, &r);
		if (!s && !told->has_tx && r.v3)
			s = find_tx(&r, &all.tx, &all.has_tx);
	}
	if (s || (!all.has_rx && !all.has_tx))
		return s;
	if (all.has_rx && !d->request->skip_in_flight && ioctl(f->own_fd, FIONREAD, &waiting) == 0 && waiting)
		return refuse(d, f, "and has a packet beside it that was not read yet; try again, or use --skip-in-flight to drop it");
	e->rx_ring = all.has_rx ? take_sizes(pool, &all.rx) : NULL;
	e->tx_ring = all.has_tx ? take_sizes(pool, &all.tx) : NULL;
	if ((all.has_rx && !e->rx_ring) || (all.has_tx && !e->tx_ring))
		return error_set(d->e, -ENOMEM, "out of memory");
	s = capture_content(d, f, &r, pool, e);
	return s ? s : note(d, f, packet_rings_size(e));
}

uint32_t packet_ring_find(struct dump *d, const struct proc_vma *vma)
{
	struct state *s = *kind_state(d, &kind_packet);

	if (!s || !vma->name || strncmp(vma->name, "socket:", 7) || vma->pgoff)
		return 0;
	VEC_FOREACH(&s->seen, x)
		if (x->ino == vma->inode && x->size == vma->end - vma->start)
			return x->id;
	return 0;
}

void packet_ring_finish(void **at)
{
	struct state *s = *at;

	if (s)
		VEC_FREE(&s->seen);
	free(s);
	*at = NULL;
}
