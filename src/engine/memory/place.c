/* See place.h. */
#include "engine/memory/place.h"

#include <sys/mman.h>

#define TASK_START 0x1000ULL
#define TASK_END 0x7ffffffff000ULL

/* What is not taken, but for the place: in `b`, mapped (to nothing), or unmapped again. */
static void plan_rest(struct batch *b, const VmaEntry *v, const struct place_range *taken, size_t count, bool map)
{
	uint64_t at = TASK_START;

	for (size_t i = 0; i <= count; i++) {
		uint64_t end = i < count ? taken[i].start : TASK_END;
		/* Before the place, and behind it. */
		uint64_t parts[2][2] = { { at, MIN(end, v->start) }, { MAX(at, v->end), end } };
		for (int k = 0; k < 2; k++) {
			if (parts[k][0] >= parts[k][1])
				continue;
			if (map)
				OP(b, __NR_mmap, parts[k][0], parts[k][1] - parts[k][0], PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
			else
				OP(b, __NR_munmap, parts[k][0], parts[k][1] - parts[k][0]);
		}
		at = i < count ? MAX(at, taken[i].end) : at;
	}
}

void place_plan(struct rtask *t, const VmaEntry *v, int fd, const struct place_range *taken, size_t count)
{
	struct batch *b = &t->threads.data[0].batch;

	batch_what(b, "keep everything but the memory at %lx of process %d free of a ring", (unsigned long)v->start, t->pid);
	plan_rest(b, v, taken, count, true);
	batch_what(b, "map the ring at %lx of process %d", (unsigned long)v->start, t->pid);
	struct agent_op *op = OP(b, __NR_mmap, 0, v->end - v->start, v->prot, MAP_SHARED, fd, v->pgoff);
	op->flags |= AGENT_OP_EXPECT;
	op->expect = (int64_t)v->start;
	plan_rest(b, v, taken, count, false);
}
