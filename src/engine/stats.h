/* stats-dump and stats-restore, which criu leaves beside its log for those who call it: figures of the last run. */
#pragma once

#include "base/error.h"
#include "engine/request.h"

/* Into the folder `dir`, over an earlier one. */
int stats_write(const char *dir, bool restore, const struct profile *p, struct error *e);
