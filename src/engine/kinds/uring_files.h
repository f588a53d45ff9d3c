/*
 * Which descriptor a registered file of an io_uring ring is, where fdinfo gives no more than the last part of its name (as Debian 12's Linux 6.1 does): the
 * address of its struct file, compared with those of the process's descriptors (kernel.h).
 */
#pragma once

#include "engine/kinds/kind.h"

struct uring_files;

/* `fds`: those of `table`, and must stay. -ENOTSUP where the kernel can't be asked. */
int uring_files_open(struct descriptor *f, const struct task *table, const struct proc_fds *fds, struct uring_files **ret);
/* The descriptor of the file at a place of the table, or -1. */
int uring_files_find(struct uring_files *u, uint32_t index, int32_t *ret);
void uring_files_close(struct uring_files *u);
