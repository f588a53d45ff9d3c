/*
 * The content of shared memory, from its image: large ones by several threads, each of which takes the next block of the image. As with private pages
 * (fill.c, feed.c) who reads a block takes its checksum on the way.
 */
#include "engine/memory/shmem.h"

#include "base/workers.h"

#include <sched.h>
#include <xxhash.h>

#define STEP (256UL << 10) /* what is read at a time stays in a processor's cache */

struct filling_shared {
	struct restore *s;
	const struct shmem_source *from;
	const struct shmem_target *to;
	size_t n_blocks, next;
	uint64_t end; /* of the spans, in the image */
	bool notes;   /* the verification wants to know */
	int failure;
};

struct shared_reader {
	struct image_reader *reader;
	unsigned char *buffer;
	XXH3_state_t *hash;
};

/* What of the image stands at `offset`, to where it belongs. */
static int put(const struct filling_shared *f, const unsigned char *data, uint64_t offset, size_t size)
{
	const struct page_spans *spans = f->from->spans;

	for (size_t i = spans_at(spans, offset); i < spans->count && spans->data[i].offset < offset + size; i++) {
		const struct page_span *x = &spans->data[i];
		uint64_t start = MAX(x->offset, offset), end = MIN(x->offset + x->size, offset + size), at = x->address + (start - x->offset);
		size_t n = (size_t)MIN(end - start, f->to->size - MIN(at, f->to->size));
		if (f->to->mapped)
			memcpy(f->to->mapped + at, data + (start - offset), n);
		else if (pwrite(f->to->fd, data + (start - offset), n, (off_t)at) != (ssize_t)n)
			return errno ? -errno : -EIO;
	}
	return 0;
}

static int fill_block(struct filling_shared *f, struct shared_reader *r, size_t index)
{
	const struct image_raw *pages = f->from->pages;
	uint64_t at = index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, f->end), done = 0;
	XXH128_canonical_t digest;
	int failed = 0;

	XXH3_128bits_reset(r->hash);
	for (size_t n; !failed && (n = spans_next(f->from->spans, &at, end, STEP)); at += n) {
		failed = image_raw_read(pages, r->reader, r->buffer, n, at);
		if (!failed && f->notes)
			XXH3_128bits_update(r->hash, r->buffer, n);
		if (!failed)
			failed = put(f, r->buffer, at, n);
		done += n;
	}
	if (!failed && f->notes && done == MIN(IMAGE_BLOCK, image_raw_size(pages) - index * IMAGE_BLOCK)) {
		XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(r->hash));
		image_verification_note(f->s->verification, image_raw_name(pages), index, digest.digest);
	}
	return failed;
}

static void fill_blocks(void *argument)
{
	struct filling_shared *f = argument;
	struct shared_reader r = { .buffer = malloc(STEP), .hash = XXH3_createState() };
	int failed = r.buffer && r.hash ? image_raw_reader_new(f->from->pages, &r.reader) : -ENOMEM;
	size_t index;

	while (!failed && !__atomic_load_n(&f->failure, __ATOMIC_RELAXED) && (index = __atomic_fetch_add(&f->next, 1, __ATOMIC_RELAXED)) < f->n_blocks)
		failed = fill_block(f, &r, index);
	if (failed)
		__atomic_store_n(&f->failure, failed, __ATOMIC_RELAXED);
	image_reader_free(r.reader);
	XXH3_freeState(r.hash);
	free(r.buffer);
}

static size_t threads_wanted(const struct filling_shared *f)
{
	cpu_set_t set;
	size_t processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;

	return image_is_sequential(f->from->dir) ? 1 : MIN(MIN(processors, WORKERS_MAX), f->n_blocks);
}

int shmem_fill(struct restore *s, const struct shmem_source *from, const struct shmem_target *to)
{
	const uint64_t room = ALIGN_UP(to->size, PAGE_SIZE);
	struct filling_shared f = { .s = s, .from = from, .to = to };

	VEC_FOREACH(from->spans, x) {
		if (x->address > room || x->size > room - x->address || x->offset < f.end)
			return -EBADMSG;
		f.end = x->offset + x->size;
	}
	if (f.end > image_raw_size(from->pages))
		return -EBADMSG;
	f.n_blocks = (size_t)((f.end + IMAGE_BLOCK - 1) / IMAGE_BLOCK);
	f.notes = from->dir == s->dir && image_verification_expect(s->verification, image_raw_name(from->pages));
	size_t threads = threads_wanted(&f);
	struct workers *workers = threads > 1 ? workers_new() : NULL;
	for (size_t i = 0; workers && i < threads; i++)
		workers_submit_large(workers, fill_blocks, &f);
	if (!workers && f.n_blocks)
		fill_blocks(&f);
	workers_free(workers);
	return f.failure;
}
