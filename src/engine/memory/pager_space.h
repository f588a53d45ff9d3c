/*
 * What of a process's memory a lazy restore has still to bring, and from where: pieces of addresses that follow what the process does with them (fork, mremap, munmap,
 * madvise), and a bit for each page that is there, or not wanted any more. The pager's only; where memory for that lacks, the pager gives up.
 */
#pragma once

#include "engine/memory/pager.h"

/* A range of addresses whose pages come from one place; pieces are ascending and do not overlap. `page`: the number of its first page, in the
 * space's count of them, which stays when mremap(2) moves it. */
struct piece {
	uint64_t start, end, offset;
	size_t page, source;
};

struct space {
	int uffd;
	pid_t pid;
	VEC(struct piece) pieces;
	struct piece *given; /* as they were at first, by which windows of an order are found; or NULL */
	size_t n_given;
	unsigned char *done; /* a bit a page */
	size_t pages, left, cursor; /* cursor: a piece */
	uint64_t at;		    /* where in that piece */
	uint64_t next, ahead;	    /* where the last touch's window ended, and how much it was */
	bool first;		    /* of those that were given, not a child's */
	bool over;
};

/* Ends the pager, and so the processes. */
_Noreturn void pager_give_up(const char *why);
/* NULL: out of memory. */
struct space *space_new(const struct pager_space *from);
/* A child has what its parent has, and lacks what that lacks. `uffd` is the child's. */
struct space *space_fork(const struct space *parent, int uffd);
/* Nothing of it is wanted any more, and its descriptor is closed. */
void space_end(struct space *s);
bool space_is_done(const struct space *s, size_t page);
void space_set_done(struct space *s, size_t page);
/* The first piece that ends behind the address. */
size_t space_find(const struct space *s, uint64_t address);
/* Its pages are wanted no more. */
void space_drop(struct space *s, uint64_t start, uint64_t end);
void space_move(struct space *s, uint64_t from, uint64_t to, uint64_t size);
/* Where a page is, if it is still where it was. Otherwise 0. */
uint64_t space_address_of(const struct space *s, size_t page);
