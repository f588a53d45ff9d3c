/* Memory from packed images. See feed.c. */
#pragma once

#include "engine/restore.h"

/* The operations by which the task waits for its pages; what fill_plan does for an image that a task can read. */
int feed_plan(struct restore *s, struct rtask *t);
/* The same for what a parent checkpoint has of them. */
int feed_plan_source(struct restore *s, struct rtask *t, const struct page_source *source);
/* Once the root is born. */
int feed_start(struct restore *s);
/* What went wrong so far, with the text set, or 0. */
int feed_failure(struct restore *s);
/* Ends the threads, whatever they are at, and releases all. */
void feed_stop(struct restore *s);
