/* Files in /proc of processes of the tree, and of such that had ended. */
#pragma once

#include "engine/kinds/kind.h"

/* Dump: whether an open file that has no name any more belongs to a process or thread that has ended; which. The mark of the
 * deleted was stripped, where it had one: /proc sets it when somebody looks for the name. */
bool procfile_is_dead(const struct descriptor *f, pid_t *ret);

/* The process of the tree in whose /proc directory the file lies: it can be opened once that is there. NULL: elsewhere. */
struct rtask *procfile_task(struct restore *s, const RegFileEntry *reg);
/* Before tasks are planned. */
int procfile_prepare(struct restore *s, const RegFileEntry *reg);
/* Whether it is of a thread, and so is opened by procfile_plan_threads. */
bool procfile_after_threads(struct restore *s, const RegFileEntry *reg);
/* A task opens the file, at any number: the index of the operation whose result that is. */
uint64_t procfile_plan_open(struct restore *s, struct rtask *t, const RegFileEntry *reg, uint32_t flags);
/* A task opens the file at its number `fd`, now that all processes are there. */
int procfile_plan(struct restore *s, struct file *f, struct rtask *t, int fd, uint32_t flags);
/* The task has made its threads: it opens what it had open of theirs, or of those of others. */
int procfile_plan_threads(struct restore *s, struct rtask *t);
/* A file of a process that has ended: a descriptor, in the coordinator. */
int procfile_open_dead(struct restore *s, const RegFileEntry *reg, pid_t pid, int flags);
