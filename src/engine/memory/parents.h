/*
 * Pages that a checkpoint does not have itself: its pagemap says `in_parent`, and the checkpoint that its link `parent` leads to has them, or
 * in turn has them in its own parent. All is looked up before anything is made; a page that no parent has is damage.
 */
#pragma once

#include "engine/restore.h"

/* Whether an entry's pages stand with the parent process (`forked`), in a parent checkpoint, or in the pages file that goes with the pagemap. */
enum pages_place { PAGES_HERE, PAGES_FORKED, PAGES_IN_PARENT };
enum pages_place pages_place(const PagemapEntry *p);

/* Pages in the order of their addresses, and where in a pages file they are. */
struct page_span {
	uint64_t address, size, offset;
};

struct page_spans {
	struct page_span *data;
	size_t count, capacity;
};

/* The pages file of one parent that something was found in. */
struct page_source {
	struct parent *parent;
	struct image_raw *stored;
	struct page_spans spans;
	int fd; /* memory/fill.c, which leaves -1 where it is packed; */
	uint64_t offset; /* where the file begins there */
};

/* One checkpoint further up. */
struct parent {
	struct image_dir *dir;
	struct image_verification *verification;
};

/* A pagemap image: the id of its pages file; what it has there; what it says its parent has (without offsets). Entries must be ascending. */
struct pagemap {
	uint32_t pages_id;
	struct page_spans here, in_parent, forked;
	uint64_t size; /* that the pages file must have */
};
int pagemap_add(struct pagemap *m, const PagemapEntry *p);
/* The entries for [start, end). */
int pagemap_write(struct image_file *map, uint64_t start, uint64_t end, enum pages_place place);
int pagemap_read(struct image_dir *dir, const char *name, struct pagemap *m);
void pagemap_finish(struct pagemap *m);
/* Both lists as one, without offsets; they have nothing in common. */
int spans_join(const struct page_spans *a, const struct page_spans *b, struct page_spans *ret);
/* The parts of one list that the other has as well, with the offsets of the second. */
int spans_common(const struct page_spans *a, const struct page_spans *b, struct page_spans *ret);

/* Where offsets ascend: the first span that ends behind a place of the pages file. */
size_t spans_at(const struct page_spans *list, uint64_t offset);
/* The next bytes of the pages file from *at on that are of a span, as many as follow each other, up to `most` and before `end`; 0: there are none. */
size_t spans_next(const struct page_spans *list, uint64_t *at, uint64_t end, size_t most);

/* Finds what `wanted`, of the pagemap image `name` of the checkpoint itself, has in parents. With the text set. */
int parents_find(struct restore *s, const char *name, const struct page_spans *wanted, struct page_sources *ret);
void page_sources_finish(struct page_sources *sources);
/* Where that waits: the parents are now compared with their manifests. */
void parents_verify(struct restore *s);
/* Waits until all parents are compared with their manifests; gives `r`, or the damage. */
int parents_verified(struct restore *s, int r);
/* Nobody wants to know. */
void parents_cancel(struct restore *s);
void parents_release(struct restore *s);
