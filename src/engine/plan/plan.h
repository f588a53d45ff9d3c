/*
 * Building batches for the agent: operations, their data in an arena that coordinator and tasks share at the same
 * address, and for each operation what it is for, so that a failure can be named.
 */
#pragma once

#include "base/base.h"
#include "engine/agent/batch.h"

#include <asm/unistd.h>

/* The shared range: a bump allocator, nothing is given back. Its pages cost only what is used. */
struct arena {
	char *start;
	size_t size, used, made; /* made: whose pages are there */
	int fd; /* what it is a mapping of, where a root that was there before it is to have it too (engine/ns/seed.h) */
};

/* Zeroed, 16-aligned. NULL when it is full. */
void *arena_take(struct arena *a, size_t size);
/* Puts data into the arena; gives its address, the same in the tasks; 0 when the arena is full. */
uint64_t arena_place(struct arena *a, const void *data, size_t size);

struct batch {
	VEC(struct agent_op) ops;
	VEC(const char *) names; /* one an operation; equal neighbours share one string */
	char *what;
	struct agent_batch *final; /* in the arena, once finished */
	bool failed;		   /* memory was short; told by batch_finish */
	VEC(char *) strings;
};

/* What the operations that follow are for: "map memory at 7f0000000000". */
void batch_what(struct batch *b, const char *format, ...) _printf_(2, 3);
/* Adds an operation; the pointer is good until the next one is added. Never NULL. */
struct agent_op *batch_add(struct batch *b, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5);
#define BATCH_ADD_(b, nr, a0, a1, a2, a3, a4, a5, ...) \
	batch_add(b, nr, (uint64_t)(a0), (uint64_t)(a1), (uint64_t)(a2), (uint64_t)(a3), (uint64_t)(a4), (uint64_t)(a5))
/* With up to six arguments, the rest zero. */
#define OP(b, nr, ...) BATCH_ADD_(b, nr, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define OP_MAY_FAIL(b, nr, ...) (OP(b, nr, ##__VA_ARGS__)->flags |= AGENT_OP_MAY_FAIL)

/* Copies it into the arena, to `final`. -ENOMEM. A batch must be finished before the one that starts it is. */
int batch_finish(struct batch *b, struct arena *a, uint64_t status);
const char *batch_name(const struct batch *b, size_t index);
void batch_free(struct batch *b);
