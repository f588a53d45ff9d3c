/*
 * The schedule: a thread that sees jobs end (pidfds), makes the periodic checkpoints that are due, restores what failed and is to be
 * restarted, and looks for processes that were announced. It keeps nothing: what is due stands in the store.
 */
#include "daemon/daemon.h"
#include "daemon/gpu.h"

#include "base/log.h"
#include "daemon/operation.h"

#include <poll.h>
#include <sys/eventfd.h>

#define WATCHED_MAX 4096
#define IDLE_MS 30000
#define SOON_MS 200
#define FULL_MS 1000 /* for one of which a full disk takes no news */
#define REST_MS 25 /* between two rounds: what wakes us meanwhile is looked at together */
#define RESTART_NS 1000000000LL /* between an end and the restore: one that fails at once shall not spin */
#define LATE_NS 1000000000LL	/* what is told as being late, */
#define TELL_NS 60000000000LL	/* and how often */

static pthread_t thread;

/* Who is watched, from one round to the next; the descriptors stand in `polls`, behind the one that wakes us. */
struct watches {
	struct pollfd *polls;
	struct identity *who;
	size_t count;
};

/* ---- periodic checkpoints ---- */

/* So many at once that the processors have enough to do; others that are due wait for their turn, and dumps that are asked for find a place. */
static int periodic_most(void)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	return (int)MIN(MAX(2 * processors, 4), OPERATIONS_MAX - 4);
}

/* The next is due one period after this one was. One that a slow machine, or one that slept, has no more time for is left out, not caught up with. */
static void plan_next(struct daemon *d, struct job *j)
{
	int64_t every = j->every_s * 1000000000LL, now = now_ns(), left_out = MAX(now - j->next_ns, 0) / every;

	j->late_ns = MAX(now - j->next_ns, 0);
	j->missed += left_out;
	j->next_ns += every * (left_out + 1);
	if (j->late_ns < LATE_NS || now < d->late_told_ns + TELL_NS)
		return;
	d->late_told_ns = now;
	log_warning("periodic checkpoint of job %s: %lld s late, there are more to make than there is time for; fermata job inspect says it of each job", j->jid,
		    (long long)(j->late_ns / 1000000000));
}

static void start_periodic(struct daemon *d, struct job *j)
{
	const struct caller owner = { .uid = (uid_t)j->uid, .gid = (gid_t)j->gid };
	struct events *told = NULL;
	struct error e = {};
	json_t *body = json_pack("{s:{s:b}}", "options", "leave-running", 1);

	int r = job_lock(d, j, &e);
	const bool wanted = !r && j->every_s; /* nobody may have told us to leave it since we looked */
	if (wanted)
		plan_next(d, j);
	if (!r)
		r = job_unlock(d, j, wanted, &e);
	if (!r && wanted && operation_dump(d, &owner, j, (pid_t)j->process.pid, body, true, &told, &e) == 0)
		events_release(told);
	else if (e.code && e.code != -EBUSY)
		log_warning("periodic checkpoint of job %s: %s", j->jid, e.text);
	json_decref(body);
}

static int by_time(const void *a, const void *b)
{
	const struct job *const *x = a, *const *y = b;

	return ((*x)->next_ns > (*y)->next_ns) - ((*x)->next_ns < (*y)->next_ns);
}

/* Those that have waited longest come first. For the others there is a round when one of these is done. */
static void start_due(struct daemon *d, struct job_list *list)
{
	_cleanup_free_ struct job **due = calloc(list->count + 1, sizeof(struct job *));
	int64_t now = now_ns();
	size_t n = 0;

	for (size_t i = 0; due && i < list->count; i++)
		if (list->data[i].every_s && list->data[i].next_ns <= now && job_runs(&list->data[i]) && !busy_is(d, list->data[i].jid))
			due[n++] = &list->data[i];
	if (n)
		qsort(due, n, sizeof(*due), by_time);
	for (size_t i = 0; i < n && d->counters.periodic < periodic_most(); i++)
		start_periodic(d, due[i]);
}

/* ---- restarts ---- */

static bool has_pending(struct daemon *d, const char *jid)
{
	struct checkpoint_list list = {};
	struct error e = {};
	bool found = false;

	if (store_list_checkpoints(d->store, jid, &list, &e) == 0)
		for (size_t i = 0; i < list.count; i++)
			found |= list.data[i].state == CHECKPOINT_PENDING;
	VEC_FREE(&list);
	return found;
}

/* True: it waits for its moment. */
static bool consider_restart(struct daemon *d, struct job *j)
{
	const struct caller owner = { .uid = (uid_t)j->uid, .gid = (gid_t)j->gid };
	struct error e = {};
	struct job after;
	struct checkpoint last;
	char names[500];

	if (!j->restart || !job_has_failed(j) || j->restarts >= j->restart_limit || busy_is(d, j->jid))
		return false;
	if (has_pending(d, j->jid) || now_ns() < j->ended_ns + RESTART_NS)
		return true;
	if (checkpoint_last(d, j->jid, &last, &e))
		return false;
	int r = job_lock(d, j, &e);
	if (r)
		return false;
	const bool still = job_has_failed(j); /* somebody may have restored it since we looked */
	j->restarts += still;
	r = job_unlock(d, j, still, &e);
	if (!still)
		return false;
	log_warning("job %s ended with status %lld and is restored from %s, try %lld of %lld", j->jid, (long long)j->exit_code, last.path,
		    (long long)j->restarts, (long long)j->restart_limit);
	size_t rest = r || j->own_namespace ? 0 : members_end(d, j, names, sizeof(names));
	if (rest)
		log_warning("job %s: %zu processes of the run that failed were still there and are ended: %s", j->jid, rest, names);
	if (!r)
		r = job_restore(d, &owner, j, NULL, NULL, &after, &e);
	if (r)
		log_warning("job %s: %s", j->jid, e.text);
	d->counters.restarts++;
	/* One that can't be restored is tried again, up to the limit. */
	int64_t code = MAX(j->exit_code, 1);
	if (r && job_lock(d, j, &e) == 0) {
		snprintf(j->ended, sizeof(j->ended), "exited");
		j->state = JOB_HALTED;
		j->exit_code = code;
		j->ended_ns = now_ns();
		job_unlock(d, j, true, &e);
	}
	return true;
}

