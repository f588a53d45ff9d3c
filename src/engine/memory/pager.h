/*
 * The process that brings the pages of a lazy restore (userfaultfd(2)), once the restore has ended: those that are touched first, the others
 * one after the other. It ends when all are there, or the processes have ended. Beside it stands a guard, which holds the same descriptors: should the pager die, or the
 * checkpoint turn out to be damaged, the guard ends the restored processes, who would otherwise find zeroes in place of what they had.
 *
 * It follows what the processes do with their memory meanwhile: fork, mremap, munmap, madvise (UFFD_FEATURE_EVENT_*, Linux 4.11).
 */
#pragma once

#include "base/error.h"
#include "image/image.h"

/* A file with pages: the checkpoint's own, or a parent's. */
struct pager_source {
	int fd; /* the caller's */
	const struct image_raw *packed; /* in place of `fd`; or NULL */
	struct image_digest digest; /* size 0: it is not to be compared */
};

/* Where in a source the pages of [start, end) are. */
struct pager_extent {
	uint64_t start, end, offset;
	size_t source;
};

struct pager_space {
	int uffd; /* the caller's */
	pid_t pid;
	struct pager_extent *extents; /* ascending, and without overlap */
	size_t count;
};

struct pager_lot {
	struct pager_space *spaces;
	struct pager_source *sources;
	size_t n_spaces, n_sources;
	bool touched; /* nothing is brought that is not touched, until someone asks for all */
	int waiter; /* a socket, where a zero byte is written when all is there, and another when it can't be; 0: none */
	/* Where the order in which pages were touched is noted for the next time: of each window, the space and the page's number, u32 each; -1: nowhere. */
	int dir_fd;
	const char *name;
};

/* Starts it. All is still the caller's own, and can go. Nothing of the spaces is touched before it returns. */
int pager_start(const struct pager_lot *lot, struct error *e);

/* Asks the pager of a process to bring all at once, and waits until it has. Where it can't be told which that is (a child that was born since),
 * every pager of this machine (network namespace). Gives how many there were. */
int pager_finish(pid_t pid);
