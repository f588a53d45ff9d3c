/*
 * Descriptions that only a task can make for itself: the first that holds one makes it, `late` in its batch, the others fetch the same one from it
 * with pidfd_getfd(2).
 */
#pragma once

#include "engine/kinds/kind.h"

/* A kind's `late`. `make` adds the operations that make it and gives the one whose result is the descriptor. What to say of a failure is set. */
int in_task_late(struct restore *s, struct file *f, struct rtask *t, int fd, uint64_t (*make)(struct restore *s, struct file *f, struct rtask *t));
/* A description that a task has made, or, where it is only under way in a socket, would have: a descriptor, for the caller. All tasks are parked. */
int in_task_fetch(struct restore *s, struct file *f, int *ret_fd);
/* The index of an operation, as later ones refer to it. */
uint64_t in_task_index(const struct batch *b, const struct agent_op *op);
