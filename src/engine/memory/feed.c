/*
 * The pages of address spaces whose image is packed: a task can't unpack them. It maps its memory, says that it has, and waits; threads
 * of the coordinator unpack block by block and write what comes out to where it belongs (process_vm_writev(2)). The checksum of each
 * block is taken on the way, so that the verification need not unpack it again.
 */
#include "engine/memory/feed.h"

#include "engine/foreign.h"
#include "engine/memory/lazy.h"
#include "engine/memory/parents.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <xxhash.h>

#define STEP (256UL << 10) /* what is unpacked at a time stays in a processor's cache */
#define SEGMENTS 64
#define THREADS_MAX 16

struct feed {
	struct rtask *t;
	struct image_dir *dir;
	struct image_raw *stored;
	struct page_spans runs; /* in the order of the image, in which there may be more */
	uint64_t size, wanted;	/* of the image up to the last of them; of the runs */
	size_t n_blocks, next, left;
	bool notes; /* the verification wants to know */
	uint32_t *ready, *done; /* in the arena */
};

struct feeder {
	struct restore *s;
	VEC(struct feed *) feeds;
	size_t n_threads, left; /* feeds that are not done */
	pthread_t threads[THREADS_MAX];
	pthread_mutex_t lock;
	bool over, failed;
	struct error why;
};

