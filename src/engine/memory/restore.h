/* Restore side of an address space: the operations that clear, map, fill and protect it. */
#pragma once

#include "engine/memory/place.h"

/* Finds a place for the arena: free here and in every task. */
int arena_make(struct restore *s);
/* For the root: the coordinator's address space goes, but for the arena and the vdso, which is put beside it. */
int memory_plan_clear(struct restore *s, struct rtask *t);
/* Whether some of its pages are its parent's. */
bool memory_is_shared(const struct rtask *t);
/* For such a one, which is born with all that its parent has: what is not its own goes. `alone`: it has no children before its own memory is
 * there; they look for the vdso beside the arena. */
int memory_plan_inherit(struct restore *s, struct rtask *t, bool alone);
/* Whether an area is the parent's, since fork(2). */
bool memory_is_inherited(const struct rtask *t, const VmaEntry *v);
/* Where the arena and the vdso that is put beside it are. */
struct place_range memory_own_range(const struct restore *s);
/* fill.c: the part of memory_plan that reads the pages. */
int fill_plan(struct restore *s, struct rtask *t);
/* Before the verification begins: which images are left to who reads them into place. */
void fill_expect(struct restore *s);
/* When all memory is there: tells the verification. */
void fill_verify(struct restore *s);
/* Maps, fills and protects. */
int memory_plan(struct restore *s, struct rtask *t);
/* After the children are born: advice and locks, which they must not inherit; the mm's fields. */
int memory_plan_finish(struct restore *s, struct rtask *t);
