/*
 * The cgroup freezer: a process that it holds does not run, and can't know that it did not; SIGSTOP it would see, and its parent too.
 *
 * A process is held in a group of ours, FREEZER_GROUP, below the one that it is in, so that its limits stay and others of its group run
 * on. That it is there is all that is written down: who lets it go finds its own group by the path. Version 2 (cgroup.freeze) is taken
 * where the process has it, or version 1 (the controller `freezer`).
 *
 * Held by version 1 a process can be seized by ptrace(2), but stops only once it is let go; a signal that kills it waits likewise.
 */
#pragma once

#include "base/base.h"

#define FREEZER_GROUP "fermata-frozen"

/* Held from the return of freezer_wait on, at the latest. A negative errno: there is no freezer, or it can't be used; nothing is changed. */
int freezer_hold(pid_t pid);
/* 0; -ETIMEDOUT: a thread of it waits in the kernel and has not come out within `timeout_ms`. */
int freezer_wait(pid_t pid, int timeout_ms);
/* Back to its own group: it runs. 1; 0: it was not held. */
int freezer_release(pid_t pid);
bool freezer_holds(pid_t pid);
/* Of one that is held and is about to end there: the group above, for freezer_tidy once it has; or -1. */
int freezer_above(pid_t pid);
/* Removes our group below it where that is empty, and closes it. Takes -1. */
void freezer_tidy(int above);
