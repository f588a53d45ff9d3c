/* How far work is, for whoever looks at it from another thread: bytes that are done, and that there are as far as is known. */
#pragma once

#include "base/base.h"

struct meter {
	uint64_t done, total;
};

/* All take NULL: nobody looks. */
static inline void meter_expect(struct meter *t, uint64_t bytes)
{
	if (t)
		__atomic_add_fetch(&t->total, bytes, __ATOMIC_RELAXED);
}

static inline void meter_add(struct meter *t, uint64_t bytes)
{
	if (t)
		__atomic_add_fetch(&t->done, bytes, __ATOMIC_RELAXED);
}

/* As struct watch wants it; `data`: the meter. */
static inline void meter_count(void *data, uint64_t *ret_done, uint64_t *ret_total)
{
	const struct meter *t = data;

	*ret_done = __atomic_load_n(&t->done, __ATOMIC_RELAXED);
	*ret_total = __atomic_load_n(&t->total, __ATOMIC_RELAXED);
}
