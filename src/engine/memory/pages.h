/* What pages.c has for others that save pages. */
#pragma once

#include "engine/dump.h"
#include "engine/memory/parents.h"

struct task;

/* A run of pages of a process. `several`: another process has them too. */
struct segment {
	uint64_t from;
	size_t size;
	bool several;
};

/* Reads them, one behind the other, from a process that stands still. */
int pages_read(struct dump *d, struct task *t, unsigned char *to, const struct segment *segments, size_t count);
/* The entries of a pagemap for [start, end). */
int pages_write_entries(struct dump *d, struct task *t, struct image_file *map, uint64_t start, uint64_t end, enum pages_place place);
/* pagemap-PID.img with its head, and the pages file that it names. */
int pages_create(struct dump *d, struct task *t, struct image_file **ret_map, struct image_file **ret_pages);
