/*
 * Mounts of a namespace as they are, each by itself: in a private copy of the namespace what covers one is taken away.
 */
#pragma once

#include "base/base.h"

struct reach {
	const char *point, *root, *fstype;
	uint32_t dev; /* of one that has another number now any will do */
	bool grouped; /* in: with its peer group (below) */
	int fd;	      /* out: a detached mount of it alone, the caller's; or -1 */
	int group;    /* out: the same, which is in its peer group, the caller's; or -1 */
};

/* Makes a copy of the caller's mount namespace, which the caller is in from then on: a process apart. `proc`: /proc, open from before. Nothing that
 * is done in the copy reaches the original. Those that are not to be had stay -1. */
int reach_mounts(int proc, struct reach *list, size_t n);
