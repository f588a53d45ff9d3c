/* See store.h. All statements are made from the tables' columns (notes.h). */
#include "daemon/store.h"

#include "base/log.h"
#include "daemon/notes.h"

#include <pthread.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <time.h>

#define BUSY_MS 5000

/* Statements that are ready, and free to be used, each with its text. There are as many as the code has. */
struct statement {
	char *sql;
	sqlite3_stmt *ready;
};

struct store {
	sqlite3 *db;
	VEC(struct statement) statements;
	int notes; /* the folder of notes */
	pthread_mutex_t lock;
};

/* What brings the schema from version n to n + 1. Rows are only added. */
static const char *const migrations[] = {
	"CREATE TABLE jobs (jid TEXT PRIMARY KEY, type TEXT NOT NULL, state INTEGER, uid INTEGER, gid INTEGER,"
	" process_pid INTEGER, process_start INTEGER, process_boot TEXT, supervisor_pid INTEGER, supervisor_start INTEGER, supervisor_boot TEXT,"
	" own_namespace INTEGER, attachable INTEGER, exit_code INTEGER, ended TEXT, log TEXT, command TEXT, created_ns INTEGER, ended_ns INTEGER,"
	" every_s INTEGER, keep INTEGER, next_ns INTEGER, restart INTEGER, restart_limit INTEGER, restarts INTEGER) WITHOUT ROWID;"
	"CREATE TABLE checkpoints (id TEXT PRIMARY KEY, jid TEXT, path TEXT NOT NULL, type TEXT, state INTEGER, uid INTEGER, pid INTEGER,"
	" time_ns INTEGER, size INTEGER, attachable INTEGER, worker_pid INTEGER, worker_start INTEGER, worker_boot TEXT) WITHOUT ROWID;",
	"CREATE INDEX checkpoints_of_jobs ON checkpoints (jid, time_ns);",
	"ALTER TABLE jobs ADD COLUMN late_ns INTEGER DEFAULT 0; ALTER TABLE jobs ADD COLUMN missed INTEGER DEFAULT 0;",
};

static int to_errno(int code)
{
	switch (code & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EBUSY;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_CONSTRAINT:
		return -EEXIST;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EBADMSG;
	case SQLITE_READONLY:
		return -EROFS;
	default:
		return -EIO;
	}
}

static int failed(struct store *s, int code, const char *what, struct error *e)
{
	int r = to_errno(code);

	return error_set(e, r, "cannot %s the database: %s%s", what, sqlite3_errmsg(s->db),
			 r == -EBUSY ? "; another program holds it, try again" : r == -ENOSPC ? "; make room" : "");
}

static int migrate(struct store *s, struct error *e)
{
	sqlite3_stmt *q = NULL;
	int version = 0, code = sqlite3_prepare_v2(s->db, "PRAGMA user_version", -1, &q, NULL);

	if (code == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW)
		version = sqlite3_column_int(q, 0);
	sqlite3_finalize(q);
	if (code)
		return failed(s, code, "read", e);
	if (version > (int)ARRAY_SIZE(migrations))
		return error_set(e, -EPROTO, "the database has version %d, made by a newer fermata; this one knows %zu", version, ARRAY_SIZE(migrations));
	for (; version < (int)ARRAY_SIZE(migrations); version++) {
		_cleanup_free_ char *sql = NULL;
		if (asprintf(&sql, "BEGIN; %s PRAGMA user_version = %d; COMMIT;", migrations[version], version + 1) < 0)
			return error_set(e, -ENOMEM, "out of memory");
		code = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
		if (code) {
			failed(s, code, "change the form of", e);
			sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
			return e->code;
		}
	}
	return 0;
}

static int is_sound(struct store *s, struct error *e)
{
	sqlite3_stmt *q = NULL;
	int code = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &q, NULL);

	if (!code && (code = sqlite3_step(q)) == SQLITE_ROW)
		code = strcmp((const char *)sqlite3_column_text(q, 0), "ok") ? SQLITE_CORRUPT : SQLITE_OK;
	int r = code ? failed(s, code, "read", e) : 0;
	sqlite3_finalize(q);
	return r;
}