static void wake(uint32_t *word)
{
	syscall(__NR_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* ---- plan ---- */

static struct feeder *feeder_of(struct restore *s)
{
	if (!s->feeder && (s->feeder = calloc(1, sizeof(*s->feeder)))) {
		s->feeder->s = s;
		pthread_mutex_init(&s->feeder->lock, NULL);
	}
	return s->feeder;
}

/* Those that do not come later, when they are touched. */
static int add_runs(const struct rtask *t, const struct page_span *span, struct feed *f, size_t *vma)
{
	const uint64_t end = span->address + span->size;

	for (uint64_t at = span->address, next; at < end; at = next) {
		bool later;
		next = lazy_stretch(t, at, end, vma, &later);
		struct page_span *run = later ? NULL : VEC_PUSH(&f->runs);
		if (!later && !run)
			return -ENOMEM;
		if (later)
			continue;
		*run = (struct page_span){ at, next - at, span->offset + (at - span->address) };
		f->size = run->offset + run->size;
		f->wanted += run->size;
	}
	return 0;
}

static int list_runs(struct restore *s, struct rtask *t, struct feed *f)
{
	size_t vma = 0;
	struct pagemap m = {};
	int r = 0;

	for (size_t i = 0; i < t->pages.count; i++)
		if (pages_are_passed_over(t->pages.data[i]))
			return error_set(s->e, -ENOTSUP, "the archive has images of CRIU, or such as it can read; unpack it, and restore from the directory");
	for (size_t i = 0; !r && i < t->pages.count; i++)
		r = pagemap_add(&m, t->pages.data[i]);
	for (size_t i = 0; !r && i < m.here.count; i++)
		r = add_runs(t, &m.here.data[i], f, &vma);
	const uint64_t size = m.size;
	pagemap_finish(&m);
	if (r)
		return error_set(s->e, r, "out of memory");
	if (size > image_raw_size(t->stored))
		return error_set(s->e, -EBADMSG, "the pages of process %d: the image has too few", t->pid);
	return 0;
}

static struct feed *feed_new(struct restore *s, struct rtask *t, struct image_dir *dir, struct image_raw *stored)
{
	struct feeder *all = feeder_of(s);
	struct feed **slot = all ? VEC_PUSH(&all->feeds) : NULL;
	struct feed *f = slot ? calloc(1, sizeof(*f)) : NULL;

	if (slot)
		*slot = f;
	if (slot && !f)
		all->feeds.count--;
	if (f)
		*f = (struct feed){ .t = t, .dir = dir, .stored = stored };
	return f;
}

static int plan_feed(struct restore *s, struct feed *f)
{
	struct batch *b = &f->t->threads.data[0].batch;

	f->n_blocks = f->left = (size_t)((f->size + IMAGE_BLOCK - 1) / IMAGE_BLOCK);
	f->ready = arena_take(&s->arena, sizeof(*f->ready));
	f->done = arena_take(&s->arena, sizeof(*f->done));
	if (!f->ready || !f->done)
		return error_set(s->e, -ENOMEM, "out of memory");
	batch_what(b, "wait for the memory of process %d", f->t->pid);
	OP(b, AGENT_OP_STORE, (uint64_t)f->ready, 1);
	OP(b, AGENT_OP_ARRIVE, (uint64_t)&s->words->feed, 1);
	OP(b, AGENT_OP_AWAIT, (uint64_t)f->done, 1);
	s->pages_total += f->wanted;
	return 0;
}

int feed_plan(struct restore *s, struct rtask *t)
{
	struct feed *f = feed_new(s, t, s->dir, t->stored);
	int r = f ? list_runs(s, t, f) : error_set(s->e, -ENOMEM, "out of memory");

	return r || !f->size ? r : plan_feed(s, f);
}

int feed_plan_source(struct restore *s, struct rtask *t, const struct page_source *source)
{
	struct feed *f = feed_new(s, t, source->parent->dir, source->stored);

	int r = f ? 0 : -ENOMEM;

	for (size_t i = 0, vma = 0; !r && i < source->spans.count; i++)
		r = add_runs(t, &source->spans.data[i], f, &vma);
	if (r)
		return error_set(s->e, r, "out of memory");
	return f->size ? plan_feed(s, f) : 0;
}

/* ---- work ---- */

static void note_failure(struct feeder *all, const struct error *why)
{
	pthread_mutex_lock(&all->lock);
	if (!all->failed)
		all->why = *why;
	__atomic_store_n(&all->failed, true, __ATOMIC_SEQ_CST);
	all->over = true;
	pthread_mutex_unlock(&all->lock);
	__atomic_add_fetch(&all->s->words->feed, 1, __ATOMIC_SEQ_CST);
	wake(&all->s->words->feed);
	__atomic_add_fetch(&all->s->status->change, 1, __ATOMIC_SEQ_CST);
	wake(&all->s->status->change);
}

static int write_parts(struct feed *f, struct iovec *local, struct iovec *remote, size_t count, uint64_t total, struct error *e)
{
	for (size_t k = 0; total;) {
		ssize_t n = process_vm_writev(f->t->pid, local + k, count - k, remote + k, count - k, 0);
		if (n <= 0)
			return error_errno(e, n ? -errno : -EIO, "cannot fill the memory of process %d at %lx", f->t->pid,
					   (unsigned long)remote[k].iov_base);
		/* Cut short at a place that failed: the next call says why. */
		total -= (uint64_t)n;
		while (n) {
			size_t part = MIN((size_t)n, remote[k].iov_len);
			remote[k] = (struct iovec){ (char *)remote[k].iov_base + part, remote[k].iov_len - part };
			local[k] = (struct iovec){ (char *)local[k].iov_base + part, local[k].iov_len - part };
			k += remote[k].iov_len == 0;
			n -= (ssize_t)part;
		}
	}
	return 0;
}

/* What of [offset, offset + size) of the image is wanted, which is at `from`; *ret_done: how much that was. */
static int write_memory(struct feed *f, unsigned char *from, uint64_t offset, size_t size, uint64_t *ret_done, struct error *e)
{
	struct iovec remote[SEGMENTS], local[SEGMENTS];
	const uint64_t end = offset + size;
	size_t i = spans_at(&f->runs, offset), count;

	*ret_done = 0;
	while (i < f->runs.count && f->runs.data[i].offset < end) {
		uint64_t total = 0;
		for (count = 0; count < SEGMENTS && i < f->runs.count && f->runs.data[i].offset < end; i++) {
			const struct page_span *run = &f->runs.data[i];
			uint64_t start = MAX(run->offset, offset), stop = MIN(run->offset + run->size, end);
			remote[count] = (struct iovec){ (void *)(run->address + (start - run->offset)), stop - start };
			local[count++] = (struct iovec){ from + (start - offset), stop - start };
			total += stop - start;
		}
		int r = write_parts(f, local, remote, count, total, e);
		if (r)
			return r;
		*ret_done += total;
	}
	return 0;
}

/* Whether anything of a block is wanted: otherwise it need not be unpacked. */
static bool is_wanted(const struct feed *f, uint64_t at, uint64_t end)
{
	size_t i = spans_at(&f->runs, at);

	return f->notes || (i < f->runs.count && f->runs.data[i].offset < end);
}

static int feed_block(struct feeder *all, struct feed *f, size_t index, struct image_reader *reader, unsigned char *buffer, XXH3_state_t *hash,
		      struct error *e)
{
	uint64_t at = index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, f->size), done;
	bool whole = end == MIN(at + IMAGE_BLOCK, image_raw_size(f->stored));
	XXH128_canonical_t digest;
	int r = 0;

	if (!is_wanted(f, at, end))
		return 0;
	XXH3_128bits_reset(hash);
	while (!r && at < end && !__atomic_load_n(&all->failed, __ATOMIC_RELAXED)) {
		size_t n = f->notes ? (size_t)MIN(STEP, end - at) : spans_next(&f->runs, &at, end, STEP);
		if (!n)
			break;
		r = image_raw_read(f->stored, reader, buffer, n, at);
		if (r) {
			const char *damage = image_dir_damage(f->dir);
			return error_set(e, r, "the pages of process %d can't be unpacked: %s is damaged", f->t->pid, damage ? damage : "the checkpoint");
		}
		if (f->notes)
			XXH3_128bits_update(hash, buffer, n);
		r = write_memory(f, buffer, at, n, &done, e);
		at += n;
		__atomic_add_fetch(&all->s->pages_done, done, __ATOMIC_RELAXED);
	}
	if (!r && f->notes && whole && at == end) {
		XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(hash));
		image_verification_note(all->s->verification, image_raw_name(f->stored), index, digest.digest);
	}
	return r;
}

