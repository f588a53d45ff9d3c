/*
 * The part of a dump or restore that runs in other namespaces than the caller's: in a process apart, since who has entered some can't come back. The
 * caller waits for it, and does in its place what only the caller can: hooks, progress, the end of a tree that is the end of all in its namespace.
 */
#pragma once

#include "engine/engine.h"

/* As the process apart has it; every process that goes on from it (fork) may use it, one at a time. */
struct relay {
	struct request request; /* the caller's, with hook and progress that go by way of the caller */
	int socket;
	pid_t pid;	     /* the root's id for the caller; 0 before it is there */
	struct profile profile;
};

struct relay_job {
	int (*run)(struct relay *relay, struct obstacles *obstacles, void *data, struct error *e);
	void *data;
	struct obstacles *obstacles; /* of a check; or NULL */
	int root; /* dump: a pidfd of the root, for relay_end_tree; -1: none */
};
/* Gives what `run` gives, with its text in `e` and its obstacles behind those that there are; *ret_pid: the root, where relay_born was told; may be NULL. With
 * request->sibling the process is the caller's sibling, so that its own siblings are what a sibling of the caller is to be. */
int relay_run(const struct request *request, const struct relay_job *job, pid_t *ret_pid, struct error *e);

/* By the process apart, or one in its place. */
void relay_born(struct relay *relay, pid_t pid); /* as the caller sees it; before any hook that tells of it */
/* The result, at once; the caller then ends the tree, and with it whoever is in its pid namespace. Does not return. */
_Noreturn void relay_end_tree(struct relay *relay, int result, const struct error *e);
/* Forks, for the child to go on in the parent's place: with `flags`, and with id `pid` unless that is 0 (fork_with). Whoever returns is the child, with 0, or the caller
 * of it with a negative errno; the one that forked waits for it, and ends. Nothing ends that one before, from when the child is there: if its own parent does, it sends
 * the child the signal `end`. */
int relay_fork(uint64_t flags, pid_t pid, int end);
/* The same into the pid namespace of a tree that runs. Whose parent ends there becomes a child of the tree's root, which may never reap it: so another one stands in
 * between, which reaps whatever the one that goes on has made, also when that is killed. */
int relay_fork_kept(void);
/* Whether the caller has ended. */
bool relay_is_alone(const struct relay *relay);
