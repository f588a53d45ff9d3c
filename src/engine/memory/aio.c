/*
 * Rings of asynchronous i/o, io_setup(2): shared memory of kernel and process, whose address is the context's id. The ring is
 * saved with the pages of its process: head, tail and the events that were not fetched yet.
 *
 * Restored by io_setup of as many events as have the same size, and mremap(2), which moves the context along. The kernel has a tail of its
 * own: as many reads of /dev/null as it takes bring it there. A request that is under way can't be seen from outside; it is noticed
 * when it completes during the dump. One that takes longer (polling, a pipe) is lost: left out.
 */
#include "engine/memory/aio.h"

#include "engine/memory/parents.h"
#include "engine/memory/vma.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>

#define RING_MAGIC 0xa10a10a1U
#define RING_SIZE_MAX (64UL << 20)

/* At the start of a ring; as many events as fit behind it. */
struct ring_head {
	uint32_t id, nr, head, tail, magic, compatible, incompatible, length;
};

static uint32_t events_in(uint64_t size)
{
	return (uint32_t)((size - sizeof(struct ring_head)) / sizeof(struct io_event));
}

/* The least that io_setup makes a ring of that size for: it doubles the number and adds two, then fills the last page. */
static uint32_t least_request(uint64_t size)
{
	uint64_t before = (size - PAGE_SIZE) / sizeof(struct io_event);

	return before > 1 ? (uint32_t)(before / 2 - 1) : 1;
}

static bool is_sound(const struct ring_head *h, uint64_t size)
{
	return h->magic == RING_MAGIC && h->length == sizeof(*h) && h->nr == events_in(size) && h->head < h->nr && h->tail < h->nr;
}

static int read_head(struct dump *d, struct task *t, const struct aio_ring *ring, struct ring_head *ret)
{
	if (pread(t->mem_fd, ret, sizeof(*ret), (off_t)ring->start) != sizeof(*ret) || !is_sound(ret, ring->size))
		return task_error(d, t, -ENOTSUP, "its ring for asynchronous i/o at %lx can't be read", (unsigned long)ring->start);
	return 0;
}

int aio_list(struct dump *d, struct task *t)
{
	for (size_t i = 0; i < t->maps.count; i++) {
		const struct proc_vma *v = &t->maps.data[i];
		if (!(vma_status(v) & VMA_AIORING))
			continue;
		struct aio_ring *ring = VEC_PUSH(&t->rings);
		if (!ring)
			return error_set(d->e, -ENOMEM, "out of memory");
		*ring = (struct aio_ring){ .start = v->start, .size = v->end - v->start };
	}
	return 0;
}

int aio_capture(struct dump *d, struct task *t, MmEntry *mm)
{
	mm->aios = calloc(t->rings.count + 1, sizeof(*mm->aios));
	if (!mm->aios)
		return error_set(d->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&t->rings, ring) {
		struct ring_head head;
		if (!ring->alive)
			return task_error(d, t, -ENOTSUP,
					  "its memory at %lx is a ring for asynchronous i/o that belonged to the process it was forked from, "
					  "which is not saved; unmap it first",
					  (unsigned long)ring->start);
		int r = read_head(d, t, ring, &head);
		if (r)
			return r;
		ring->tail = head.tail;
		AioRingEntry *entry = mm->aios[mm->n_aios] = malloc(sizeof(*entry));
		if (!entry)
			return error_set(d->e, -ENOMEM, "out of memory");
		mm->n_aios++;
		aio_ring_entry__init(entry);
		entry->id = ring->start;
		entry->nr_req = least_request(ring->size);
		entry->ring_len = (uint32_t)ring->size;
	}
	return 0;
}

int aio_recheck(struct dump *d, struct task *t)
{
	VEC_FOREACH(&t->rings, ring) {
		struct ring_head head;
		int r = read_head(d, t, ring, &head);
		if (r)
			return r;
		if (head.tail != ring->tail)
			return task_error(d, t, -EAGAIN, "asynchronous i/o was under way; try again when it is done");
	}
	return 0;
}

/* ---- restore ---- */

