/*
 * Namespaces of a tree's own (namespaces(7)): all its tasks are in those of its root, or it is refused.
 *
 * The coordinator works within them: a process apart (relay.h) enters the target's at a dump, makes new ones at a restore, and from then on names, ids, sockets and
 * queues are for it what they are for the tree, so that kinds of descriptors and everything else know nothing of namespaces. What it needs from
 * outside (images, parents, BTF, the hooks) it opens before. Only the user namespace is not entered: that would take its rights; ids of users are translated.
 *
 * A kind's file says what it saves, and refuses what it doesn't. Their order in the table is that in which they are made.
 */
#pragma once

#include "engine/dump.h"
#include "engine/restore.h"

struct relay;

struct ns_kind {
	const char *name;	  /* as in /proc/PID/ns */
	uint64_t flag;		  /* CLONE_NEW… */
	const char *summary;	  /* a sentence for the table of what can be saved */
	size_t has_id, id;	  /* where its number stands in a TaskKobjIdsEntry */
	bool needs_outside;	  /* the one that we are of is kept open: ns_outside, ns_outside_of */

	/* Dump: the tree stands still, the coordinator is within. Writes images with `id` in their names; what can't be saved is refused. May be NULL, as all that
	 * follow. */
	int (*collect)(struct dump *d, uint32_t id);
	/* Restore: before anything is made: reads its images, and refuses what can't be made here. */
	int (*load)(struct restore *s, uint32_t id);
	/* The namespace is there, new and empty, and the coordinator within; the tree is neither there nor planned. */
	int (*fill)(struct restore *s, uint32_t id);
	/* Every task has what it needs and is parked: the last moment before they run. */
	int (*settle)(struct restore *s, uint32_t id);
	void (*release)(struct restore *s);
};

extern const struct ns_kind *const ns_kinds[];
extern const size_t ns_kinds_count;

/* What a kind keeps during a restore: its place among s->ns.state, to be freed by its `release`. */
void **ns_state(struct restore *s, const struct ns_kind *kind);

/* ---- dump ---- */

/* Which of a process's namespaces are not the caller's, as bits of the table. 0 where it can't be seen, or is in one that no kind is for: who looks closer says so. */
uint32_t ns_find(pid_t pid);
/* Enters those of d->ns_own. By a process apart, without threads. */
int ns_enter(struct dump *d);
/* Whether that of this flag (CLONE_NEW…) is among them. */
bool ns_is_own(const struct dump *d, uint64_t flag);
/* A descriptor of the coordinator's own, as it was called. */
int ns_outside(const struct dump *d, const struct ns_kind *kind);
/* The number in the names of its images; 0: it is not the tree's own. The second for a restore. */
uint32_t ns_number(const struct dump *d, uint64_t flag);
uint32_t ns_number_saved(const struct restore *s, uint64_t flag);
int ns_collect(struct dump *d);
/* The numbers of namespaces: of the root and all its tasks, or (`outside`) the coordinator's, as it was called. Nothing where the tree has none of its own. */
void ns_fill_ids(const struct dump *d, TaskKobjIdsEntry *ids, bool outside);

/* ---- restore ---- */

/* Sets s->ns.own by the images. */
int ns_load(struct restore *s);
/* Makes them and enters. By a process apart, without threads. */
int ns_make(struct restore *s);
/* By `load`: this one is entered in place of a new one that is made. `fd` stays the caller's. */
int ns_give(struct restore *s, const struct ns_kind *kind, int fd);
int ns_outside_of(const struct restore *s, const struct ns_kind *kind);
/* The root of the tree enters, or makes, those that the coordinator stays out of. */
void ns_plan_enter(struct restore *s, struct batch *b);
int ns_settle(struct restore *s);
void ns_release(struct restore *s);
