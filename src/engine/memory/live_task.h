/* The parts of live.h among themselves. */
#pragma once

#include "engine/memory/increment.h"
#include "engine/memory/live.h"
#include "engine/memory/parents.h"
#include "engine/memory/slots.h"
#include "engine/memory/track.h"
#include "engine/memory/vmbits.h"
#include "engine/task/task.h"

#include <pthread.h>

/* A part of an address space as it was in the pause. */
struct piece {
	uint64_t start, end;
	enum piece_kind { PIECE_STORED, PIECE_LATE, PIECE_SHARED, PIECE_PREVIOUS } kind; /* the last two are not in the image */
	bool several;
	uint64_t from; /* in the store; in `late` */
	uint64_t at;   /* in the pages image */
};

struct pieces {
	struct piece *data;
	size_t count, capacity;
	size_t first;  /* of the area that is gone through */
	uint64_t size; /* of the pages image */
};

static inline bool piece_is_elsewhere(const struct piece *x)
{
	return x->kind == PIECE_SHARED || x->kind == PIECE_PREVIOUS;
}

/* A part of an area that a worker looks at, in the pause. */
struct look {
	struct dump *d;
	struct live_task *lt;
	uint64_t start, end;
	bool file, huge;
	struct track_runs changes;
};

/* One address space that is watched. */
struct live_task {
	pid_t pid, proc;
	uint64_t start_time;
	char comm[64];
	struct live_task *parent;
	int uffd, pagemap_fd, mem_fd, store_fd;
	struct proc_maps maps;	 /* as they were last */
	struct proc_maps flags; /* as smaps had them before the pause; none: the kernel tells in it */
	struct slots slots;
	struct extents touched; /* written after the first round */
	struct extents missing; /* could not be read */
	struct extents last;	/* that the last round but the first copied */
	uint64_t copied;	/* bytes of this round */
	bool kept;		/* it goes on being watched after the dump (increment.h) */
	struct extents since;	/* areas that have been watched since the parent checkpoint, */
	struct page_spans before; /* and what that has; until the first round is over */
	const char *given_up;	/* who may write to it unseen: all is copied in the pause */
	bool plain;		/* and to memory: it has a GPU */
	bool gone;		/* the address space is */
	bool unheld;		/* no page of it was ever held by others, which is to stay so (pins.h) */
	/* In the pause and behind it. */
	struct task *t;
	struct image_file *map, *data;
	VEC(struct look) looks;
	struct pieces pieces;
	struct extents late; /* the pieces that are copied in the pause, with where they go */
	struct extents held; /* what is watched, in the pause */
	bool settled;
	struct live_cow *cow; /* NULL: all that is late is copied in the pause */
};

/* A call that the first stop interrupted, and that goes on by restart_syscall(2). */
struct live_call {
	pid_t pid, tid;
	uint64_t rip, rsp, rdi;
	long nr;
};

struct live {
	VEC(struct live_task *) tasks; /* parents before children */
	bool watching; /* the first stop is over */
	bool slowly;
	bool tree; /* more than one process */
	bool tells_holes; /* track.h */
	bool told; /* the flags of areas are read in the pause, by vmbits.h */
	struct vmbits bits;
	pthread_mutex_t lock;
	int result; /* of the workers: the first that failed, and why */
	struct error why;
	/* What is copied in the pause: the first part to memory, the rest to a file. */
	unsigned char *late;
	uint64_t late_room, late_size;
	uint64_t gentle_until; /* CLOCK_MONOTONIC, ns; atomic; 0: it is not copied gently */
	int spill_fd;
};

#define LIVE_COW_MIN (32UL << 20) /* more is not copied in the pause where the program can be made to wait for it */

struct live_task *live_usable(const struct dump *d, const struct task *t);
void live_note(struct live *l, int r, const struct error *why);

/* live_collect.c: pages that are to be copied, to get a place only, and that the parent checkpoint has. */
struct found {
	struct extents runs, places, previous;
};
/* The pages that were written since the last round; those that can't be watched are given a place in the first. One that has ended is `gone`. */
int live_collect(struct dump *d, struct live_task *lt, bool first, struct found *f);
/* How many bytes that would be now. Nothing is changed. */
int live_left(const struct dump *d, uint64_t *ret);

/* live_rounds.c. A round gives how many bytes were copied. */
int live_run_round(struct dump *d, bool first, uint64_t *ret);
int live_run_rounds(struct dump *d);
void live_unwatch(struct live_task *lt);

/* live_calls.c: while the tree is stopped first; once it runs again. */
int live_note_calls(struct dump *d, struct task *t);
void live_name_calls(struct dump *d);

/* live_copy.c: so much will be copied, behind what others have to do. That ends when it takes too long, as on a machine that is busy without an end: who
 * copies asks for it now and then. */
void live_gently(struct dump *d, uint64_t size);
void live_hurry(struct dump *d);
/* Copies what runs to its place; waits until all is done. */
int live_copy(struct dump *d, struct live_task *lt, const struct extents *copies);
/* The same for the late pieces, from what stands still. Does not wait. */
void live_copy_late(struct dump *d, struct live_task *lt);
/* A part of it, to where it goes. `buffer` has room for it. */
int live_late_copy(struct dump *d, struct live_task *lt, uint64_t from, size_t size, bool several, uint64_t slot, unsigned char *buffer);
int live_late_read(const struct live *l, uint64_t from, unsigned char *to, size_t size);

/* live_cow.c: while the program runs; in the pause, when the late pieces are known; behind it. 1: what was to be copied is there no more. */
int live_cow_prepare(struct dump *d);
int live_cow_arm(struct dump *d, struct live_task *lt);
int live_cow_finish(struct dump *d);
/* An area that it has. */
bool live_cow_has(const struct live_cow *c, const struct proc_vma *v);
void live_cow_free(struct live_cow *c);

/* live_pause.c: begins to look what has changed, by the workers; then, when they have, what is where. */
int live_look(struct dump *d, struct live_task *lt);
void live_forget_looks(struct live_task *lt);
int live_find_pieces(struct dump *d, struct live_task *lt);
/* Without a pause: all that was copied. */
int live_take_all(struct dump *d, struct live_task *lt);

/* live_settle.c */
int live_settle_task(struct dump *d, struct live_task *lt);
