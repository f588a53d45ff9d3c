/*
 * The root of a tree that is the first process of a new pid namespace: it must be there before anyone else is in it, the coordinator too, which is to see the
 * ids of the tree as the tree does, and so long before there is a plan. It is made empty-handed, has its descriptor table in common with the coordinator, and waits; with the
 * plan it takes the table as its own, maps the arena, and goes on as any root does.
 */
#pragma once

#include "engine/ns/ns.h"

struct seed;

/* Makes it, with these namespaces more (CLONE_NEW…), in which it is process `pid`. Its id for the caller is told (relay_born). */
int seed_make(struct restore *s, uint64_t flags, pid_t pid);
/* From here on the coordinator is in its pid namespace: who returns is another process than who called. */
int seed_follow(struct restore *s);
/* Lets it begin with `batch`. Gives 0 once nothing that the coordinator does to its descriptors matters to it any more. */
int seed_grow(struct restore *s, const void *batch, char *stack);
void seed_release(struct restore *s);
