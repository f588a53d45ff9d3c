/*
 * Where the pages of a running process stand in the file that they were copied to: extents of addresses, each with its place. A page keeps its
 * place when it is copied again; one that is new gets a place at the end. Pure.
 */
#pragma once

#include "base/base.h"

/* `shared`: the parent has the very same pages, none are stored; with `previous` it is the parent checkpoint that has them. `several`: another
 * process has them too. */
struct extent {
	uint64_t start, end, slot;
	bool shared, several, previous;
};

struct extents {
	struct extent *data; /* ascending, none overlaps another */
	size_t count, capacity;
};

struct slots {
	struct extents known;
	uint64_t size; /* of the file */
};

/* Gives places to the pages of `runs` (ascending; slot is not looked at). What is to be copied, and to where, is added to *copies, unless that is NULL; a run that is
 * `shared` gets no place and is not copied. A page that was shared and is in a run that is not gets a place of its own. */
int slots_place(struct slots *s, const struct extents *runs, struct extents *copies);
/* The first extent that ends after `address`. */
size_t extents_find(const struct extents *e, uint64_t address);
/* Appends; joins it to the last one where both are one. */
int extents_add(struct extents *e, struct extent x);
/* The addresses of two lists as one, without places. */
int extents_join(struct extents *to, const struct extents *more);
