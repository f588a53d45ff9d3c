/*
 * The database of jobs and checkpoints: SQLite in WAL mode, one file, one connection that threads share under a lock. What changes is
 * written before it is done, so that a daemon that was killed finds what it had begun.
 *
 * A damaged database is moved aside at the start, and a new one filled from the notes beside it (notes.h).
 * Texts in the structs are of fixed size: longer ones are refused where they come in.
 */
#pragma once

#include "base/error.h"
#include "daemon/identity.h"

#define JID_MAX 100
#define STORE_PATH_MAX 1024

enum job_state { JOB_STARTING, JOB_RUNNING, JOB_HALTED, JOB_UPCOMING };

struct job {
	char jid[JID_MAX], type[16];
	int64_t state, uid, gid;
	struct identity process, supervisor; /* supervisor.pid 0: managed, not started by us */
	int64_t own_namespace; /* it runs in a pid namespace made for it */
	int64_t attachable;
	int64_t exit_code;     /* -1: none is known. 128 and the signal's number when one ended it */
	char ended[24];	       /* why it halted: "exited", "dumped", "killed", "lost" */
	char log[STORE_PATH_MAX], command[1024];
	int64_t created_ns, ended_ns;
	int64_t every_s, keep, next_ns; /* periodic checkpoints; 0: none */
	int64_t restart, restart_limit, restarts;
	int64_t late_ns, missed; /* how late the last periodic checkpoint was begun; how many were left out because an earlier one was late */
};

enum checkpoint_state { CHECKPOINT_PENDING, CHECKPOINT_WHOLE, CHECKPOINT_LEAVING }; /* numbers that stand in the database */

struct checkpoint {
	char id[24], jid[JID_MAX], path[STORE_PATH_MAX], type[16];
	int64_t state, uid, pid, time_ns, size, attachable;
	struct identity worker; /* who writes it, while it is pending */
};

struct job_list {
	struct job *data;
	size_t count, capacity;
};
struct checkpoint_list {
	struct checkpoint *data;
	size_t count, capacity;
};

struct store;
int store_open(const char *path, struct store **ret, struct error *e);
void store_close(struct store *s);
/* For a process that ends while threads may still ask for something: the database is closed, and they wait for ever. */
void store_end(struct store *s);

int store_put_job(struct store *s, const struct job *j, bool is_new, struct error *e); /* -EEXIST when new and taken */
int store_get_job(struct store *s, const char *jid, struct job *ret, struct error *e); /* -ENOENT */
int store_delete_job(struct store *s, const char *jid, struct error *e);
int store_list_jobs(struct store *s, struct job_list *ret, struct error *e);

int store_put_checkpoint(struct store *s, const struct checkpoint *c, bool is_new, struct error *e);
int store_get_checkpoint(struct store *s, const char *id, struct checkpoint *ret, struct error *e);
int store_delete_checkpoint(struct store *s, const char *id, struct error *e);
/* Those that are being written, or removed. */
int store_list_unfinished(struct store *s, struct checkpoint_list *ret, struct error *e);
/* The newest first; `jid` NULL: all. */
int store_list_checkpoints(struct store *s, const char *jid, struct checkpoint_list *ret, struct error *e);
