/* See aio.c. */
#pragma once

#include "engine/restore.h"
#include "engine/task/task.h"

/* Fills t->rings from the maps; whether they are alive is asked by the agent. */
int aio_list(struct dump *d, struct task *t);
/* The entries of mm-PID.img; they and their pointers are the caller's to free, also after a failure. */
int aio_capture(struct dump *d, struct task *t, MmEntry *mm);
/* After the pages were copied: whether anything was completed meanwhile. */
int aio_recheck(struct dump *d, struct task *t);

/* A place that nothing else takes. */
void aio_plan_place(struct rtask *t, const VmaEntry *v);
/* Once all areas are mapped: makes the rings, at their places. What is in them comes with the pages. */
int aio_plan(struct restore *s, struct rtask *t);
/* After the pages: the one word of a ring that is the kernel's own. */
void aio_plan_finish(struct rtask *t);
void aio_release(struct restore *s);