void aio_plan_place(struct rtask *t, const VmaEntry *v)
{
	struct batch *b = &t->threads.data[0].batch;

	batch_what(b, "keep the place for a ring at %lx of process %d", (unsigned long)v->start, t->pid);
	OP(b, __NR_mmap, v->start, v->end - v->start, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

/* From the pages that were saved. */
static int load_head(struct restore *s, struct rtask *t, uint64_t at, uint64_t size, struct ring_head *ret)
{
	uint64_t offset = 0;

	for (size_t i = 0; i < t->pages.count; i++) {
		const PagemapEntry *p = t->pages.data[i];
		uint64_t length = (uint64_t)p->nr_pages * PAGE_SIZE;
		if (pages_place(p) != PAGES_HERE)
			continue;
		if (at >= p->vaddr && at < p->vaddr + length &&
		    image_raw_read(t->stored, NULL, ret, sizeof(*ret), offset + at - p->vaddr) == 0 && is_sound(ret, size))
			return 0;
		offset += length;
	}
	return error_set(s->e, -EBADMSG, "the ring for asynchronous i/o at %lx of process %d is damaged or missing", (unsigned long)at, t->pid);
}

/* Lets that many reads of nothing complete. */
static void plan_advance(struct restore *s, struct batch *b, uint64_t id, uint32_t count, bool fetch)
{
	struct iocb block = { .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)s->aio_fd, .aio_nbytes = 1 };
	uint64_t *list = arena_take(&s->arena, count * sizeof(*list));
	struct io_event *events = fetch ? arena_take(&s->arena, count * sizeof(*events)) : NULL;

	block.aio_buf = arena_place(&s->arena, "", 1);
	uint64_t at = arena_place(&s->arena, &block, sizeof(block));
	if (!list || !at || (fetch && !events)) {
		b->failed = true;
		return;
	}
	for (uint32_t i = 0; i < count; i++)
		list[i] = at;
	for (int step = 0; count && step < 1 + fetch; step++) {
		struct agent_op *op = step ? OP(b, __NR_io_getevents, id, count, count, (uint64_t)events, 0) :
					     OP(b, __NR_io_submit, id, count, (uint64_t)list);
		op->flags = AGENT_OP_EXPECT;
		op->expect = count;
	}
}

static int plan_ring(struct restore *s, struct rtask *t, const AioRingEntry *ring)
{
	struct batch *b = &t->threads.data[0].batch;
	struct ring_head head;
	uint64_t *id = arena_take(&s->arena, sizeof(*id));
	int r = load_head(s, t, ring->id, ring->ring_len, &head);

	if (r || !id)
		return r ? r : error_set(s->e, -ENOMEM, "out of memory");
	batch_what(b, "make the ring at %lx of process %d", (unsigned long)ring->id, t->pid);
	OP(b, __NR_io_setup, least_request(ring->ring_len), (uint64_t)id);
	struct agent_op *op = OP(b, AGENT_OP_LOAD, (uint64_t)id);
	uint64_t at = (uint64_t)(op - b->ops.data);
	/* Fails, for its size, where this machine makes a larger one (it has more processors). */
	batch_what(b, "move the ring to %lx of process %d, with the same size", (unsigned long)ring->id, t->pid);
	op = OP(b, __NR_mremap, at, ring->ring_len, ring->ring_len, MREMAP_MAYMOVE | MREMAP_FIXED, ring->id);
	op->flags |= AGENT_OP_REF_ARG0;
	batch_what(b, "bring the ring at %lx of process %d to where it was", (unsigned long)ring->id, t->pid);
	for (uint32_t left = head.head; left;) {
		uint32_t step = MIN(left, head.nr / 2);
		plan_advance(s, b, ring->id, step, true);
		left -= step;
	}
	plan_advance(s, b, ring->id, (head.tail + head.nr - head.head) % head.nr, false);
	return 0;
}

int aio_plan(struct restore *s, struct rtask *t)
{
	int r = 0;

	if (!t->mm->n_aios)
		return 0;
	if (s->aio_fd <= 0) {
		s->aio_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		if (s->aio_fd < 0 || (s->aio_fd = restore_hold(s, s->aio_fd)) < 0)
			return error_errno(s->e, s->aio_fd == -1 ? -errno : s->aio_fd, "cannot open /dev/null");
	}
	for (size_t i = 0; !r && i < t->mm->n_aios; i++) {
		const AioRingEntry *ring = t->mm->aios[i];
		bool mapped = false;
		for (size_t k = 0; k < t->mm->n_vmas; k++) {
			const VmaEntry *v = t->mm->vmas[k];
			mapped |= v->status & VMA_AIORING && v->start == ring->id && v->end - v->start == ring->ring_len;
		}
		if (!mapped || ring->ring_len < PAGE_SIZE || ring->ring_len > RING_SIZE_MAX)
			return error_set(s->e, -EBADMSG, "mm-%d.img has a ring for asynchronous i/o that is not mapped", t->pid);
		r = plan_ring(s, t, ring);
	}
	return r;
}

void aio_plan_finish(struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;

	/* Its place in the kernel's table: they are taken in this order. */
	for (size_t i = 0; i < t->mm->n_aios; i++)
		OP(b, AGENT_OP_STORE, t->mm->aios[i]->id, i);
}

void aio_release(struct restore *s)
{
	if (s->aio_fd > 0)
		close(s->aio_fd);
}