static int open_once(const char *path, struct store *s, struct error *e)
{
	int code = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, NULL);

	if (code)
		return error_set(e, to_errno(code), "cannot open the database %s: %s", path, s->db ? sqlite3_errmsg(s->db) : "out of memory");
	sqlite3_extended_result_codes(s->db, 1);
	sqlite3_busy_timeout(s->db, BUSY_MS);
	int r = is_sound(s, e);
	if (!r && (code = sqlite3_exec(s->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;", NULL, NULL, NULL)))
		r = failed(s, code, "use", e);
	return r ? r : migrate(s, e);
}

static void forget_statements(struct store *s)
{
	VEC_FOREACH(&s->statements, one) {
		sqlite3_finalize(one->ready);
		free(one->sql);
	}
	VEC_FREE(&s->statements);
}

/* With the lock held. To be given back by `done`. */
static int statement(struct store *s, const char *sql, sqlite3_stmt **ret)
{
	VEC_FOREACH(&s->statements, one)
		if (!strcmp(one->sql, sql)) {
			*ret = one->ready;
			return SQLITE_OK;
		}
	int code = sqlite3_prepare_v3(s->db, sql, -1, SQLITE_PREPARE_PERSISTENT, ret, NULL);
	char *copy = code ? NULL : strdup(sql);
	struct statement *slot = copy ? VEC_PUSH(&s->statements) : NULL;
	if (!slot) {
		free(copy);
		sqlite3_finalize(*ret);
		return code ? code : SQLITE_NOMEM;
	}
	*slot = (struct statement){ copy, *ret };
	return SQLITE_OK;
}

/* Ends what it was doing, which may be a read that would keep the journal from being emptied. */
static void done(sqlite3_stmt *q)
{
	sqlite3_reset(q);
	sqlite3_clear_bindings(q);
}

/* With its journal, so that nothing of it is taken for the new one's. */
static int move_aside(const char *path, struct error *e)
{
	static const char *const endings[] = { "", "-wal", "-shm" };
	long long now = (long long)time(NULL);

	for (size_t i = 0; i < ARRAY_SIZE(endings); i++) {
		char from[STORE_PATH_MAX + 8], to[STORE_PATH_MAX + 64];
		snprintf(from, sizeof(from), "%s%s", path, endings[i]);
		snprintf(to, sizeof(to), "%s.damaged-%lld%s", path, now, endings[i]);
		if (rename(from, to) < 0 && errno != ENOENT)
			return error_errno(e, -errno, "cannot move the damaged database %s aside", from);
	}
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	forget_statements(s);
	sqlite3_close_v2(s->db);
	if (s->notes >= 0)
		close(s->notes);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

void store_end(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	forget_statements(s);
	sqlite3_close_v2(TAKE_PTR(s->db));
}

static void bind_row(sqlite3_stmt *q, const struct table *t, const void *row)
{
	for (size_t i = 0; i < t->n_columns; i++) {
		const char *at = (const char *)row + t->columns[i].offset;
		if (t->columns[i].size)
			sqlite3_bind_text(q, (int)i + 1, at, -1, SQLITE_STATIC);
		else
			sqlite3_bind_int64(q, (int)i + 1, *(const int64_t *)at);
	}
}

static void read_row(sqlite3_stmt *q, const struct table *t, void *row)
{
	for (size_t i = 0; i < t->n_columns; i++) {
		char *at = (char *)row + t->columns[i].offset;
		const char *text = (const char *)sqlite3_column_text(q, (int)i);
		if (t->columns[i].size)
			snprintf(at, t->columns[i].size, "%s", text ? text : "");
		else
			*(int64_t *)at = sqlite3_column_int64(q, (int)i);
	}
}

static int run_statement(struct store *s, sqlite3_stmt *q, struct error *e)
{
	int code = sqlite3_step(q);
	int r = code == SQLITE_DONE || code == SQLITE_ROW ? 0 : failed(s, code, "write to", e);

	done(q);
	return r;
}

static int put(struct store *s, const struct table *t, const void *row, bool is_new, struct error *e)
{
	_cleanup_free_ char *sql = NULL;
	size_t size = 0;
	FILE *text = open_memstream(&sql, &size);
	sqlite3_stmt *q;

	if (!text)
		return error_set(e, -ENOMEM, "out of memory");
	fprintf(text, is_new ? "INSERT INTO %s VALUES (" : "UPDATE %s SET ", t->name);
	for (size_t i = 0; i < t->n_columns; i++)
		if (is_new)
			fprintf(text, "%s?%zu", i ? ", " : "", i + 1);
		else if (i)
			fprintf(text, "%s%s = ?%zu", i > 1 ? ", " : "", t->columns[i].name, i + 1);
	if (is_new)
		fputc(')', text);
	else
		fprintf(text, " WHERE %s = ?1", t->columns[0].name);
	fclose(text);
	pthread_mutex_lock(&s->lock);
	int code = statement(s, sql, &q), r;
	if (code) {
		r = failed(s, code, "write to", e);
	} else {
		bind_row(q, t, row);
		r = run_statement(s, q, e);
	}
	if (!r)
		note_write(s->notes, t, row);
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* Calls `take` with each row, made of columns in the order of the table. */
static int query(struct store *s, const struct table *t, const char *where, const char *key, void *(*take)(void *list), void *list,
		 struct error *e)
{
	_cleanup_free_ char *sql = NULL;
	size_t size = 0;
	FILE *text = open_memstream(&sql, &size);
	sqlite3_stmt *q = NULL;
	int r = 0;

	if (!text)
		return error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < t->n_columns; i++)
		fprintf(text, "%s%s", i ? ", " : "SELECT ", t->columns[i].name);
	fprintf(text, " FROM %s %s", t->name, where);
	fclose(text);
	pthread_mutex_lock(&s->lock);
	int code = statement(s, sql, &q);
	if (!code && key)
		sqlite3_bind_text(q, 1, key, -1, SQLITE_STATIC);
	while (!code && !r && (code = sqlite3_step(q)) == SQLITE_ROW) {
		void *row = take(list);
		code = 0;
		if (row)
			read_row(q, t, row);
		else
			r = error_set(e, -ENOMEM, "out of memory");
	}
	if (!r && code && code != SQLITE_DONE)
		r = failed(s, code, "read", e);
	if (q)
		done(q);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int delete_row(struct store *s, const struct table *t, const char *key, struct error *e)
{
	char sql[100];
	sqlite3_stmt *q;

	snprintf(sql, sizeof(sql), "DELETE FROM %s WHERE %s = ?1", t->name, t->columns[0].name);
	pthread_mutex_lock(&s->lock);
	int code = statement(s, sql, &q), r;
	if (code) {
		r = failed(s, code, "write to", e);
	} else {
		sqlite3_bind_text(q, 1, key, -1, SQLITE_STATIC);
		r = run_statement(s, q, e);
	}
	if (!r)
		note_remove(s->notes, t, key);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static void *take_job(void *list)
{
	return VEC_PUSH((struct job_list *)list);
}

static void *take_checkpoint(void *list)
{
	return VEC_PUSH((struct checkpoint_list *)list);
}

int store_put_job(struct store *s, const struct job *j, bool is_new, struct error *e)
{
	int r = put(s, &table_jobs, j, is_new, e);

	return r == -EEXIST ? error_set(e, r, "there is a job %s already; choose another name", j->jid) : r;
}

int store_get_job(struct store *s, const char *jid, struct job *ret, struct error *e)
{
	struct job_list list = {};
	int r = query(s, &table_jobs, "WHERE jid = ?1", jid, take_job, &list, e);

	if (!r && !list.count)
		r = error_set(e, -ENOENT, "there is no job %.*s; fermata job list shows them", JID_MAX, jid);
	if (!r)
		*ret = list.data[0];
	VEC_FREE(&list);
	return r;
}

int store_delete_job(struct store *s, const char *jid, struct error *e)
{
	return delete_row(s, &table_jobs, jid, e);
}

int store_list_jobs(struct store *s, struct job_list *ret, struct error *e)
{
	return query(s, &table_jobs, "ORDER BY created_ns DESC", NULL, take_job, ret, e);
}

int store_put_checkpoint(struct store *s, const struct checkpoint *c, bool is_new, struct error *e)
{
	return put(s, &table_checkpoints, c, is_new, e);
}

int store_get_checkpoint(struct store *s, const char *id, struct checkpoint *ret, struct error *e)
{
	struct checkpoint_list list = {};
	int r = query(s, &table_checkpoints, "WHERE id = ?1", id, take_checkpoint, &list, e);

	if (!r && !list.count)
		r = error_set(e, -ENOENT, "there is no checkpoint %.40s; fermata checkpoints shows them", id);
	if (!r)
		*ret = list.data[0];
	VEC_FREE(&list);
	return r;
}

int store_delete_checkpoint(struct store *s, const char *id, struct error *e)
{
	return delete_row(s, &table_checkpoints, id, e);
}

int store_list_unfinished(struct store *s, struct checkpoint_list *ret, struct error *e)
{
	return query(s, &table_checkpoints, "WHERE state <> 1", NULL, take_checkpoint, ret, e);
}

int store_list_checkpoints(struct store *s, const char *jid, struct checkpoint_list *ret, struct error *e)
{
	return query(s, &table_checkpoints, jid ? "WHERE jid = ?1 ORDER BY time_ns DESC" : "ORDER BY time_ns DESC", jid, take_checkpoint, ret, e);
}

/* ---- open ---- */

static int take_note(void *data, const struct table *t, const void *row)
{
	struct error e = {};
	int r = put(data, t, row, true, &e);

	if (r)
		log_warning("%s", e.text);
	return r == -EEXIST ? 0 : r;
}

/* A fresh database is filled from the notes; otherwise they are made to say what it says. */
static int agree_with_notes(struct store *s, bool fresh, struct error *e)
{
	struct job_list jobs = {};
	struct checkpoint_list checkpoints = {};
	int r = fresh ? notes_read(s->notes, take_note, s) : 0;

	if (r)
		return error_errno(e, r, "cannot read the notes beside the database");
	r = store_list_jobs(s, &jobs, e);
	if (!r)
		r = store_list_checkpoints(s, NULL, &checkpoints, e);
	if (!r && !fresh)
		notes_forget(s->notes);
	for (size_t i = 0; !r && !fresh && i < jobs.count; i++)
		note_write(s->notes, &table_jobs, &jobs.data[i]);
	for (size_t i = 0; !r && !fresh && i < checkpoints.count; i++)
		note_write(s->notes, &table_checkpoints, &checkpoints.data[i]);
	if (!r && fresh && jobs.count + checkpoints.count)
		log_warning("the database is new and was filled from the notes beside it: %zu jobs, %zu checkpoints", jobs.count, checkpoints.count);
	VEC_FREE(&jobs);
	VEC_FREE(&checkpoints);
	return r;
}

int store_open(const char *path, struct store **ret, struct error *e)
{
	struct store *s = calloc(1, sizeof(*s));
	mode_t before = umask(0077);
	bool fresh = access(path, F_OK) < 0;

	if (!s)
		return error_set(e, -ENOMEM, "out of memory");
	pthread_mutex_init(&s->lock, NULL);
	s->notes = notes_open(path);
	int r = s->notes < 0 ? error_errno(e, s->notes, "cannot make the folder of notes beside %s", path) : open_once(path, s, e);
	if (r == -EBADMSG) {
		forget_statements(s);
		sqlite3_close_v2(TAKE_PTR(s->db));
		log_warning("%s; it is moved aside", e->text);
		fresh = true;
		r = move_aside(path, e);
		if (!r)
			r = open_once(path, s, e);
	}
	if (!r)
		r = agree_with_notes(s, fresh, e);
	umask(before);
	if (r)
		store_close(s);
	else
		*ret = s;
	return r;
}
