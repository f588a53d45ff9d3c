/*
 * What the daemon's files share. Nothing here is known only in memory but who is busy right now: all else is in the store, in the jobs'
 * folders, and in /proc, so that a daemon that is killed loses nothing.
 */
#pragma once

#include "daemon/events.h"
#include "daemon/settings.h"
#include "daemon/store.h"
#include "daemon/vocabulary.h"

#include <pthread.h>
#include <stdatomic.h>

struct caller {
	uid_t uid;
	gid_t gid;
	gid_t groups[256];
	size_t n_groups;
};

struct counters {
	atomic_ulong requests, refused, dumps, dumps_failed, restores, restores_failed, started, restarts, checkpoints_removed, bytes_written;
	atomic_ulong dump_us;
	atomic_int operations, periodic, attached; /* periodic: of the operations */
};

struct busy {
	char key[JID_MAX + 16];
	const char *what;
	bool yields;
};

/* Who has connections open and is not root. */
struct visitor {
	uid_t uid;
	unsigned connections;
};

/* Stores that are to be pruned: prune.c. */
struct wanted_prune {
	char dir[STORE_PATH_MAX];
};
struct pruner {
	VEC(struct wanted_prune) wanted;
	pid_t pid; /* of the helper, or 0 */
	int64_t started_ns, next_ns;
};

struct daemon {
	struct settings settings;
	const struct vocabulary *vocabulary;
	struct store *store;
	char state_dir[STORE_PATH_MAX], jobs_dir[STORE_PATH_MAX], private_dir[STORE_PATH_MAX];
	pthread_mutex_t lock; /* of busy, visitors and pruner */
	pthread_cond_t less_busy;
	pthread_mutex_t jobs_lock; /* of rows that are read, changed and written; recursive */
	VEC(struct busy) busy;
	VEC(struct visitor) visitors;
	struct pruner pruner;
	struct counters counters;
	int wake;	/* eventfd: the schedule has something new to look at */
	atomic_bool stopping;
	int64_t late_told_ns; /* the schedule's */
	int64_t started_ns;
};

int64_t now_ns(void); /* CLOCK_REALTIME */

/* A checkpoint was removed: if it was in a store, that is pruned some time. */
void prune_want(struct daemon *d, const char *path);
/* The schedule's part; gives the milliseconds until it is to be called again. */
long long prune_tend(struct daemon *d);

/* Only one at a time dumps, restores or deletes a job or process. -EBUSY says what the other does. */
int busy_begin(struct daemon *d, const char *key, const char *what, struct error *e);
/* For what nobody has asked for just now, a periodic checkpoint: busy_begin waits until it is done. */
int busy_begin_aside(struct daemon *d, const char *key, const char *what, struct error *e);
void busy_end(struct daemon *d, const char *key);
bool busy_is(struct daemon *d, const char *key);
void daemon_wake(struct daemon *d);
/* One that nobody waits for: of work that goes on when the request is answered. */
int thread_begin(void *(*run)(void *argument), void *argument, struct error *e);

/* A row is changed between these two: the first reads it again. -ENOENT: it has gone meanwhile. */
int job_lock(struct daemon *d, struct job *j, struct error *e);
int job_unlock(struct daemon *d, const struct job *j, bool write, struct error *e);

/* ---- jobs.c ---- */

/* After the store was opened: jobs that run are found again, what is half-written is removed. */
int jobs_recover(struct daemon *d, struct error *e);
/* The job, looked at afresh, when the caller may reach it. */
int job_get(struct daemon *d, const struct caller *c, const char *jid, struct job *ret, struct error *e);
int job_list(struct daemon *d, const struct caller *c, struct job_list *ret, struct error *e);
/* Compares a job with its folder and /proc, and writes what is new. One that runs as its row says, or has ended, is left as it was given. What a full
 * disk has no room for is not lost: the next one finds it again. */
int job_refresh(struct daemon *d, struct job *j, struct error *e);
int job_refresh_or_later(struct daemon *d, struct job *j, bool *ret_later, struct error *e); /* true: there was no room */
const char *job_status(const struct job *j);
/* How late its periodic checkpoints are: the one that is due, or else the last one. */
int64_t job_late_ns(const struct job *j);
bool job_runs(const struct job *j);
bool job_has_failed(const struct job *j); /* by itself, and with a status */
int job_check_name(const char *jid, struct error *e);

