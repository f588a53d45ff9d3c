/* See watch.h. */
#include "engine/watch.h"

#include <signal.h>
#include <time.h>

#define TELL_NS 100000000L

static const char *const names[STAGES] = {
	[STAGE_PREPARE] = "prepare", [STAGE_FREEZE] = "freeze", [STAGE_DISCOVER] = "discover", [STAGE_CAPTURE] = "capture",
	[STAGE_MEMORY] = "memory",   [STAGE_WRITE] = "write",   [STAGE_COMMIT] = "commit",     [STAGE_RESUME] = "resume",
	[STAGE_OPEN] = "open",       [STAGE_VERIFY] = "verify", [STAGE_PLAN] = "plan",	       [STAGE_BUILD] = "build",
	[STAGE_SWITCH] = "switch",
};

uint64_t watch_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* In the order in which they were first entered. */
static struct profile_stage *find_stage(struct profile *p, enum stage stage)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->stages[i].name == names[stage])
			return &p->stages[i];
	if (p->count == PROFILE_STAGES_MAX)
		return &p->stages[p->count - 1];
	p->stages[p->count] = (struct profile_stage){ .name = names[stage] };
	return &p->stages[p->count++];
}

static void tell_once(struct watch *w)
{
	struct request_progress progress = { .stage = names[__atomic_load_n(&w->stage, __ATOMIC_RELAXED)] };

	progress.elapsed_ns = watch_now() - w->began;
	w->count(w->data, &progress.done, &progress.total);
	w->request->progress.call(w->request->progress.data, &progress);
}

static void *tell(void *argument)
{
	struct watch *w = argument;

	pthread_mutex_lock(&w->lock);
	while (!w->over) {
		struct timespec until;
		uint64_t next = watch_now() + TELL_NS;
		until = (struct timespec){ (time_t)(next / 1000000000), (long)(next % 1000000000) };
		pthread_cond_timedwait(&w->changed, &w->lock, &until);
		if (!w->over)
			tell_once(w);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void start(struct watch *w)
{
	pthread_condattr_t monotonic;
	sigset_t all, before;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	w->running = pthread_create(&w->thread, NULL, tell, w) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void watch_begin(struct watch *w, const struct request *request, enum stage stage,
		 void (*count)(void *data, uint64_t *ret_done, uint64_t *ret_total), void *data)
{
	*w = (struct watch){ .request = request, .stage = stage, .count = count, .data = data };
	w->profile = request->profile ? request->profile : &w->own;
	*w->profile = (struct profile){};
	w->began = w->since = watch_now();
	find_stage(w->profile, stage);
	if (request->progress.call)
		start(w);
}

void watch_resume(struct watch *w, const struct request *request)
{
	w->request = request;
	w->over = w->running = false;
	if (request->progress.call)
		start(w);
}

void watch_enter(struct watch *w, enum stage stage)
{
	uint64_t now = watch_now();

	find_stage(w->profile, w->stage)->ns += now - w->since;
	find_stage(w->profile, stage);
	w->since = now;
	__atomic_store_n(&w->stage, stage, __ATOMIC_RELAXED);
}

void watch_move(struct watch *w, enum stage from, enum stage to, uint64_t ns)
{
	struct profile_stage *f = find_stage(w->profile, from), *t = find_stage(w->profile, to);

	ns = MIN(ns, f->ns);
	f->ns -= ns;
	t->ns += ns;
}

void watch_frozen(struct watch *w)
{
	if (!w->frozen)
		w->frozen = watch_now();
}

void watch_thawed(struct watch *w)
{
	if (w->frozen)
		w->profile->pause_ns += watch_now() - w->frozen;
	w->frozen = 0;
}

void watch_quiet(struct watch *w)
{
	if (!w->running)
		return;
	pthread_mutex_lock(&w->lock);
	w->over = true;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->thread, NULL);
	pthread_cond_destroy(&w->changed);
	pthread_mutex_destroy(&w->lock);
	w->running = false;
}

void watch_end(struct watch *w)
{
	watch_quiet(w);
	watch_thawed(w);
	watch_enter(w, w->stage);
	w->profile->total_ns = watch_now() - w->began;
}
