/*
 * Which process is meant: a number, and when it began, since numbers are used again. A record of one that was written down under
 * another boot is of nobody. Also who may reach a process, and all that descend from one.
 */
#pragma once

#include "base/error.h"

struct identity {
	int64_t pid, start;
	char boot[40];
};

/* -ESRCH: there is no such process. */
int identity_of(pid_t pid, struct identity *ret);
/* 0: it has gone. 'Z', 'S' …: its state as /proc/PID/stat has it. -1: the number is another's now. */
int identity_state(const struct identity *who);
bool identity_alive(const struct identity *who); /* not a zombie */
/* A pidfd, or -ESRCH when it is not there any more. */
int identity_open(const struct identity *who);

/* The process and all that descend from it; the caller frees data. */
struct tree {
	pid_t *data;
	size_t count, capacity;
};
int tree_list(pid_t root, struct tree *ret);
/*
 * Stops each process of the tree, by the cgroup freezer where there is one, which no program notices, or else by SIGSTOP, until no new one
 * is found; and lets them go on.
 */
int tree_freeze_all(pid_t root, struct error *e);
int tree_unfreeze_all(pid_t root, struct error *e);
/* We are in it. */
bool tree_holds_us(pid_t root);
/* Bytes of memory that a dump of the tree has to copy, about: what several share counts for each. UINT64_MAX: nobody knows. */
uint64_t tree_memory(pid_t root);
/* Whether one of the tree has loaded CUDA, or mapped one of NVIDIA's devices. */
bool tree_uses_gpu(pid_t root);
/* A zombie with no thread left: it has nothing, and nobody's rights. */
bool process_is_dead(pid_t pid);
/* -EPERM with the reason, when a user who is not root may not have us act on the tree below `root`: all of it must be theirs. */
int tree_require_owner(pid_t root, uid_t uid, struct error *e);
