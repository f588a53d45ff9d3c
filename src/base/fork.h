/*
 * fork(2) with more of clone3(2): a descriptor table that stays shared, another parent, an id. Only for a process with one thread, or where no other
 * thread holds a lock of the C library, which would stay locked in the child for ever.
 */
#pragma once

#include "base/base.h"

/* `flags`: CLONE_PARENT, CLONE_FILES and the like, but none that shares memory. `pid`: the child's in the innermost namespace, 0: any. As fork(2), but a negative
 * errno where it fails. */
pid_t fork_with(uint64_t flags, pid_t pid);
