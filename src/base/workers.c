/* See workers.h. */
#include "base/workers.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#define SEVERAL 16

struct job {
	void (*fn)(void *);
	void *argument;
	struct job *next;
};

struct workers {
	pthread_mutex_t lock;
	pthread_cond_t work, idle;
	struct job *first, **last;
	pthread_t threads[WORKERS_MAX];
	size_t count, wanted, busy, waiting;
	struct pacer pacer; /* once there was another pace than the usual */
	enum pace pace;
	bool paced;
	pid_t owner, tids[WORKERS_MAX]; /* of those that have begun */
	size_t begun;
	bool over;
};

struct workers *workers_new(void)
{
	struct workers *w = calloc(1, sizeof(*w));
	cpu_set_t cpus;

	if (!w)
		return NULL;
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->work, NULL);
	pthread_cond_init(&w->idle, NULL);
	w->last = &w->first;
	int n = sched_getaffinity(0, sizeof(cpus), &cpus) < 0 ? 1 : CPU_COUNT(&cpus);
	w->wanted = (size_t)MAX(1, MIN(n - 1, WORKERS_MAX)); /* who waits for them helps */
	return w;
}

/* With the lock held; without it while the job runs. */
static void run_first(struct workers *w)
{
	struct job *job = w->first;

	w->first = job->next;
	if (!w->first)
		w->last = &w->first;
	w->waiting--;
	w->busy++;
	pthread_mutex_unlock(&w->lock);
	job->fn(job->argument);
	free(job);
	pthread_mutex_lock(&w->lock);
	if (--w->busy == 0 && !w->first)
		pthread_cond_broadcast(&w->idle);
}

static void *work(void *argument)
{
	struct workers *w = argument;

	pthread_mutex_lock(&w->lock);
	w->tids[w->begun++] = gettid();
	if (w->paced)
		pacer_set(&w->pacer, 0, w->pace);
	while (!w->over) {
		if (w->first)
			run_first(w);
		else
			pthread_cond_wait(&w->work, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static void start_thread(struct workers *w)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&w->threads[w->count], NULL, work, w) == 0)
		w->count++;
	else
		w->wanted = w->count;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void submit(struct workers *w, void (*fn)(void *), void *argument, bool large)
{
	struct job *job = malloc(sizeof(*job));

	if (!job) {
		fn(argument);
		return;
	}
	*job = (struct job){ fn, argument, NULL };
	pthread_mutex_lock(&w->lock);
	*w->last = job;
	w->last = &job->next;
	w->waiting++;
	if (large || w->waiting >= SEVERAL) {
		if (w->busy + 1 > w->count && w->count < w->wanted)
			start_thread(w);
		pthread_cond_signal(&w->work);
	}
	pthread_mutex_unlock(&w->lock);
}

void workers_submit(struct workers *w, void (*fn)(void *), void *argument)
{
	submit(w, fn, argument, false);
}

void workers_submit_large(struct workers *w, void (*fn)(void *), void *argument)
{
	submit(w, fn, argument, true);
}

/* The caller helps. */
void workers_wait(struct workers *w)
{
	pthread_mutex_lock(&w->lock);
	while (w->first || w->busy) {
		if (w->first)
			run_first(w);
		else
			pthread_cond_wait(&w->idle, &w->lock);
	}
	pthread_mutex_unlock(&w->lock);
}

void workers_pace(struct workers *w, enum pace pace)
{
	pthread_mutex_lock(&w->lock);
	if (w->pace != pace) {
		if (!w->paced) {
			pacer_begin(&w->pacer);
			w->owner = gettid();
		}
		w->paced = true;
		w->pace = pace;
		pacer_set(&w->pacer, w->owner, pace);
		for (size_t i = 0; i < w->begun; i++)
			pacer_set(&w->pacer, w->tids[i], pace);
	}
	pthread_mutex_unlock(&w->lock);
}

void workers_free(struct workers *w)
{
	if (!w)
		return;
	workers_wait(w);
	workers_pace(w, PACE_USUAL);
	pthread_mutex_lock(&w->lock);
	w->over = true;
	pthread_cond_broadcast(&w->work);
	pthread_mutex_unlock(&w->lock);
	for (size_t i = 0; i < w->count; i++)
		pthread_join(w->threads[i], NULL);
	pthread_cond_destroy(&w->work);
	pthread_cond_destroy(&w->idle);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
