/*
 * Who writes to a process's memory without its page table: devices and rings of the kernel that hold its pages (O_DIRECT, io_submit, io_uring,
 * devices). Write protection does not see them, so such memory is not tracked while it runs.
 */
#pragma once

#include "proc/proc.h"

/* NULL: nobody. Otherwise who, for the log. Call it between protecting pages and copying them: a read that held some of them while they were
 * protected still has its file open, or is over. */
const char *pinned_by(pid_t pid, const struct proc_maps *maps);
/* Whether it has a userfaultfd of its own: an area can't be watched by two. */
bool pinned_is_watched(pid_t pid);
