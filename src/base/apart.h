/*
 * A function run in a process apart: it shares memory and descriptors with the caller, who waits for it, and nothing else. It
 * may change its credentials, root and directory; and it goes on to its end should the caller be killed.
 */
#pragma once

#include "base/base.h"

/* What the process appears as to its peers. */
struct apart_as {
	pid_t pid; /* 0: any. Where it is taken: any as well */
	uid_t euid;
	gid_t egid;
	bool credentials; /* euid, egid and groups count; capabilities are kept */
	const uint32_t *groups; /* with `credentials`: n_groups supplementary ones */
	size_t n_groups;
};

/* Gives what `fn` returns, or a negative errno when no process could be made. `as` may be NULL. clone3(2), Linux 5.5. */
int run_apart(const struct apart_as *as, int (*fn)(void *), void *argument);
