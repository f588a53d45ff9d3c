/*
 * The two things that the engine does. Each fills `e` and returns a negative errno on failure; a failed dump leaves the
 * target running and the directory without a checkpoint, a failed restore leaves no process behind.
 */
#pragma once

#include "base/error.h"
#include "engine/request.h"

int engine_dump(const struct request *request, struct error *e);
/* `ret_pid`: the restored root. Unless request->detach, it is a child of the caller, to be waited for. */
int engine_restore(const struct request *request, pid_t *ret_pid, struct error *e);
