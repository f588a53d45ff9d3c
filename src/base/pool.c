/* See pool.h. */
#include "base/pool.h"

#define BLOCK_SIZE (16UL << 10)

struct pool_block {
	struct pool_block *next;
	size_t size, used;
	_Alignas(16) char data[];
};

void *pool_take(struct pool *p, size_t size)
{
	struct pool_block *b = p->blocks;

	size = ALIGN_UP(MAX(size, 1UL), 16);
	if (!b || b->size - b->used < size) {
		size_t room = MAX(size, BLOCK_SIZE);
		b = calloc(1, sizeof(*b) + room);
		if (!b)
			return NULL;
		b->size = room;
		b->next = p->blocks;
		p->blocks = b;
	}
	void *at = b->data + b->used;
	b->used += size;
	return at;
}

void *pool_copy(struct pool *p, const void *data, size_t size)
{
	void *to = pool_take(p, size);

	if (to && size)
		memcpy(to, data, size);
	return to;
}

void pool_free(struct pool *p)
{
	while (p->blocks) {
		struct pool_block *next = p->blocks->next;
		free(p->blocks);
		p->blocks = next;
	}
}
