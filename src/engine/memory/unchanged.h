/*
 * Shared memory that is as the parent checkpoint has it. What was written cannot be watched: a process that had it and has ended since leaves no trace.
 * So the pages themselves are compared with those in the parent, or in its own parents, which takes less time than to write them.
 */
#pragma once

#include "engine/dump.h"

/* Of the file `fd`, whose pagemap image has this name: for each page whether the parent has the same, to be freed. NULL: of none. Errors of reading
 * what the parent has are none: then it does not have it. */
int unchanged_find(struct dump *d, int fd, uint64_t size, const char *name, unsigned char **ret);
