/* See labels.c. */
#pragma once

#include "base/pool.h"
#include "creds.pb-c.h"
#include "engine/restore.h"
#include "engine/task/task.h"

/* Dump: AppArmor's labels are saved, others refused where they are not `own`, the coordinator's, or NULL: there are none. */
int labels_check(struct dump *d, struct task *t, const char *own);
int labels_capture(struct dump *d, struct thread *th, struct pool *pool, CredsEntry *c);

/* Restore: own->label. */
void labels_read_own(struct own *own);
int labels_plan(struct restore *s, struct rtask *t, struct rthread *th);
