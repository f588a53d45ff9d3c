/* Who is at work on what, so that only one is; and the threads that work goes on in when its request is answered. See daemon.h. */
#include "daemon/daemon.h"

#include "base/log.h"

#include <time.h>

#define PERIODIC_S 50 /* how long a request waits for a periodic checkpoint of its job */
#define THREAD_STACK (512UL << 10)

int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static const struct busy *busy_find(struct daemon *d, const char *key)
{
	for (size_t i = 0; i < d->busy.count; i++)
		if (!strcmp(d->busy.data[i].key, key))
			return &d->busy.data[i];
	return NULL;
}

static int busy_enter(struct daemon *d, const char *key, const char *what, bool aside, struct error *e)
{
	struct timespec until;
	const struct busy *other;
	int waited = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PERIODIC_S;
	pthread_mutex_lock(&d->lock);
	while ((other = busy_find(d, key)) && other->yields && !aside && !waited)
		waited = pthread_cond_timedwait(&d->less_busy, &d->lock, &until);
	int r = other ? error_set(e, -EBUSY, "%s %s just now; try again when that is done", key, other->what) : 0;
	struct busy *slot = r ? NULL : VEC_PUSH(&d->busy);
	if (slot)
		*slot = (struct busy){ .what = what, .yields = aside };
	if (slot)
		snprintf(slot->key, sizeof(slot->key), "%s", key);
	else if (!r)
		r = error_set(e, -ENOMEM, "out of memory");
	pthread_mutex_unlock(&d->lock);
	return r;
}

int busy_begin(struct daemon *d, const char *key, const char *what, struct error *e)
{
	return busy_enter(d, key, what, false, e);
}

int busy_begin_aside(struct daemon *d, const char *key, const char *what, struct error *e)
{
	return busy_enter(d, key, what, true, e);
}

void busy_end(struct daemon *d, const char *key)
{
	pthread_mutex_lock(&d->lock);
	for (size_t i = 0; i < d->busy.count; i++)
		if (!strcmp(d->busy.data[i].key, key)) {
			d->busy.data[i] = d->busy.data[--d->busy.count];
			break;
		}
	pthread_cond_broadcast(&d->less_busy);
	pthread_mutex_unlock(&d->lock);
}

bool busy_is(struct daemon *d, const char *key)
{
	pthread_mutex_lock(&d->lock);
	bool found = busy_find(d, key) != NULL;
	pthread_mutex_unlock(&d->lock);
	return found;
}

int thread_begin(void *(*run)(void *argument), void *argument, struct error *e)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, THREAD_STACK);
	int r = pthread_create(&thread, &attributes, run, argument);
	pthread_attr_destroy(&attributes);
	return r ? error_errno(e, -r, "cannot start a thread") : 0;
}

void daemon_wake(struct daemon *d)
{
	uint64_t one = 1;

	if (write(d->wake, &one, sizeof(one)) < 0)
		log_debug("the schedule is awake already");
}
