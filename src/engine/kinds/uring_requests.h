/*
 * Requests of io_uring(7) that are under way: polls, timeouts, and what waits for a file to become readable or writable. They are found in the
 * kernel's own memory (engine/kernel.h) and written down as the entries that submit them again; the target's own go on untouched.
 */
#pragma once

#include "engine/kinds/uring.h"

#include "base/pool.h"

/* What a ring's state comes to, from fdinfo. */
struct uring_counts {
	uint32_t submitted, completed;
};

/* Addresses of the kernel's functions, 0 where they are not told; read when they are needed, once. */
struct uring_symbols {
	bool read;
	uint64_t rw_complete, complete, submit;
};

struct uring_done_list {
	struct io_uring_cqe *data;
	size_t count, capacity;
};

/*
 * Fills e->requests: all that is under way, in an order in which they can be submitted again; and `done`, whose data the caller frees: completions that the program's
 * threads have not brought into the ring yet. Refuses what can't be, by name. -ENOSYS, without a text: the kernel's memory can't be read here. A ring's submissions
 * and completions alone tell how many there are only as long as each completes once; where the kernel counts what it has allocated (Linux 6.16), that must come to the same.
 */
int uring_requests_capture(struct dump *d, struct descriptor *f, const struct uring_counts *counts, struct uring_symbols *symbols, UringEntry *e,
			   struct uring_done_list *done, struct pool *pool);
