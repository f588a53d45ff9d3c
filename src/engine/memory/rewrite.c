/*
 * Checkpoints that are written anew with other pages: one that needs no parent any more (flatten), and parents with nothing but what a later one
 * needs of them (dedup). Nothing is changed in place: the new one is made beside the old one, and both change places by one renameat2(2). So
 * whoever is killed leaves either of them, at worst a folder .fermata-… too much.
 */
#include "base/folder.h"
#include "base/log.h"
#include "base/meter.h"
#include "base/workers.h"
#include "engine/engine.h"
#include "engine/load.h"
#include "engine/memory/parents.h"
#include "engine/watch.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#define COPY_SIZE (256UL << 10)

/* Pages that go to a pages file, one behind the other, each part from some place of another. */
struct part {
	uint64_t address, size, at;
	struct image_dir *dir;
	const struct image_raw *raw;
	uint64_t from;
};

struct pages_job {
	VEC(struct part) parts;
	uint64_t size;
	struct image_raw *own;
	struct page_sources sources;
	struct image_file *file;
	struct meter *meter;
	int result;
};

struct rewriting {
	struct error *e;
	struct restore *s; /* the checkpoint that keeps what it needs, and its parents */
	struct image_dir *from, *to;
	const struct parent *parent; /* the one of them that is rewritten; NULL: the checkpoint itself is */
	struct workers *workers;
	VEC(struct pages_job *) jobs;
	struct meter *meter; /* of pages, or NULL */
	char path[PATH_MAX], made[PATH_MAX]; /* the one that is replaced; the new one, later the old one; empty: there is none */
};

/* ---- pages ---- */

static int fill_block(void *owner, struct image_block *b)
{
	struct pages_job *job = owner;
	uint64_t at = b->index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, job->size);
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	struct image_reader *reader = NULL;
	struct image_dir *of = NULL;
	size_t i = 0;
	int r = buffer ? 0 : -ENOMEM;

	while (i < job->parts.count && job->parts.data[i].at + job->parts.data[i].size <= at)
		i++;
	while (!r && at < end) {
		const struct part *x = &job->parts.data[i];
		uint64_t within = at - x->at;
		size_t size = (size_t)MIN(MIN(COPY_SIZE, x->size - within), end - at);
		if (x->dir != of) {
			image_reader_free(reader);
			reader = NULL;
			r = image_reader_new(of = x->dir, &reader);
		}
		if (!r)
			r = image_raw_read(x->raw, reader, buffer, size, x->from + within);
		if (!r)
			r = image_block_write(b, buffer, size);
		meter_add(job->meter, size);
		at += size;
		i += within + size == x->size;
	}
	image_reader_free(reader);
	return r;
}

