/* See unchanged.h. */
#include "engine/memory/unchanged.h"

#include "base/workers.h"
#include "engine/memory/increment.h"
#include "engine/memory/parents.h"

#define COMPARE_SIZE (256UL << 10)
#define JOB_SIZE (4UL << 20)
#define LEVELS_MAX 512

struct stored {
	uint64_t address, size, offset;
	const struct image_raw *raw;
};

struct comparison {
	int fd;
	VEC(struct stored) stored;
	VEC(struct image_raw *) raws;
	VEC(struct image_dir *) dirs; /* further up */
	unsigned char *same;
};

struct compare_job {
	struct comparison *c;
	uint64_t start, end;
};

static int by_address(const void *a, const void *b)
{
	const struct stored *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int add_spans(struct comparison *c, const struct page_spans *spans, const struct image_raw *raw)
{
	for (size_t i = 0; i < spans->count; i++) {
		const struct page_span *x = &spans->data[i];
		struct stored *slot = VEC_PUSH(&c->stored);
		if (!slot)
			return -ENOMEM;
		*slot = (struct stored){ x->address, x->size, x->offset, raw };
	}
	return 0;
}

/* What one checkpoint has itself of it, and what it says its parent has. */
static int look_in(struct comparison *c, struct image_dir *dir, const char *name, struct page_spans *wanted, bool first)
{
	struct page_spans here = {}, left = {};
	struct image_raw *raw = NULL, **slot;
	struct pagemap m = {};
	char pages[40];
	int r = pagemap_read(dir, name, &m);

	snprintf(pages, sizeof(pages), "pages-%u.img", m.pages_id);
	if (!r)
		r = spans_common(first ? &m.here : wanted, &m.here, &here);
	if (!r)
		r = spans_common(first ? &m.in_parent : wanted, &m.in_parent, &left);
	if (!r && here.count)
		r = image_raw_open(dir, pages, &raw);
	if (!r && raw && image_raw_size(raw) < m.size)
		r = -EBADMSG;
	if (!r && raw && !(slot = VEC_PUSH(&c->raws)))
		r = -ENOMEM;
	else if (!r && raw)
		*slot = raw;
	if (r)
		image_raw_close(raw);
	else
		r = add_spans(c, &here, raw);
	pagemap_finish(&m);
	VEC_FREE(&here);
	VEC_FREE(wanted);
	*wanted = left;
	return r;
}

static int find_stored(struct comparison *c, struct image_dir *parent, const char *name)
{
	struct page_spans wanted = {};
	struct image_dir *dir = parent, *next;
	int r = look_in(c, dir, name, &wanted, true);

	for (size_t level = 0; !r && wanted.count && level < LEVELS_MAX; level++) {
		r = image_dir_open_parent(dir, &next);
		struct image_dir **slot = r ? NULL : VEC_PUSH(&c->dirs);
		if (!r && !slot) {
			image_dir_free(next);
			r = -ENOMEM;
		}
		if (r)
			break;
		*slot = dir = next;
		r = look_in(c, dir, name, &wanted, false);
	}
	VEC_FREE(&wanted);
	if (c->stored.count)
		qsort(c->stored.data, c->stored.count, sizeof(*c->stored.data), by_address);
	return r == -ENOMEM ? r : 0;
}

static size_t find(const struct comparison *c, uint64_t address)
{
	size_t low = 0, high = c->stored.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (c->stored.data[middle].address + c->stored.data[middle].size <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* At most COMPARE_SIZE. */
static void compare_part(struct comparison *c, const struct stored *x, uint64_t at, size_t size, unsigned char *buffer)
{
	unsigned char *now = buffer, *then = buffer + COMPARE_SIZE;
	ssize_t n = pread(c->fd, now, size, (off_t)at);

	if (n <= 0 || image_raw_read(x->raw, NULL, then, size, x->offset + (at - x->address)))
		return;
	memset(now + n, 0, size - (size_t)n);
	for (size_t i = 0; i < size; i += PAGE_SIZE)
		c->same[(at + i) / PAGE_SIZE] = !memcmp(now + i, then + i, PAGE_SIZE);
}

static void run_job(void *argument)
{
	struct compare_job *job = argument;
	struct comparison *c = job->c;
	_cleanup_free_ unsigned char *buffer = malloc(2 * COMPARE_SIZE);

	for (size_t i = find(c, job->start); buffer && i < c->stored.count && c->stored.data[i].address < job->end; i++) {
		const struct stored *x = &c->stored.data[i];
		uint64_t end = MIN(job->end, x->address + x->size);
		for (uint64_t at = MAX(job->start, x->address); at < end; at += COMPARE_SIZE)
			compare_part(c, x, at, (size_t)MIN(COMPARE_SIZE, end - at), buffer);
	}
	free(job);
}

static void compare_all(struct dump *d, struct comparison *c, uint64_t size)
{
	for (uint64_t at = 0; at < size; at += JOB_SIZE) {
		struct compare_job *job = malloc(sizeof(*job));
		if (!job)
			break;
		*job = (struct compare_job){ c, at, MIN(at + JOB_SIZE, ALIGN_UP(size, PAGE_SIZE)) };
		workers_submit_large(d->workers, run_job, job);
	}
	workers_wait(d->workers);
}

int unchanged_find(struct dump *d, int fd, uint64_t size, const char *name, unsigned char **ret)
{
	struct image_dir *parent = increment_parent(d);
	struct comparison c = { .fd = fd };

	*ret = NULL;
	if (!parent)
		return 0;
	int r = find_stored(&c, parent, name);
	if (!r && c.stored.count) {
		c.same = calloc(ALIGN_UP(size, PAGE_SIZE) / PAGE_SIZE + 1, 1);
		r = c.same ? 0 : -ENOMEM;
	}
	if (!r && c.same)
		compare_all(d, &c, size);
	for (size_t i = 0; i < c.raws.count; i++)
		image_raw_close(c.raws.data[i]);
	for (size_t i = 0; i < c.dirs.count; i++)
		image_dir_free(c.dirs.data[i]);
	VEC_FREE(&c.raws);
	VEC_FREE(&c.dirs);
	VEC_FREE(&c.stored);
	if (r)
		free(c.same);
	else
		*ret = c.same;
	return r;
}
