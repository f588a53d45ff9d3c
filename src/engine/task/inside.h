/*
 * What only the kernel's own memory (kernel.h) tells of a thread. Its registers and answers must be there. Errors: -ENOTSUP and the like where that
 * can't be read; what it would have told is then not known.
 */
#pragma once

#include "engine/task/task.h"

/* The address of its task_struct. */
int inside_task(struct dump *d, const struct thread *th, uint64_t *ret);
/* A member of its task_struct, as kernel_offset names it. */
int inside_thread(struct dump *d, const struct thread *th, const char *member, void *to, size_t size);
/* Follows the pointer at *at + member of that struct. */
int inside_follow(struct dump *d, uint64_t *at, const char *type, const char *member);
