/*
 * Where the time of a dump or restore goes, and how far it is. Stages follow upon one another in the thread that does the work, each
 * begins where the one before ends, so that they add up to the whole; what other threads do meanwhile is not time of its own.
 */
#pragma once

#include "engine/request.h"

#include <pthread.h>

enum stage {
	/* dump */
	STAGE_PREPARE, /* what is to be written to is opened */
	STAGE_FREEZE,
	STAGE_DISCOVER, /* what the tasks are to each other */
	STAGE_CAPTURE,	/* their state; pages are copied meanwhile */
	STAGE_MEMORY,	/* what was left of that; restore: pages into place */
	STAGE_WRITE,	/* what belongs to all */
	STAGE_COMMIT,
	STAGE_RESUME, /* or the end of the tree */
	/* restore, and STAGE_MEMORY */
	STAGE_OPEN,
	STAGE_VERIFY,
	STAGE_PLAN,
	STAGE_BUILD,
	STAGE_SWITCH,
	STAGES
};

struct watch {
	const struct request *request;
	struct profile own, *profile; /* the caller's, or own */
	enum stage stage;
	uint64_t began, since, frozen; /* ns, CLOCK_MONOTONIC */
	/* Gives bytes that are done and that there are; from another thread. */
	void (*count)(void *data, uint64_t *ret_done, uint64_t *ret_total);
	void *data;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool running, over;
};

/* In `stage`. Where the request wants to be told of progress, a thread tells. */
void watch_begin(struct watch *w, const struct request *request, enum stage stage,
		 void (*count)(void *data, uint64_t *ret_done, uint64_t *ret_total), void *data);
void watch_enter(struct watch *w, enum stage stage);
/* Behind a fork, which its thread has not survived, or behind watch_quiet: it goes on. */
void watch_resume(struct watch *w, const struct request *request);
/* Time that was counted as the present stage's was another's. */
void watch_move(struct watch *w, enum stage from, enum stage to, uint64_t ns);
/* The tree stands still; it runs again, or is no more. */
void watch_frozen(struct watch *w);
void watch_thawed(struct watch *w);
/* Nobody is told any more. Before what `count` looks at goes. */
void watch_quiet(struct watch *w);
void watch_end(struct watch *w);
uint64_t watch_now(void);
