/*
 * What the kernel's own memory (kernel.h) shows of a stopped process and its threads: then they need not be asked by the agent, and many of
 * their files in /proc need not be read.
 *
 * Nothing is believed before the coordinator has looked at itself in the same way and found what system calls say of it; of each thread its id
 * and its signal mask must be what ptrace(2) says. What is not plain (a timer, a memory policy, a switch of prctl(2) that the coordinator has
 * otherwise) is not decoded: who has such a thing is asked, as all are where the kernel's memory can't be read.
 */
#pragma once

#include "engine/task/task.h"

/* What takes a while, before anything is stopped. */
int insight_prepare(struct dump *d);
/* Looks at a process that stands still, once. Its answers and its view are filled as far as they are seen. By the main thread. */
void insight_look(struct dump *d, struct task *t);
/* The kernel's object for the control groups that a process is in, stopped or not; 0: not seen. */
uint64_t insight_group(struct dump *d, struct task *t);
/* Which of its threads have no child now: insight.childless of each, as far as it is seen. */
void insight_look_for_children(struct dump *d, struct task *t);
/* Whether two processes have the same cwd, root or exe, by the place in task_links; false where it was not seen. */
bool insight_same_link(const struct task *a, const struct task *b, size_t which);
/* Whether two processes have the same object, of KCMP_VM, KCMP_FILES, KCMP_FS and KCMP_SIGHAND: 1, 0, or -1 where it was not seen. */
int insight_same(const struct task *a, const struct task *b, int what);
/* An object of a process, by which it can be put in order; 0: not seen. */
uint64_t insight_object(const struct task *t, int what);
/* Whether it has the descriptor from its parent, by its place in t->view.fds; -1: not seen. */
int insight_inherited(const struct task *t, size_t index);
/* Its maps with the flags of each area, as proc_read_smaps gives them. By any thread. */
int insight_read_maps(struct task *t);
void insight_release(struct dump *d);
