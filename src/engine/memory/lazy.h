/*
 * Restoring without waiting for memory (--lazy): private anonymous areas are registered with a userfaultfd of each task's own, and a process
 * that stays brings their pages (pager.h). Everything else is filled as usual: areas of files, shared and locked ones, huge pages, stacks; and
 * the memory of tasks that share pages since fork(2), or that have few.
 *
 * The task makes the descriptor, since it belongs to who makes it; the coordinator fetches it (pidfd_getfd) while the task waits, and the
 * task closes it.
 */
#pragma once

#include "engine/restore.h"

struct dump;
struct task;

/* Before the plan of any task: which of them are restored so. */
int lazy_choose(struct restore *s);
/* Is this area of such a task, and one whose pages come later? */
bool lazy_covers(const struct rtask *t, const VmaEntry *v);
/* How far from `address` on pages are all in areas that are filled, or all in such whose pages come later. `vma` goes along. */
uint64_t lazy_stretch(const struct rtask *t, uint64_t address, uint64_t end, size_t *vma, bool *later);
/* After its areas are mapped. */
int lazy_plan(struct restore *s, struct rtask *t);
/* When the root has been born: until all have their descriptors; then the pager is started. */
int lazy_start(struct restore *s);

/* For a dump: a process whose memory is still being brought gets all of it first; its maps are read again. */
int lazy_settle(struct dump *d, struct task *t);
