/*
 * What the engine does. Each fills `e` and returns a negative errno on failure; a failed dump leaves the
 * target running and the directory without a checkpoint, a failed restore leaves no process behind.
 */
#pragma once

#include "base/error.h"
#include "engine/request.h"

int engine_dump(const struct request *request, struct error *e);

/* What is in the way of a dump, a line each. */
struct obstacles {
	struct error *data; /* the caller's, to be freed */
	size_t count, capacity;
};
/* A dump of which nothing is written: the tree is stopped, examined as for a dump, and runs on. What a dump would end at is added to
 * *ret. An error: it could not be examined to the end, and what was found so far is in *ret. */
int engine_check(const struct request *request, struct obstacles *ret, struct error *e);
/* Gives the checkpoint request->images_dir all the pages that it has in parents, so that it needs none. 1: it needed none. It is replaced as a whole,
 * at once. */
int engine_flatten(const struct request *request, struct error *e);
/* Takes out of the parents of a checkpoint what it does not need of them; they can't be restored themselves from then on. */
int engine_dedup(const char *path, struct error *e);
/* `ret_pid`: the restored root. Unless request->detach, it is a child of the caller, to be waited for. */
int engine_restore(const struct request *request, pid_t *ret_pid, struct error *e);
