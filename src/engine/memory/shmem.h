/*
 * Memory that tasks share and that has no name: shared anonymous mappings and System V segments. Each is saved once, in
 * pagemap-shmem-ID.img, read and written through a descriptor of the kernel's own file behind it.
 */
#pragma once

#include "engine/dump.h"
#include "engine/memory/parents.h"
#include "proc/proc.h"

/* The id of the segment behind an area; it is saved by shmem_finish. */
int shmem_capture_vma(struct dump *d, struct task *t, const struct proc_vma *vma, uint64_t *ret_id);
/* Saves the contents of each segment that was seen. */
int shmem_finish(struct dump *d, bool success);
/* Writes the data of a file, without its holes, as pages: pagemap NAME and a pages file of its own. For memfds too. */
int shmem_write_pages(struct dump *d, int fd, uint64_t size, const char *name);
/* Until all of those are written: gives their first failure. In any case, also after one. */
int shmem_pages_finish(struct dump *d);

/* A descriptor of a segment, made and filled when it is first asked for; the restore's. `size` bytes at least. */
int shmem_fd(struct restore *s, uint64_t id);
/* Fills a file from pagemap NAME. -ENOENT: it has no image, nothing to fill. */
int shmem_read_pages(struct restore *s, int fd, const char *name);
void shmem_release(struct restore *s);

/* shmem_fill.c: pages of an image, of the checkpoint `dir`. Spans are ascending in the image too. */
struct shmem_source {
	struct image_dir *dir;
	const struct image_raw *pages;
	const struct page_spans *spans;
};
struct shmem_target {
	int fd;
	char *mapped; /* the file, which write(2) does not work on; or NULL */
	uint64_t size;
};
/* 0, or a negative errno without a text. -EBADMSG: too few pages, or no room for them. */
int shmem_fill(struct restore *s, const struct shmem_source *from, const struct shmem_target *to);
