/* The plan as a whole: one batch a thread, in the order in which a task rebuilds itself. */
#pragma once

#include "engine/restore.h"

/* Builds and finishes every batch; that of the root starts all. */
int spawn_plan(struct restore *s);
/* The batch at an address of the arena, for naming a failure. */
struct batch *spawn_find_batch(struct restore *s, const struct agent_batch *final);
void spawn_release(struct restore *s);
