/*
 * Incremental dumps: memory is watched from one dump to the next (track.h, holder.h), and of what has not been written since, the pagemap says
 * that the parent checkpoint has it (parents.h).
 *
 * A page is left out only when all of this holds: the area is watched by the very userfaultfd of the last dump, the kernel says that the page was
 * not written since it was protected then, the checkpoint of that dump is the parent, and it has the page. Everything else is saved. What goes
 * unnoticed otherwise ends the watch of an area (mremap, munmap, exec), or of a process (pinned.h). A child is not watched until the dump that finds it.
 *
 * Each dump with `track` protects again what was written, while the tree stands still, and hands the descriptors to a holder when the checkpoint is
 * committed. Should it fail in between, the watch ends, and the next dump saves all.
 */
#pragma once

#include "engine/dump.h"
#include "engine/memory/parents.h"
#include "engine/memory/scan.h"
#include "engine/memory/slots.h"
#include "engine/memory/track.h"

struct task;

/* Reads what is asked for: the parent checkpoint. */
int increment_begin(struct dump *d);
/* The tree stands still: finds what watches a process, or has it watched from now on. An area that is watched by us does not seem so any more. */
int increment_open(struct dump *d, struct task *t);
/* For a check: who watches it is ours, and nothing is changed. */
void increment_look(struct task *t);
/* The userfaultfd of a process that is to be watched beyond this dump, or was since the last; -1: none. Stays ours. */
int increment_uffd(const struct dump *d, const struct task *t);
/* A live dump takes over what is known of a process since the parent checkpoint: areas, and pages that it has. */
int increment_take(struct dump *d, const struct task *t, struct extents *since, struct page_spans *before);
/* Something was protected: from now on only a dump that succeeds may be built upon. */
void increment_touch(struct dump *d);
/* Someone may write to it unseen: it is not watched any longer. */
void increment_break(struct dump *d, pid_t pid, uint64_t start_time);
/* The parent checkpoint, which stays ours; NULL: there is none, or nothing was watched since. */
struct image_dir *increment_parent(const struct dump *d);
/* A page is the parent's. */
void increment_used(struct dump *d);
/* In the pause of a live dump: all that was written is protected again. `changes`: of the areas `looked`, what was written, in order. */
int increment_arm(struct dump *d, struct task *t, const struct extents *looked, const struct track_runs *changes);
/* In any thread: which pages are as the parent checkpoint has them (`previous`), and all are protected from now on. */
int increment_cut(struct dump *d, struct task *t, struct page_runs *runs);
/* Tells the checkpoint what its parent is; before the commit. */
void increment_name(struct dump *d);
/* The tree runs again, or has ended. `success`: the checkpoint is there. */
void increment_end(struct dump *d, bool success);
