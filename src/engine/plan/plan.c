/* See plan.h. */
#include "engine/plan/plan.h"

#include "engine/constants.h"

#include <stdarg.h>

#define AHEAD_MAX (256UL << 10)

/* Its pages at once (Linux 5.14; they are the same without): a fault for each would cost more than what is put there. */
static void make_pages(struct arena *a, size_t used)
{
	size_t more = MIN(ALIGN_UP(MAX(used - a->made, MIN(a->made, AHEAD_MAX)), PAGE_SIZE), a->size - a->made);

	madvise(a->start + a->made, more, MADV_POPULATE_WRITE);
	a->made += more;
}

void *arena_take(struct arena *a, size_t size)
{
	size_t at = ALIGN_UP(a->used, 16);

	if (size > a->size || at > a->size - size)
		return NULL;
	a->used = at + size;
	if (a->used > a->made)
		make_pages(a, a->used);
	return a->start + at;
}

uint64_t arena_place(struct arena *a, const void *data, size_t size)
{
	void *to = arena_take(a, size);

	if (to && size)
		memcpy(to, data, size);
	return (uint64_t)to;
}

void batch_what(struct batch *b, const char *format, ...)
{
	va_list args;
	char *text = NULL;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	va_end(args);
	char **slot = text ? VEC_PUSH(&b->strings) : NULL;
	if (!slot) {
		free(text);
		b->failed = true;
		return;
	}
	*slot = b->what = text;
}

struct agent_op *batch_add(struct batch *b, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5)
{
	static struct agent_op nowhere;
	struct agent_op *op = VEC_PUSH(&b->ops);
	const char **name = VEC_PUSH(&b->names);

	if (!op || !name) {
		b->failed = true;
		return &nowhere;
	}
	*op = (struct agent_op){ .nr = (int32_t)nr, .arg = { a0, a1, a2, a3, a4, a5 } };
	*name = b->what;
	return op;
}

int batch_finish(struct batch *b, struct arena *a, uint64_t status)
{
	size_t size = sizeof(struct agent_batch) + b->ops.count * sizeof(struct agent_op);

	if (b->failed)
		return -ENOMEM;
	b->final = arena_take(a, size);
	if (!b->final)
		return -ENOMEM;
	*b->final = (struct agent_batch){ .count = (uint32_t)b->ops.count, .failed = -1, .status = status };
	memcpy(agent_batch_ops(b->final), b->ops.data, b->ops.count * sizeof(struct agent_op));
	return 0;
}

const char *batch_name(const struct batch *b, size_t index)
{
	return index < b->names.count && b->names.data[index] ? b->names.data[index] : "do an operation";
}

void batch_free(struct batch *b)
{
	for (size_t i = 0; i < b->strings.count; i++)
		free(b->strings.data[i]);
	VEC_FREE(&b->strings);
	VEC_FREE(&b->names);
	VEC_FREE(&b->ops);
}
