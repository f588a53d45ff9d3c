/*
 * Memory saved while the program runs. Its pages are watched (track.h) and copied to a file, again those that it wrote meanwhile, in rounds; then it
 * is stopped, and only what was written since the last look is copied. The rest is put in order behind the pause.
 *
 *	live_begin	the tree is stopped for a moment, to be watched; then rounds, while it runs
 *	live_read_maps, live_hold, live_capture, live_paused	in the pause, in place of smaps and of pages_capture
 *	live_settle	behind the pause: what is still to be copied (live_cow.c), then the pages images
 *	live_end	at any moment: nothing is watched any more
 *
 * What can't be watched is copied in the pause: code, mappings of devices, memory that is shared (shmem.h), processes that are born meanwhile, or that a
 * device may write to (pinned.h).
 */
#pragma once

#include "engine/dump.h"

struct task;

int live_begin(struct dump *d);
/* In place of a dump: the pages alone, as far as they can be watched, while the tree runs; what it wrote meanwhile the next dump has. 1: this kernel
 * can't tell. */
int live_pre_dump(struct dump *d);
/* The tree is stopped again: threads that the first stop interrupted are as they were before it. */
void live_give_calls(struct dump *d);
/* A stopped tree has calls that an earlier stop interrupted: it is let go, and looked what they are; then it is to be stopped again. */
bool live_has_unknown_calls(const struct dump *d);
int live_look_at_calls(struct dump *d);
/* Whether this process's pages are saved so. */
bool live_has(const struct dump *d, const struct task *t);
/* Fills t->maps; by any thread. A process that is not saved so: its smaps. */
int live_read_maps(const struct dump *d, struct task *t);
/* Begins to look what it has written. */
int live_hold(struct dump *d, struct task *t);
int live_capture(struct dump *d, struct task *t);
int live_paused(struct dump *d, int r);
/* 1: what was read before the pause did not hold in it: dump again, and read all in the pause (`live_slowly`). */
int live_settle(struct dump *d);
/* Before the pause: memory for so many bytes more that will be copied in it. What it turns out not to be enough for goes to a file. */
void live_reserve(struct dump *d, uint64_t size);
/* Forgets the last pause. */
void live_slowly(struct dump *d);
void live_end(struct dump *d);