/* Of the tasks that wait: the one whose pages come first. */
static struct feed *take_block(struct feeder *all, size_t *ret_index)
{
	for (size_t i = 0; i < all->feeds.count && !all->over; i++) {
		struct feed *f = all->feeds.data[i];
		if (f->next < f->n_blocks && __atomic_load_n(f->ready, __ATOMIC_SEQ_CST)) {
			*ret_index = f->next++;
			return f;
		}
	}
	return NULL;
}

static void count_block(struct feeder *all, struct feed *f)
{
	pthread_mutex_lock(&all->lock);
	bool done = --f->left == 0;
	bool last = done && --all->left == 0;
	pthread_mutex_unlock(&all->lock);
	if (done) {
		__atomic_store_n(f->done, 1, __ATOMIC_SEQ_CST);
		wake(f->done);
	}
	if (last) {
		__atomic_add_fetch(&all->s->words->feed, 1, __ATOMIC_SEQ_CST);
		wake(&all->s->words->feed);
	}
}

static void *work(void *argument)
{
	struct feeder *all = argument;
	struct image_reader *reader = NULL;
	struct image_dir *of = NULL;
	unsigned char *buffer = malloc(STEP);
	XXH3_state_t *hash = XXH3_createState();
	struct error why = {};
	int r = buffer && hash ? 0 : -ENOMEM;

	if (r)
		error_set(&why, r, "out of memory");
	while (!r) {
		uint32_t change = __atomic_load_n(&all->s->words->feed, __ATOMIC_SEQ_CST);
		size_t index;
		pthread_mutex_lock(&all->lock);
		bool over = all->over || !all->left;
		struct feed *f = over ? NULL : take_block(all, &index);
		pthread_mutex_unlock(&all->lock);
		if (over)
			break;
		if (!f) {
			syscall(__NR_futex, &all->s->words->feed, FUTEX_WAIT, change, NULL, NULL, 0);
			continue;
		}
		if (f->dir != of) {
			image_reader_free(TAKE_PTR(reader));
			r = image_reader_new(f->dir, &reader);
			of = f->dir;
		}
		r = r ? error_set(&why, r, "out of memory") : feed_block(all, f, index, reader, buffer, hash, &why);
		if (!r)
			count_block(all, f);
	}
	if (r)
		note_failure(all, &why);
	image_reader_free(reader);
	XXH3_freeState(hash);
	free(buffer);
	return NULL;
}

static size_t threads_wanted(const struct restore *s, size_t blocks)
{
	cpu_set_t set;
	size_t processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;
	bool sequential = image_is_sequential(s->dir);

	for (size_t i = 0; i < s->parents.count; i++)
		sequential |= image_is_sequential(s->parents.data[i]->dir);
	return sequential ? 1 : MIN(MIN(processors, THREADS_MAX), blocks);
}

int feed_start(struct restore *s)
{
	struct feeder *all = s->feeder;
	sigset_t every, before;
	size_t blocks = 0;

	if (!all)
		return 0;
	for (size_t i = 0; i < all->feeds.count; i++) {
		struct feed *f = all->feeds.data[i];
		f->notes = f->dir == s->dir && !f->t->lazy && image_verification_wants(s->verification, image_raw_name(f->stored));
		all->left += f->n_blocks > 0;
		blocks += f->n_blocks;
	}
	sigfillset(&every);
	pthread_sigmask(SIG_SETMASK, &every, &before);
	for (size_t wanted = threads_wanted(s, blocks); all->n_threads < wanted; all->n_threads++)
		if (pthread_create(&all->threads[all->n_threads], NULL, work, all))
			break;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return blocks && !all->n_threads ? error_set(s->e, -EAGAIN, "no thread can be made") : 0;
}

int feed_failure(struct restore *s)
{
	struct feeder *all = s->feeder;

	if (!all || !__atomic_load_n(&all->failed, __ATOMIC_SEQ_CST))
		return 0;
	pthread_mutex_lock(&all->lock);
	*s->e = all->why;
	pthread_mutex_unlock(&all->lock);
	return s->e->code;
}

void feed_stop(struct restore *s)
{
	struct feeder *all = s->feeder;

	if (!all)
		return;
	pthread_mutex_lock(&all->lock);
	all->over = true;
	pthread_mutex_unlock(&all->lock);
	if (all->n_threads) {
		__atomic_add_fetch(&s->words->feed, 1, __ATOMIC_SEQ_CST);
		wake(&s->words->feed);
	}
	while (all->n_threads)
		pthread_join(all->threads[--all->n_threads], NULL);
	for (size_t i = 0; i < all->feeds.count; i++) {
		VEC_FREE(&all->feeds.data[i]->runs);
		free(all->feeds.data[i]);
	}
	VEC_FREE(&all->feeds);
	pthread_mutex_destroy(&all->lock);
	free(all);
	s->feeder = NULL;
}
