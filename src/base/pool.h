/*
 * Many small allocations that are released together: for building messages.
 */
#pragma once

#include "base/base.h"

struct pool_block;
struct pool {
	struct pool_block *blocks;
};

/* Zeroed, 16-aligned, the pool's. NULL when memory is short. */
void *pool_take(struct pool *p, size_t size);
void *pool_copy(struct pool *p, const void *data, size_t size);
void pool_free(struct pool *p);
