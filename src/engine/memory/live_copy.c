/* Copying for live.h: lists of pages cut into chunks for the workers. What runs may have unmapped a page meanwhile; what stands still may not. */
#include "base/workers.h"
#include "engine/memory/live_task.h"
#include "engine/memory/pages.h"

#include "engine/watch.h"

#include <sys/uio.h>

#define CHUNK_SIZE (4UL << 20)
#define COPY_SIZE (256UL << 10) /* stays in the cache of a processor */
#define SEGMENTS 64
#define GENTLE_MIN (64UL << 20) /* less is soon done */
#define GENTLE_NS 500000000UL
#define GENTLE_NS_PER_MIB 4000000UL /* a fifth of what a quiet machine does */

struct chunk {
	struct dump *d;
	struct live_task *lt;
	const struct extent *list; /* the first part begins `offset` bytes into the first */
	uint64_t offset, size;
	bool late;
};

struct batch_of_pages {
	struct segment segments[SEGMENTS];
	uint64_t places[SEGMENTS];
	size_t count, size;
};

void live_note(struct live *l, int r, const struct error *why)
{
	pthread_mutex_lock(&l->lock);
	if (r && !l->result) {
		l->result = r;
		l->why = *why;
	}
	pthread_mutex_unlock(&l->lock);
}

void live_gently(struct dump *d, uint64_t size)
{
	const bool much = size > GENTLE_MIN;
	uint64_t until = much ? watch_now() + GENTLE_NS + (size >> 20) * GENTLE_NS_PER_MIB : 0;

	__atomic_store_n(&d->live->gentle_until, until, __ATOMIC_SEQ_CST);
	if (much)
		workers_pace(d->workers, PACE_GENTLE);
}

