/*
 * Who is born by whom, so that every process has the parent, the session and the process group it had: a pure function of
 * the saved tree, used by dump (to refuse what can't be rebuilt) and by restore.
 *
 * A process gets its session from its maker at birth, before or after the maker called setsid(2). Where the parent can't give
 * it, another does: the session's leader, or, when that has gone, a helper with its pid, which makes the process with
 * CLONE_PARENT and exits. A process group whose leader has gone gets a helper likewise.
 */
#pragma once

#include "base/error.h"

struct birth_task {
	pid_t pid, pgid, sid;
	int parent; /* index, lower than its own; -1: the root */
	bool late;  /* shares memory with its parent: to be born once that is filled */
};

enum birth_when { BIRTH_BEFORE_SESSION, BIRTH_AFTER_SESSION };

struct birth {
	pid_t pid;
	int task;  /* index of the task; -1: a helper */
	int maker; /* index of the birth that makes it; -1: the coordinator */
	int reaper; /* a helper: the birth whose child it is and that waits for it */
	bool clone_parent; /* it is to be a child of its maker's parent */
	bool orphan;	   /* its maker exits, and it becomes a child of a subreaper further up */
	bool setsid, setpgid; /* it makes itself leader */
	pid_t join;	      /* the group to join once all are born; 0: none */
	bool join_last;	      /* it leads a group that it has left: until all others have joined theirs */
	bool subreaper;	      /* while being built */
	bool late;
	enum birth_when when;
	pid_t session_at_birth; /* 0: of no importance */
};

struct births {
	struct birth *data; /* those of the tasks first, in their order */
	size_t count, capacity;
};

/* `external`: the session that the root had of someone outside the tree (its group likewise), which becomes the
 * coordinator's; 0: none. -ENOTSUP with the text set for a tree that can't be rebuilt. */
int births_plan(struct births *ret, const struct birth_task *tasks, size_t count, pid_t external, struct error *e);
/* Whether a task is born with a copy of its parent's memory. */
bool births_from_parent(const struct births *b, const struct birth_task *tasks, size_t task);
/* Whether its parent itself makes it, so that they can share what clone(2) takes flags for. */
bool births_by_parent(const struct births *b, const struct birth_task *tasks, size_t task);
void births_free(struct births *b);
