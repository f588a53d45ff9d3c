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
#define RESTART_NS 1000000000LL /* between an end and the restore: one that fails at once shall not spin */

static pthread_t thread;

static void start_periodic(struct daemon *d, struct job *j)
{
	const struct caller owner = { .uid = (uid_t)j->uid, .gid = (gid_t)j->gid };
	struct operation *o = NULL;
	struct error e = {};
	json_t *body = json_pack("{s:{s:b}}", "options", "leave-running", 1);

	int r = job_lock(d, j, &e);
	/* The next is counted from now: a machine that slept, or a slow disk, is not to be caught up with. */
	if (!r) {
		j->next_ns = now_ns() + j->every_s * 1000000000LL;
		r = job_unlock(d, j, true, &e);
	}
	if (!r && operation_dump(d, &owner, j, (pid_t)j->process.pid, body, true, &o, &e) == 0)
		operation_release(o);
	else if (e.code != -EBUSY)
		log_warning("periodic checkpoint of job %s: %s", j->jid, e.text);
	json_decref(body);
}

static bool is_failure(const struct job *j)
{
	return j->state == JOB_HALTED && ((!strcmp(j->ended, "exited") && j->exit_code > 0) || !strcmp(j->ended, "lost"));
}

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

	if (!j->restart || !is_failure(j) || j->restarts >= j->restart_limit || busy_is(d, j->jid))
		return false;
	if (has_pending(d, j->jid) || now_ns() < j->ended_ns + RESTART_NS)
		return true;
	if (checkpoint_last(d, j->jid, &last, &e))
		return false;
	int r = job_lock(d, j, &e);
	if (r)
		return false;
	j->restarts++;
	r = job_unlock(d, j, true, &e);
	log_warning("job %s ended with status %lld and is restored from %s, try %lld of %lld", j->jid, (long long)j->exit_code, last.path,
		    (long long)j->restarts, (long long)j->restart_limit);
	if (!r)
		r = job_restore(d, &owner, j, NULL, &after, &e);
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

static int watch(struct pollfd *polls, size_t *count, const struct job *j)
{
	int fd = *count < WATCHED_MAX ? identity_open(j->supervisor.pid ? &j->supervisor : &j->process) : -1;

	if (fd >= 0)
		polls[(*count)++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	return fd;
}

static long long milliseconds_until(int64_t ns)
{
	return MAX((ns - now_ns()) / 1000000 + 1, 0);
}

/* Looks at all; gives how long the next round has time. */
static long long round_of_jobs(struct daemon *d, struct pollfd *polls, size_t *count)
{
	struct job_list list = {};
	struct error e = {};
	long long pause = IDLE_MS;
	size_t pending;
	int r = checkpoints_recover(d, &pending, &e);

	gpu_keeper_tend(d);
	if (!r)
		r = store_list_jobs(d->store, &list, &e);
	for (size_t i = 0; !r && i < list.count; i++) {
		struct job *j = &list.data[i];
		if (busy_is(d, j->jid) || job_refresh(d, j, &e))
			continue;
		if (j->state == JOB_UPCOMING || j->state == JOB_STARTING)
			pause = MIN(pause, SOON_MS);
		if (consider_restart(d, j))
			pause = MIN(pause, SOON_MS);
		if (j->every_s && job_runs(j) && j->next_ns <= now_ns())
			start_periodic(d, j);
		if (j->every_s && job_runs(j))
			pause = MIN(pause, milliseconds_until(j->next_ns));
		if (j->state == JOB_RUNNING)
			watch(polls, count, j);
	}
	VEC_FREE(&list);
	if (pending) /* by workers of a daemon before us */
		pause = MIN(pause, SOON_MS);
	if (r)
		log_warning("%s", e.text);
	return r ? 1000 : pause;
}

static void *run(void *argument)
{
	struct daemon *d = argument;
	struct pollfd *polls = calloc(WATCHED_MAX + 1, sizeof(*polls));
	uint64_t drained;

	while (polls && !d->stopping) {
		size_t count = 1;
		polls[0] = (struct pollfd){ .fd = d->wake, .events = POLLIN };
		long long pause = round_of_jobs(d, polls, &count);
		poll(polls, count, (int)pause);
		if (polls[0].revents && read(d->wake, &drained, sizeof(drained)) < 0)
			log_debug("nothing to read");
		for (size_t i = 1; i < count; i++)
			close(polls[i].fd);
	}
	free(polls);
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