/* ---- the rounds ---- */

/* `old` are those of the last round, in the same order of jobs: the search begins behind the one that was found last. */
static int watch_again(struct watches *old, size_t *at, const struct identity *who)
{
	for (size_t i = 0; i < old->count; i++) {
		size_t k = (*at + i) % old->count;
		if (old->who[k].pid != who->pid || old->who[k].start != who->start)
			continue;
		*at = k + 1;
		return TAKE_FD(old->polls[k + 1].fd);
	}
	return -EBADF;
}

static void watch(struct watches *w, struct watches *old, size_t *at, const struct job *j)
{
	const struct identity *who = &j->process;
	int fd = w->count < WATCHED_MAX ? watch_again(old, at, who) : -EBADF;

	if (fd < 0 && w->count < WATCHED_MAX)
		fd = identity_open(who);
	if (fd < 0)
		return;
	w->who[w->count] = *who;
	w->polls[++w->count] = (struct pollfd){ .fd = fd, .events = POLLIN };
}

static void watches_end(struct watches *w)
{
	for (size_t i = 1; i <= w->count; i++)
		if (w->polls[i].fd >= 0)
			close(w->polls[i].fd);
	w->count = 0;
}

static long long milliseconds_until(int64_t ns)
{
	return MAX((ns - now_ns()) / 1000000 + 1, 0);
}

/* Looks at all; gives how long the next round has time. */
static long long round_of_jobs(struct daemon *d, struct watches *w, struct watches *old)
{
	struct job_list list = {};
	struct error e = {};
	long long pause = IDLE_MS;
	size_t pending, at = 0;
	int r = checkpoints_recover(d, &pending, &e);

	gpu_keeper_tend(d);
	pause = MIN(pause, prune_tend(d));
	if (!r)
		r = store_list_jobs(d->store, &list, &e);
	for (size_t i = 0; !r && i < list.count; i++) {
		struct job *j = &list.data[i];
		bool later;
		if (busy_is(d, j->jid) || job_refresh_or_later(d, j, &later, &e))
			continue;
		if (later)
			pause = MIN(pause, FULL_MS);
		/* One whose first process has gone: its supervisor is about to say so. */
		if (j->state == JOB_UPCOMING || j->state == JOB_STARTING || (j->state == JOB_RUNNING && !identity_alive(&j->process)))
			pause = MIN(pause, SOON_MS);
		if (consider_restart(d, j))
			pause = MIN(pause, SOON_MS);
		if (j->state == JOB_RUNNING)
			watch(w, old, &at, j);
	}
	if (!r)
		start_due(d, &list);
	/* What is due still waits for one that is under way, which will wake us. */
	for (size_t i = 0; !r && i < list.count; i++)
		if (list.data[i].every_s && list.data[i].state == JOB_RUNNING && list.data[i].next_ns > now_ns())
			pause = MIN(pause, milliseconds_until(list.data[i].next_ns));
	VEC_FREE(&list);
	if (pending) /* by workers of a daemon before us */
		pause = MIN(pause, SOON_MS);
	if (r)
		log_warning("%s", e.text);
	return r ? 1000 : pause;
}

static bool watches_make(struct watches *w)
{
	w->polls = calloc(WATCHED_MAX + 1, sizeof(*w->polls));
	w->who = calloc(WATCHED_MAX, sizeof(*w->who));
	return w->polls && w->who;
}

static void *run(void *argument)
{
	struct daemon *d = argument;
	struct watches two[2] = {};
	bool made = watches_make(&two[0]) && watches_make(&two[1]);
	uint64_t drained;

	for (unsigned n = 0; made && !d->stopping; n++) {
		struct watches *w = &two[n % 2], *old = &two[(n + 1) % 2];
		w->polls[0] = (struct pollfd){ .fd = d->wake, .events = POLLIN };
		long long pause = round_of_jobs(d, w, old);
		watches_end(old);
		usleep(REST_MS * 1000);
		poll(w->polls, w->count + 1, (int)MAX(pause - REST_MS, 0));
		if (w->polls[0].revents && read(d->wake, &drained, sizeof(drained)) < 0)
			log_debug("nothing to read");
	}
	for (size_t i = 0; i < ARRAY_SIZE(two); i++) {
		watches_end(&two[i]);
		free(two[i].polls);
		free(two[i].who);
	}
	return NULL;
}

int schedule_start(struct daemon *d, struct error *e)
{
	int r = pthread_create(&thread, NULL, run, d);

	return r ? error_errno(e, -r, "cannot start a thread") : 0;
}

void schedule_stop(struct daemon *d)
{
	d->stopping = true;
	daemon_wake(d);
	pthread_join(thread, NULL);
}
