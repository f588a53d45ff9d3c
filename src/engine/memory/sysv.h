/*
 * System V shared memory (shmget(2)): segments that tasks have attached, and all of an IPC namespace of the tree's own. Each is saved in ipcns-shm-N.img (N: of the namespace, 0 that
 * of the host) with its content in
 * pagemap-shmem-ID.img.
 *
 * On restore a segment that is still there, and that nobody is attached to, gets its content back; one that has gone is made again
 * under its id (CONFIG_CHECKPOINT_RESTORE: /proc/sys/kernel/shm_next_id).
 */
#pragma once

#include "engine/dump.h"
#include "engine/restore.h"
#include "proc/proc.h"

/* The number of its pages in the images: out of the way of other shared memory. */
#define SYSV_SHMID(id) (2000000000U + (uint32_t)(id))

/* Whether an area is of such a segment: the kernel names it /SYSV and its key. */
bool sysv_is(const struct proc_vma *vma);
int sysv_capture_vma(struct dump *d, struct task *t, const struct proc_vma *vma);
int sysv_finish(struct dump *d, bool success);

/* Makes the segments, fills them; after the tasks have attached, sysv_settle removes those that were marked so. */
int sysv_make(struct restore *s);
int sysv_plan_vma(struct restore *s, struct rtask *t, size_t index);
int sysv_settle(struct restore *s);
void sysv_release(struct restore *s);