int job_run(struct daemon *d, const struct caller *c, const json_t *body, struct job *ret, struct error *e);
int job_manage(struct daemon *d, const struct caller *c, const json_t *body, struct job *ret, struct error *e);
int job_set(struct daemon *d, struct job *j, const json_t *body, struct error *e);
int job_kill(struct daemon *d, struct job *j, int signal, struct error *e);
int job_delete(struct daemon *d, struct job *j, bool with_checkpoints, struct error *e);

/* Until it has ended and its supervisor has waited for all that it can; some seconds at most. */
void job_wait_end(struct daemon *d, struct job *j);

/* ---- members.c ---- */

/* What belongs to the job, of this run or an earlier one, and is not below its first process (any more). The caller frees data. */
int members_list_strays(struct daemon *d, const struct job *j, struct tree *ret);
/* -EPERM, as tree_require_owner: all of the job must be the user's, also what has left its first process. */
int members_require_owner(struct daemon *d, const struct job *j, uid_t uid, struct error *e);
void members_describe(const struct tree *t, char *to, size_t size); /* "4127 (sleep), 4128 (sh)" */
/* Before the job gets another supervisor: what the present one still looks after stays the job's. */
void members_note_supervisor(struct daemon *d, const struct job *j);
/* Ends all that a run which has ended has left: it has ids that a restore needs. Waits for them; gives how many there were, and which. */
size_t members_end(struct daemon *d, const struct job *j, char *names, size_t size);

/* ---- restores.c ---- */

/* `j` NULL: of a path, as a new job. body: path, checkpoint, as, attachable, raw, rows, columns, log, options. `told` may be NULL. */
int job_restore(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct events *told, struct job *ret,
		struct error *e);
/* The same in a thread; the last event is {"event": "done", "job": …}. */
int job_restore_begin(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct events **ret, struct error *e);
/* Starts the job's supervisor with `spec` and waits for its answer. The job stands in the store already. */
int supervisor_begin(struct daemon *d, struct job *j, json_t *spec, struct events *told, struct error *e);
/* Options of a request for `verb`: what it does not have, and what a user who is not root may not give, is refused. */
int options_check(const struct daemon *d, const struct caller *c, const char *verb, const json_t *options, struct error *e);
/* The same as words for the command line: a list of strings. */
int options_words(const json_t *options, json_t *ret, struct error *e);

/* ---- checkpoints.c ---- */

#define CHECKPOINT_KEY_MAX 64
/* What busy_begin knows it by. */
void checkpoint_key(const struct checkpoint *c, char ret[CHECKPOINT_KEY_MAX]);

bool checkpoint_find(const char *path, char ret[STORE_PATH_MAX]); /* `path` with whichever ending it got */
bool checkpoint_is_whole(const char *path);
uint64_t checkpoint_size(const char *path);
/* Written down before it is begun. */
int checkpoint_remove(struct daemon *d, const struct checkpoint *c, struct error *e);
int checkpoint_last(struct daemon *d, const char *jid, struct checkpoint *ret, struct error *e); /* -ENOENT */
void checkpoint_new_id(char ret[24]);
/* Removes the oldest periodic ones beyond `keep`. */
void checkpoint_retain(struct daemon *d, const char *jid, int64_t keep);
/* Pending ones whose worker has gone: whole ones are kept, others removed. How many still have one, of a daemon before this, must be looked at
 * again. */
int checkpoints_recover(struct daemon *d, size_t *ret_pending, struct error *e);
/* After a start: those whose removal was begun. */
void checkpoints_remove_rest(struct daemon *d);
int remove_tree(const char *path);

/* ---- schedule.c ---- */

int schedule_start(struct daemon *d, struct error *e);
void schedule_stop(struct daemon *d);

/* ---- metrics.c ---- */

char *metrics_text(struct daemon *d);

/* ---- server.c ---- */

/* Until it is told to stop by SIGTERM or SIGINT. Gives an exit status. */
int daemon_run(const struct settings *settings, const struct vocabulary *vocabulary);