static void block_filled(void *owner, int r)
{
	struct pages_job *job = owner;
	int none = 0;

	if (r)
		__atomic_compare_exchange_n(&job->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static const struct image_filler filler = { fill_block, block_filled };

static int by_address(const void *a, const void *b)
{
	const struct part *x = a, *y = b;

	return x->address < y->address ? -1 : x->address > y->address;
}

static int add_parts(struct pages_job *job, struct image_dir *dir, const struct image_raw *raw, const struct page_spans *spans)
{
	for (size_t i = 0; i < spans->count; i++) {
		const struct page_span *x = &spans->data[i];
		struct part *part = VEC_PUSH(&job->parts);
		if (!part)
			return -ENOMEM;
		*part = (struct part){ .address = x->address, .size = x->size, .dir = dir, .raw = raw, .from = x->offset };
	}
	return 0;
}

/* In the order of addresses: what goes to the file, and what stands elsewhere. */
static int write_map(struct rewriting *w, const char *name, uint32_t id, struct pages_job *job, const struct page_spans *in_parent,
		     const struct page_spans *forked)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	struct image_file *map;
	int r = image_create(w->to, name, IMAGE_MAGIC_PAGEMAP, &map);

	if (r)
		return r;
	head.pages_id = id;
	r = image_write_message(map, &head.base);
	for (size_t i = 0, k = 0, f = 0; !r && (i < job->parts.count || k < in_parent->count || f < forked->count);) {
		uint64_t a = i < job->parts.count ? job->parts.data[i].address : UINT64_MAX, b = k < in_parent->count ? in_parent->data[k].address : UINT64_MAX,
			 c = f < forked->count ? forked->data[f].address : UINT64_MAX;
		if (a < b && a < c) {
			struct part *x = &job->parts.data[i++];
			x->at = job->size;
			job->size += x->size;
			r = pagemap_write(map, a, a + x->size, PAGES_HERE);
		} else if (b < c) {
			r = pagemap_write(map, b, b + in_parent->data[k++].size, PAGES_IN_PARENT);
		} else {
			r = pagemap_write(map, c, c + forked->data[f++].size, PAGES_FORKED);
		}
	}
	int closed = image_close(map);
	return r ? r : closed;
}

static int write_pages(struct rewriting *w, const char *name, const struct pagemap *m, struct pages_job *job, const struct page_spans *in_parent,
		       const struct page_spans *forked)
{
	char pages[40];

	if (job->parts.count)
		qsort(job->parts.data, job->parts.count, sizeof(*job->parts.data), by_address);
	int r = write_map(w, name, m->pages_id, job, in_parent, forked);
	snprintf(pages, sizeof(pages), "pages-%u.img", m->pages_id);
	if (!r)
		r = image_create_raw(w->to, pages, &job->file);
	meter_expect(w->meter, job->size);
	return r ? r : image_blocks_fill(job->file, job->size, &filler, job);
}

/* The checkpoint itself: its own pages and those that it has in parents. */
static int flatten_pages(struct rewriting *w, const char *name, const struct pagemap *m, struct pages_job *job)
{
	const struct page_spans none = {};
	int r = parents_find(w->s, name, &m->in_parent, &job->sources);

	if (!r)
		r = add_parts(job, w->from, job->own, &m->here);
	VEC_FOREACH(&job->sources, source)
		if (!r)
			r = add_parts(job, source->parent->dir, source->stored, &source->spans);
	return r ? r : write_pages(w, name, m, job, &none, &m->forked);
}

static size_t level_of(const struct restore *s, const struct parent *parent)
{
	size_t level = 0;

	while (s->parents.data[level] != parent)
		level++;
	return level;
}

/* A parent: what the checkpoint has from it, and what it has by way of it. */
static int thin_pages(struct rewriting *w, const char *name, const struct pagemap *m, struct pages_job *job)
{
	struct page_spans further = {}, joined;
	struct pagemap tip = {};
	const struct page_spans none = {};
	int r = pagemap_read(w->s->dir, name, &tip);

	if (r == -ENOENT) /* a process that has ended since */
		return write_pages(w, name, m, job, &none, &none);
	if (!r)
		r = parents_find(w->s, name, &tip.in_parent, &job->sources);
	/* To those further up the way leads through it. */
	const size_t level = level_of(w->s, w->parent);
	for (size_t i = 0; !r && i < job->sources.count; i++) {
		const size_t other = level_of(w->s, job->sources.data[i].parent);
		if (other == level)
			r = add_parts(job, w->from, job->own, &job->sources.data[i].spans);
		if (other <= level)
			continue;
		joined = (struct page_spans){};
		r = spans_join(&further, &job->sources.data[i].spans, &joined);
		VEC_FREE(&further);
		further = joined;
	}
	if (!r)
		r = write_pages(w, name, m, job, &further, &none);
	VEC_FREE(&further);
	pagemap_finish(&tip);
	return r;
}

static int rewrite_pagemap(struct rewriting *w, const char *name)
{
	struct pages_job *job = calloc(1, sizeof(*job)), **slot = job ? VEC_PUSH(&w->jobs) : NULL;
	struct pagemap m = {};
	char pages[40];

	if (!slot) {
		free(job);
		return -ENOMEM;
	}
	*slot = job;
	job->meter = w->meter;
	int r = pagemap_read(w->from, name, &m);
	snprintf(pages, sizeof(pages), "pages-%u.img", m.pages_id);
	if (!r)
		r = image_raw_open(w->from, pages, &job->own);
	if (!r)
		r = w->parent ? thin_pages(w, name, &m, job) : flatten_pages(w, name, &m, job);
	pagemap_finish(&m);
	return r;
}

/* ---- other files ---- */

static int copy_image(struct rewriting *w, const char *name)
{
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	struct image_file *to;
	struct image_raw *raw;
	int r = image_raw_open(w->from, name, &raw);

	if (r)
		return r;
	r = buffer ? image_create_raw(w->to, name, &to) : -ENOMEM;
	for (uint64_t at = 0, size = image_raw_size(raw), step; !r && at < size; at += step) {
		step = MIN(size - at, COPY_SIZE);
		r = image_raw_read(raw, NULL, buffer, step, at);
		if (!r)
			r = image_write_bytes(to, buffer, step);
	}
	image_raw_close(raw);
	return r ? r : image_close(to);
}

static bool is_image(const char *name)
{
	size_t length = strlen(name);

	return length > 4 && !strcmp(name + length - 4, ".img");
}

static int rewrite_file(void *data, const char *name, uint64_t size)
{
	struct rewriting *w = data;
	int r = 0;

	if (!strncmp(name, "pagemap-", 8) && is_image(name))
		r = rewrite_pagemap(w, name);
	else if (strncmp(name, "pages-", 6) && is_image(name))
		r = copy_image(w, name);
	return r && !w->e->text[0] ? error_errno(w->e, r, "cannot write %s anew", name) : r;
}

/* Logs and the like, which are no part of the checkpoint. */
struct others {
	const char *from, *to;
};

static int link_other(void *data, const char *name, uint64_t size)
{
	const struct others *o = data;
	char from[PATH_MAX], to[PATH_MAX];

	if (is_image(name) || !strcmp(name, IMAGE_MANIFEST) || !strcmp(name, "fermata-order"))
		return 0;
	if (snprintf(from, sizeof(from), "%s/%s", o->from, name) < PATH_MAX && snprintf(to, sizeof(to), "%s/%s", o->to, name) < PATH_MAX &&
	    link(from, to) < 0)
		log_debug("%s is left behind: %s", from, strerror(errno));
	return 0;
}

static void jobs_finish(struct rewriting *w)
{
	for (size_t i = 0; i < w->jobs.count; i++) {
		struct pages_job *job = w->jobs.data[i];
		image_raw_close(job->own);
		page_sources_finish(&job->sources);
		VEC_FREE(&job->parts);
		free(job);
	}
	VEC_FREE(&w->jobs);
}

static int write_all(struct rewriting *w, const struct image_lineage *lineage, const char *link)
{
	int r = image_dir_list(w->from, rewrite_file, w);

	workers_wait(w->workers);
	for (size_t i = 0; i < w->jobs.count; i++) {
		struct pages_job *job = w->jobs.data[i];
		int s = job->result;
		if (job->file && !s)
			s = image_close(job->file);
		if (!r && s)
			r = error_errno(w->e, s, "cannot write pages anew");
	}
	image_dir_set_lineage(w->to, lineage, link);
	if (!r && (r = image_dir_commit(w->to)))
		error_errno(w->e, r, "cannot finish the new checkpoint");
	return r;
}

/* A new one beside it. */
static int prepare(struct rewriting *w, const struct image_lineage *lineage, const char *link)
{
	const char *path = w->path, *name = strrchr(path, '/');

	if (snprintf(w->made, sizeof(w->made), "%.*s/.fermata-XXXXXX", (int)(name - path), path) >= (int)sizeof(w->made) || !mkdtemp(w->made)) {
		w->made[0] = '\0';
		return error_errno(w->e, -errno, "cannot make a directory beside %s", path);
	}
	int r = image_dir_create(w->made, &w->to);
	w->workers = r ? NULL : workers_new();
	if (r || !w->workers)
		r = error_errno(w->e, r ? r : -ENOMEM, "cannot write beside %s", path);
	if (!r) {
		image_dir_set_workers(w->to, w->workers);
		r = write_all(w, lineage, link);
	}
	workers_free(w->workers);
	jobs_finish(w);
	image_dir_free(w->to);
	return r;
}

/* Both change places. */
static int exchange(struct rewriting *w)
{
	struct stat st;

	image_dir_list(w->from, link_other, &(struct others){ w->path, w->made });
	if (stat(w->path, &st) < 0 || chmod(w->made, st.st_mode & 07777) < 0 || chown(w->made, st.st_uid, st.st_gid) < 0 ||
	    renameat2(AT_FDCWD, w->made, AT_FDCWD, w->path, RENAME_EXCHANGE) < 0)
		return error_errno(w->e, -errno, "cannot replace %s", w->path);
	return 0;
}

/* What is left beside it. */
static void clear(struct rewriting *w)
{
	int r = w->made[0] ? folder_remove(w->made) : 0;

	if (r)
		log_warning("%s can't be removed: %s", w->made, strerror(-r));
}

static void finish(struct restore *s)
{
	restore_unload(s);
	image_dir_free(s->dir);
}

static int open_chain(const char *path, struct restore *s, char full[PATH_MAX], struct error *e)
{
	int r = realpath(path, full) ? restore_open(full, NULL, &s->dir, e) : error_errno(e, -errno, "cannot open it");

	if (!r && strcmp(image_packing_name(s->dir), "none") != 0)
		r = error_set(e, -EINVAL, "it is an archive, which has no parent");
	return r ? r : restore_read(s);
}

static int flatten(struct restore *s, const char *full, struct meter *meter, struct error *e)
{
	struct rewriting w = { .e = e, .s = s, .from = s->dir, .meter = meter };
	struct image_lineage lineage;
	int r = image_dir_lineage(s->dir, &lineage);

	if (!r && !s->parents.count && !image_dir_has(s->dir, "parent"))
		return 1;
	if (r)
		return error_errno(e, r, "cannot read its manifest");
	lineage.parent[0] = '\0';
	snprintf(w.path, sizeof(w.path), "%s", full);
	r = prepare(&w, &lineage, NULL);
	if (!r)
		r = exchange(&w);
	clear(&w);
	return r;
}

int engine_flatten(const struct request *request, struct error *e)
{
	const char *path = request->images_dir;
	char full[PATH_MAX];
	struct request plain = { .images_dir = path };
	struct restore s = { .request = &plain, .e = e, .tty = -1 };
	struct meter meter = {};
	struct watch watch;

	watch_begin(&watch, request, STAGE_WRITE, meter_count, &meter);
	int r = open_chain(path, &s, full, e);
	if (!r)
		r = flatten(&s, full, &meter, e);
	watch_end(&watch);
	finish(&s);
	return r < 0 ? error_prefix(e, r, "cannot flatten %s", path) : r;
}

/* `below`: whose parent it is. */
static int thin(struct rewriting *w, const char *below)
{
	struct image_lineage lineage;
	char other[PATH_MAX], link[PATH_MAX], name[PATH_MAX];
	int r = folder_find_referrer(w->path, "parent", below, other);

	if (r == 1)
		return error_set(w->e, -EBUSY, "its parent %s is needed by %s as well", w->path, other);
	if (strcmp(image_packing_name(w->from), "none") != 0)
		return error_set(w->e, -EINVAL, "its parent %s is an archive", w->path);
	r = r ? r : image_dir_lineage(w->from, &lineage);
	if (r)
		return error_errno(w->e, r, "cannot read %s", w->path);
	lineage.dropped = true;
	snprintf(name, sizeof(name), "%.*s/parent", PATH_MAX - 10, w->path);
	ssize_t n = readlink(name, link, sizeof(link) - 1);
	link[n > 0 ? n : 0] = '\0';
	return prepare(w, &lineage, n > 0 ? link : NULL);
}

/* All are written before the first is replaced: each is found by way of the others. */
static int thin_all(struct restore *s, const char *full, struct error *e)
{
	const size_t count = s->parents.count;
	_cleanup_free_ struct rewriting *list = calloc(count + 1, sizeof(*list));
	char below[PATH_MAX], name[PATH_MAX];
	int r = list ? 0 : error_set(e, -ENOMEM, "out of memory");

	snprintf(below, sizeof(below), "%s", full);
	for (size_t i = 0; !r && i < count; i++) {
		struct rewriting *w = &list[i];
		*w = (struct rewriting){ .e = e, .s = s, .from = s->parents.data[i]->dir, .parent = s->parents.data[i] };
		snprintf(name, sizeof(name), "%.*s/parent", PATH_MAX - 10, below);
		r = realpath(name, w->path) ? thin(w, below) : error_errno(e, -errno, "cannot find the parent of %s", below);
		memcpy(below, w->path, sizeof(below));
	}
	for (size_t i = 0; !r && i < count; i++)
		r = exchange(&list[i]);
	for (size_t i = 0; list && i < count; i++)
		clear(&list[i]);
	return r;
}

int engine_dedup(const char *path, struct error *e)
{
	char full[PATH_MAX];
	struct request request = { .images_dir = path };
	struct restore s = { .request = &request, .e = e, .tty = -1 };
	int r = open_chain(path, &s, full, e);

	if (!r)
		r = thin_all(&s, full, e);
	finish(&s);
	return r ? error_prefix(e, r, "cannot take pages out of the parents of %s", path) : 0;
}
