/*
 * Going through an area that may be terabytes of nothing, in pieces: small ones where there is much in it, since the kernel holds the address space
 * while it is at one; and twice as large as the last where that took it no time.
 */
#pragma once

#include "base/base.h"

#include <time.h>

#define STRIDE_LARGEST (1UL << 40)
#define STRIDE_SHORT 50000 /* ns, of a call */

struct stride {
	uint64_t least, size; /* bytes; `size` of the next piece, 0 before the first */
	struct timespec since;
};

/* The size of the next piece, which the caller asks the kernel about next. */
static inline uint64_t stride_begin(struct stride *s)
{
	s->size = MAX(s->size, s->least);
	clock_gettime(CLOCK_MONOTONIC, &s->since);
	return s->size;
}

static inline void stride_end(struct stride *s)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	const int64_t took = (now.tv_sec - s->since.tv_sec) * 1000000000L + (now.tv_nsec - s->since.tv_nsec);
	s->size = took < STRIDE_SHORT ? MIN(2 * s->size, STRIDE_LARGEST) : s->least;
}