void live_hurry(struct dump *d)
{
	uint64_t until = __atomic_load_n(&d->live->gentle_until, __ATOMIC_SEQ_CST);

	if (until && watch_now() > until && __atomic_compare_exchange_n(&d->live->gentle_until, &until, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		workers_pace(d->workers, PACE_USUAL);
}

/* The next parts of a chunk, as many as are copied at once. */
static void gather(struct chunk *c, struct batch_of_pages *b)
{
	b->count = b->size = 0;
	while (c->size && b->count < SEGMENTS && b->size < COPY_SIZE) {
		const struct extent *x = c->list;
		size_t size = (size_t)MIN(MIN(c->size, x->end - x->start - c->offset), COPY_SIZE - b->size);
		b->segments[b->count] = (struct segment){ x->start + c->offset, size, x->several };
		b->places[b->count++] = x->slot + c->offset;
		b->size += size;
		c->size -= size;
		c->offset += size;
		if (c->offset == x->end - x->start) {
			c->list++;
			c->offset = 0;
		}
	}
}

/* A page that can't be read now: it is gone, or will be copied in the pause. */
static int miss(struct dump *d, struct live_task *lt, uint64_t at)
{
	pthread_mutex_lock(&d->live->lock);
	struct extent *x = VEC_PUSH(&lt->missing);
	if (x)
		*x = (struct extent){ .start = at, .end = at + PAGE_SIZE, .shared = true };
	pthread_mutex_unlock(&d->live->lock);
	return x ? 0 : -ENOMEM;
}

static int read_page_by_page(struct dump *d, struct live_task *lt, unsigned char *to, const struct segment *s)
{
	int r = 0;

	for (size_t done = 0; !r && done < s->size; done += PAGE_SIZE)
		if (pread(lt->mem_fd, to + done, PAGE_SIZE, (off_t)(s->from + done)) != (ssize_t)PAGE_SIZE) {
			memset(to + done, 0, PAGE_SIZE);
			r = miss(d, lt, s->from + done);
		}
	return r;
}

static int read_running(struct dump *d, struct live_task *lt, unsigned char *to, const struct batch_of_pages *b)
{
	struct iovec local = { to, b->size }, remote[SEGMENTS];
	bool several = d->request->track && lt->unheld;
	int r = 0;

	for (size_t i = 0; i < b->count; i++) {
		remote[i] = (struct iovec){ (void *)b->segments[i].from, b->segments[i].size };
		several |= b->segments[i].several;
	}
	if (!several && process_vm_readv(lt->proc, &local, 1, remote, b->count, 0) == (ssize_t)b->size)
		return 0;
	for (size_t i = 0; !r && i < b->count; i++) {
		const struct segment *s = &b->segments[i];
		if (pread(lt->mem_fd, to, s->size, (off_t)s->from) != (ssize_t)s->size)
			r = read_page_by_page(d, lt, to, s);
		to += s->size;
	}
	return r;
}

static int write_all(int fd, const unsigned char *data, size_t size, uint64_t at)
{
	while (size) {
		ssize_t n = pwrite(fd, data, size, (off_t)at);
		if (n < 0 && errno != EINTR)
			return -errno;
		n = n < 0 ? 0 : n;
		data += n;
		at += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

/* To their places: those that follow upon each other there at once. */
static int write_batch(int fd, const unsigned char *from, const struct batch_of_pages *b, uint64_t base)
{
	int r = 0;

	for (size_t i = 0; !r && i < b->count;) {
		uint64_t at = b->places[i], size = 0;
		for (; i < b->count && b->places[i] == at + size; i++)
			size += b->segments[i].size;
		r = write_all(fd, from, (size_t)size, at - base);
		from += size;
	}
	return r;
}

static int copy_running(struct chunk *c, unsigned char *buffer, struct error *why)
{
	struct batch_of_pages b;
	int r = 0;

	while (!r && c->size && !c->d->live->result) {
		live_hurry(c->d);
		gather(c, &b);
		r = read_running(c->d, c->lt, buffer, &b);
		if (!r)
			r = write_batch(c->lt->store_fd, buffer, &b, 0);
		__atomic_fetch_add(&c->d->live_done, b.size, __ATOMIC_RELAXED);
		if (r)
			error_errno(why, r, "cannot write the pages of process %d", c->lt->pid);
	}
	return r;
}

/* Those of a batch from `first` on that follow upon each other in their places, all in memory or none: live_cow.c has taken others from between them. */
static void find_run(const struct live *l, const struct batch_of_pages *b, size_t first, struct batch_of_pages *run)
{
	run->count = run->size = 0;
	for (size_t i = first; i < b->count; i++) {
		if (run->count && (b->places[i] != run->places[0] + run->size || (b->places[i] < l->late_room) != (run->places[0] < l->late_room)))
			break;
		run->segments[run->count] = b->segments[i];
		run->places[run->count++] = b->places[i];
		run->size += b->segments[i].size;
	}
}

static int copy_late(struct chunk *c, unsigned char *buffer, struct error *why)
{
	struct live *l = c->d->live;
	struct dump own = *c->d;
	struct batch_of_pages b, run;
	int r = 0;

	own.e = why;
	while (!r && c->size) {
		gather(c, &b);
		for (size_t i = 0; !r && i < b.count; i += run.count) {
			find_run(l, &b, i, &run);
			const bool in_memory = run.places[0] < l->late_room;
			r = pages_read(&own, c->lt->t, in_memory ? l->late + run.places[0] : buffer, run.segments, run.count);
			if (!r && !in_memory && (r = write_batch(l->spill_fd, buffer, &run, l->late_room)))
				error_errno(why, r, "cannot write the pages of process %d", c->lt->pid);
		}
	}
	return r;
}

static void run_chunk(void *argument)
{
	struct chunk *c = argument;
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	struct error why = {};
	int r = buffer ? 0 : error_set(&why, -ENOMEM, "out of memory");

	if (!r)
		r = c->late ? copy_late(c, buffer, &why) : copy_running(c, buffer, &why);
	live_note(c->d->live, r, &why);
	free(c);
}

/* The list must stay until all is done. */
static void submit(struct dump *d, struct live_task *lt, const struct extents *list, bool late)
{
	const struct error none = { .text = "out of memory" };
	struct chunk *c = NULL;
	uint64_t total = 0;

	for (size_t i = 0; i < list->count; i++)
		total += list->data[i].end - list->data[i].start;
	for (size_t i = 0; i < list->count; i++)
		for (uint64_t at = 0, left = list->data[i].end - list->data[i].start, step; left; at += step, left -= step) {
			if (!c && !(c = calloc(1, sizeof(*c)))) {
				live_note(d->live, -ENOMEM, &none);
				return;
			}
			if (!c->size)
				*c = (struct chunk){ .d = d, .lt = lt, .list = &list->data[i], .offset = at, .late = late };
			step = MIN(left, CHUNK_SIZE - c->size);
			c->size += step;
			total -= step;
			if (c->size < CHUNK_SIZE && total)
				continue;
			workers_submit_large(d->workers, run_chunk, c);
			c = NULL;
		}
}

int live_copy(struct dump *d, struct live_task *lt, const struct extents *copies)
{
	struct live *l = d->live;

	lt->copied = 0;
	for (size_t i = 0; i < copies->count; i++)
		lt->copied += copies->data[i].end - copies->data[i].start;
	__atomic_fetch_add(&d->live_total, lt->copied, __ATOMIC_RELAXED);
	submit(d, lt, copies, false);
	workers_wait(d->workers);
	if (l->result)
		*d->e = l->why;
	return l->result;
}

void live_copy_late(struct dump *d, struct live_task *lt)
{
	submit(d, lt, &lt->late, true);
}

int live_late_copy(struct dump *d, struct live_task *lt, uint64_t from, size_t size, bool several, uint64_t slot, unsigned char *buffer)
{
	struct live *l = d->live;
	const bool in_memory = slot < l->late_room;
	unsigned char *to = in_memory ? l->late + slot : buffer;
	struct iovec local = { to, size }, remote = { (void *)from, size };

	several |= d->request->track;
	if ((several || process_vm_readv(lt->proc, &local, 1, &remote, 1, 0) != (ssize_t)size) && pread(lt->mem_fd, to, size, (off_t)from) != (ssize_t)size)
		return -ESTALE;
	return in_memory ? 0 : write_all(l->spill_fd, buffer, size, slot - l->late_room);
}

int live_late_read(const struct live *l, uint64_t from, unsigned char *to, size_t size)
{
	if (from < l->late_room) {
		memcpy(to, l->late + from, size);
		return 0;
	}
	while (size) {
		ssize_t n = pread(l->spill_fd, to, size, (off_t)(from - l->late_room));
		if (n <= 0 && errno != EINTR)
			return n ? -errno : -EIO;
		n = n < 0 ? 0 : n;
		to += n;
		from += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}
