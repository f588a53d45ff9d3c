/*
 * A process that keeps userfaultfds open from one dump to the next, so that the next can tell what was written since (increment.h).
 *
 * The descriptors are in asynchronous mode: no process ever waits for the holder. When it dies, in whatever way, the kernel takes the protection
 * away, and the next dump finds no area watched and saves all. It ends with the last of its processes, or when a dump has taken over.
 *
 * It is found by a link in a directory of root's, /run/fermata-track, named after the process: pid namespace, pid, start time. Both sides
 * look who the other is (SO_PEERCRED).
 */
#pragma once

#include "base/error.h"
#include "image/image.h"

struct held_process {
	pid_t pid;
	uint64_t start_time;
	int uffd;
};

/* `id`: of the checkpoint since which they are watched. */
struct holding {
	char id[IMAGE_ID_SIZE];
	VEC(struct held_process) processes;
	int connection; /* to the holder that they were taken from; -1 */
};

/* Starts one; it has descriptors of its own. */
int holder_start(const struct holding *h, struct error *e);
/* 1: one watches this process; all that it has is in *ret, with descriptors of our own, and it waits for what becomes of it. 0: there is none. */
int holder_take(pid_t pid, uint64_t start_time, struct holding **ret);
/* Whether there is one. */
bool holder_has(pid_t pid, uint64_t start_time);
/* It goes on with the descriptors that it has, from this checkpoint on, and is left. A negative errno: what it does is not known. Releases all. */
int holder_renew(struct holding *h, const char id[IMAGE_ID_SIZE]);
/* HOLDER_TAKEN: it ends, and we have the descriptors. HOLDER_UNTOUCHED: nothing was protected meanwhile, it goes on. HOLDER_LOST: what it was watching for
 * is not known any more; as when we die. Releases all, also the descriptors. */
enum holder_end { HOLDER_TAKEN, HOLDER_UNTOUCHED, HOLDER_LOST };
void holder_leave(struct holding *h, enum holder_end end);
