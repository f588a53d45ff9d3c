/* See operation.h. */
#include "daemon/operation.h"

#include "base/log.h"
#include "base/store_path.h"
#include "daemon/fields.h"
#include "daemon/helper.h"
#include "proc/freezer.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <limits.h>
#include <semaphore.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#define CHAIN_MAX 20 /* periodic checkpoints that hang together */
/* A tree with less memory is saved whole and in one stop when its checkpoint is periodic: to watch its memory, or to copy it while it runs, takes
 * twice the processor time, and stops it as long. From some MiB on it would stand still for longer. */
#define SMALL_BYTES (2UL << 20)
#define LINE_BYTES 4096

struct operation {
	struct daemon *daemon;
	struct events *events;
	struct checkpoint checkpoint;
	char key[JID_MAX + 16], jid[JID_MAX];
	bool leaves_running, was_frozen, periodic;
	bool by_setting; /* it leaves it running since the setting says so */
	int64_t keep;
	json_t *words; /* the helper's command line */
	int64_t start_ns;
};

static sem_t places;

void operations_begin(struct daemon *d)
{
	sem_init(&places, 0, OPERATIONS_MAX);
}

static void operation_free(struct operation *o)
{
	events_release(o->events);
	json_decref(o->words);
	free(o);
}

/* ---- the helper ---- */

struct outcome {
	char path[STORE_PATH_MAX];
	struct error error;
};

static void take_line(struct operation *o, char *line, struct outcome *out)
{
	const char *path = !strncmp(line, "Dumped to ", 10) ? line + 10 : NULL;

	if (path && strlen(path) < sizeof(out->path))
		memcpy(out->path, path, strlen(path) + 1);
	else if (!strncmp(line, "Error: ", 7))
		error_set(&out->error, -EIO, "%s", line + 7);
	else
		events_line(o->events, line);
}

static void read_output(struct operation *o, int fd, struct outcome *out)
{
	FILE *f = fdopen(fd, "r");
	char line[LINE_BYTES];

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		take_line(o, line, out);
	}
	if (f)
		fclose(f);
	else
		close(fd);
}

/* It waits for a byte (--gate) until it stands written down who writes this checkpoint: where we are killed before that, nobody does. */
static int open_gate(struct operation *o, pid_t pid, int gate, struct error *e)
{
	int r = identity_of(pid, &o->checkpoint.worker);

	r = r ? error_errno(e, r, "the dump has ended before it began") : store_put_checkpoint(o->daemon->store, &o->checkpoint, false, e);
	/* One that has ended already says why by itself. */
	if (!r && write(gate, "", 1) < 0)
		log_debug("dump of process %lld: %s", (long long)o->checkpoint.pid, strerror(errno));
	return r;
}

/* Starts it, writes down who it is, and waits. */
static int run_helper(struct operation *o, struct outcome *out, struct error *e)
{
	size_t n = json_array_size(o->words);
	_cleanup_free_ char **argv = calloc(n + 1, sizeof(*argv));
	_cleanup_close_ int in = -1, gate = -1, told = -1;
	int ends[2], gates[2], status = 0;
	pid_t pid;

	if (!argv || pipe2(gates, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	in = gates[0];
	gate = gates[1];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	told = ends[1];
	for (size_t i = 0; i < n; i++)
		argv[i] = (char *)json_string_value(json_array_get(o->words, i));
	int r = daemon_helper_start(argv, in, told, told, &pid, e);
	close(TAKE_FD(told));
	close(TAKE_FD(in));
	if (r) {
		close(ends[0]);
		return r;
	}
	r = open_gate(o, pid, gate, e);
	close(TAKE_FD(gate));
	read_output(o, ends[0], out);
	waitpid(pid, &status, 0);
	if (r)
		return r;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && out->path[0])
		return 0;
	if (out->error.code)
		return error_set(e, -EIO, "%s", out->error.text);
	return error_set(e, -EIO, "the dump ended by %s %d; the target runs on", WIFSIGNALED(status) ? "signal" : "status",
			 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

/* A job that was dumped and not left running has ended by that, and not by itself. That is written before anything else is: whoever finds it ended, also
 * after we were killed, must not take it for a failure. */
static void note_end(struct operation *o)
{
	struct daemon *d = o->daemon;
	struct error e = {};
	struct job j = {};

	memcpy(j.jid, o->jid, sizeof(j.jid));
	int r = o->jid[0] ? job_lock(d, &j, &e) : -ENOENT;
	if (!r) {
		snprintf(j.ended, sizeof(j.ended), "dumped");
		r = job_unlock(d, &j, true, &e);
	}
	if (!r)
		job_wait_end(d, &j);
	else if (r != -ENOENT)
		log_warning("%s", e.text);
}

static int succeed(struct operation *o, const struct outcome *out, struct error *e)
{
	struct daemon *d = o->daemon;
	struct checkpoint *c = &o->checkpoint;
	int64_t took = now_ns() - o->start_ns;

	snprintf(c->path, sizeof(c->path), "%s", out->path);
	c->state = CHECKPOINT_WHOLE;
	c->size = (int64_t)checkpoint_size(c->path);
	c->worker = (struct identity){};
	if (!o->leaves_running)
		note_end(o);
	int r = store_put_checkpoint(d->store, c, false, e);
	d->counters.dumps++;
	d->counters.bytes_written += (unsigned long)c->size;
	d->counters.dump_us += (unsigned long)(took / 1000);
	checkpoint_retain(d, o->jid, o->keep);
	return r;
}

static void fail(struct operation *o, const struct error *e)
{
	struct daemon *d = o->daemon;
	struct error ignored = {};
	char path[STORE_PATH_MAX];

	d->counters.dumps_failed++;
	log_warning("%s", e->text);
	/* A helper that was killed in the middle could not put it back. */
	if (o->was_frozen && !freezer_holds((pid_t)o->checkpoint.pid) && tree_freeze_all((pid_t)o->checkpoint.pid, &ignored))
		log_warning("%s", ignored.text);
	/* One killed in the middle leaves a folder behind; one whose name was taken must not touch what is there. */
	if (!checkpoint_find(o->checkpoint.path, path) || !checkpoint_is_whole(path))
		checkpoint_remove(d, &o->checkpoint, &ignored);
	else
		store_delete_checkpoint(d->store, o->checkpoint.id, &ignored);
}

/* A dump is of the tree below the job's first process; what has left that tree is not in it, and nobody should think so. */
static void tell_strays(struct operation *o)
{
	struct tree strays = {};
	struct job j;
	struct error ignored = {};
	char line[LINE_BYTES];

	if (!o->jid[0] || store_get_job(o->daemon->store, o->jid, &j, &ignored) || members_list_strays(o->daemon, &j, &strays))
		return;
	for (size_t i = 0; i < strays.count; i++) {
		struct proc_stat stat;
		if (proc_read_stat(strays.data[i], &stat))
			continue;
		snprintf(line, sizeof(line), "Warning: process %d (%s) of job %s is not saved: its parent has ended, and it is not below process %lld any more", strays.data[i], stat.comm,
			 o->jid, (long long)o->checkpoint.pid);
		events_line(o->events, line);
	}
	VEC_FREE(&strays);
}

static void *work(void *argument)
{
	struct operation *o = argument;
	struct daemon *d = o->daemon;
	struct outcome out = {};
	struct error e = {};
	char id[CHECKPOINT_KEY_MAX];

	events_tell(o->events, json_pack("{s:s, s:s}", "event", "started", "path", o->checkpoint.path));
	while (sem_wait(&places) < 0)
		;
	o->start_ns = now_ns();
	if (!o->periodic)
		tell_strays(o);
	int r = run_helper(o, &out, &e);
	sem_post(&places);
	if (!r)
		r = succeed(o, &out, &e);
	else
		fail(o, &e);
	checkpoint_key(&o->checkpoint, id);
	busy_end(d, id);
	busy_end(d, o->key);
	d->counters.operations--;
	d->counters.periodic -= o->periodic;
	daemon_wake(d);
	if (r)
		events_failed(o->events, r, &e);
	else
		events_done(o->events, json_pack("{s:s, s:s, s:s, s:I}", "event", "done", "path", o->checkpoint.path, "id", o->checkpoint.id,
						 "size", (json_int_t)o->checkpoint.size));
	operation_free(o);
	return NULL;
}

/* ---- before it starts ---- */

static int choose_path(struct operation *o, const struct caller *c, const json_t *body, bool periodic, struct error *e)
{
	const struct daemon *d = o->daemon;
	const char *dir = field_text(body, "dir"), *name = field_text(body, "name");
	char made[200], taken[STORE_PATH_MAX];
	long long now = (long long)now_ns();

	if (c->uid && (dir || name))
		return error_set(e, -EPERM, "only root may choose where a checkpoint goes; leave --dir and --name away");
	if (!dir)
		dir = c->uid ? d->private_dir : settings_text(&d->settings, SETTING_CHECKPOINT_DIR);
	if (!store_or_plain_is_absolute(dir))
		return error_set(e, -EINVAL, "the folder of the checkpoint must begin with a /, or with store:/");
	if (name && (!*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, "..")))
		return error_set(e, -EINVAL, "%.200s is no name for a checkpoint", *name ? name : "nothing");
	if (o->jid[0])
		snprintf(made, sizeof(made), "dump-process-%s-%lld", o->jid, now / 1000000000);
	else
		snprintf(made, sizeof(made), "dump-process-%lld", now);
	for (int i = 1;; i++) {
		if (snprintf(o->checkpoint.path, sizeof(o->checkpoint.path), "%.*s/%s", (int)path_trimmed(dir), dir, name ? name : made) >= (int)sizeof(o->checkpoint.path))
			return error_set(e, -ENAMETOOLONG, "the checkpoint's path is too long");
		if (!checkpoint_find(o->checkpoint.path, taken))
			return 0;
		if (name)
			return error_set(e, -EEXIST, "%s is there already; choose another --name or remove it", taken);
		snprintf(made, sizeof(made), "dump-process-%s-%lld.%d", o->jid[0] ? o->jid : "x", now / 1000000000, i);
	}
}

static int inner_pid(pid_t pid, pid_t *ret)
{
	char path[64], *text = NULL;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	int r = read_file_at(AT_FDCWD, path, 1 << 16, &text, NULL);
	char *line = r ? NULL : strstr(text, "\nNSpid:");
	if (line) {
		line[1 + strcspn(line + 1, "\n")] = '\0';
		*ret = (pid_t)strtol(strrchr(line, '\t') + 1, NULL, 10);
	}
	free(text);
	return line ? 0 : r ? r : -ESRCH;
}

static void add(json_t *list, const char *format, ...) _printf_(2, 3);
static void add(json_t *list, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	json_array_append_new(list, json_vsprintf(format, args));
	va_end(args);
}

/* How many checkpoints hang together above one, and it; up to `most`. */
static int chain_length(const char *path, int most)
{
	char at[PATH_MAX], link[PATH_MAX + 10];
	int n = 1;

	if (!realpath(path, at))
		return 0;
	for (; n < most; n++) {
		snprintf(link, sizeof(link), "%s/parent", at);
		if (!realpath(link, at))
			break;
	}
	return n;
}

/* A periodic checkpoint that is a directory has only what was written since the last one. Now and then comes a whole one, so that those before it
 * can go. */
static void add_parent(struct operation *o, const struct job *j, pid_t pid)
{
	const int most = j->keep > 0 && j->keep < CHAIN_MAX ? (int)j->keep : CHAIN_MAX;
	struct checkpoint last;
	struct error ignored = {};
	char manifest[STORE_PATH_MAX + 20];

	add(o->words, "--track-mem");
	if (checkpoint_last(o->daemon, j->jid, &last, &ignored) || last.pid != pid)
		return;
	snprintf(manifest, sizeof(manifest), "%s/fermata.json", last.path);
	if (access(manifest, F_OK) == 0 && chain_length(last.path, most) < most)
		add(o->words, "--parent=%s", last.path);
}

static int make_words(struct operation *o, const struct caller *c, const struct job *j, pid_t pid, const json_t *body, bool periodic,
		      struct error *e)
{
	const struct settings *s = &o->daemon->settings;
	const json_t *options = json_object_get(body, "options");
	const char *slash = strrchr(o->checkpoint.path, '/');
	const pid_t outer = pid;

	const bool enters = j && j->own_namespace;
	if (enters) {
		add(o->words, "fermata-enter");
		add(o->words, "%d", pid);
		add(o->words, o->leaves_running ? "keep" : "end");
		if (inner_pid(pid, &pid))
			return error_set(e, -ESRCH, "there is no process %d", pid);
	}
	add(o->words, "fermata");
	add(o->words, "dump");
	add(o->words, "process");
	add(o->words, "%d", pid);
	add(o->words, "--no-server");
	add(o->words, "--events");
	add(o->words, "--gate");
	add(o->words, "--dir=%.*s", slash == o->checkpoint.path ? 1 : (int)(slash - o->checkpoint.path), o->checkpoint.path);
	add(o->words, "--name=%s", slash + 1);
	const bool packed = strcmp(settings_text(s, SETTING_CHECKPOINT_COMPRESSION), "none") || settings_number(s, SETTING_CHECKPOINT_STREAMS);
	if (periodic && tree_memory(outer) < SMALL_BYTES)
		add(o->words, "--no-live");
	else if (periodic && j && !enters && !packed)
		add_parent(o, j, pid);
	if (!json_object_get(options, "compression") && strcmp(settings_text(s, SETTING_CHECKPOINT_COMPRESSION), "none"))
		add(o->words, "--compression=%s", settings_text(s, SETTING_CHECKPOINT_COMPRESSION));
	if (!json_object_get(options, "streams") && !store_is_path(o->checkpoint.path) && settings_number(s, SETTING_CHECKPOINT_STREAMS))
		add(o->words, "--streams=%ld", settings_number(s, SETTING_CHECKPOINT_STREAMS));
	if (!json_object_get(options, "profiling") && settings_bool(s, SETTING_PROFILING))
		add(o->words, "--profiling");
	if (o->by_setting)
		add(o->words, "--leave-running");
	if (j && j->attachable)
		add(o->words, "--shell-job");
	if (enters && !o->leaves_running)
		add(o->words, "--leave-stopped");
	return options_words(options, o->words, e);
}

static int prepare(struct operation *o, const struct caller *c, const struct job *j, pid_t pid, const json_t *body, bool periodic, struct error *e)
{
	struct checkpoint *k = &o->checkpoint;
	const json_t *options = json_object_get(body, "options");
	char key[CHECKPOINT_KEY_MAX];
	int r = choose_path(o, c, body, periodic, e);

	o->by_setting = !json_object_get(options, "leave-running") && !json_object_get(options, "leave-stopped") &&
			settings_bool(&o->daemon->settings, SETTING_LEAVE_RUNNING);
	o->leaves_running = o->by_setting || json_is_true(json_object_get(options, "leave-running")) || json_is_true(json_object_get(options, "leave-stopped"));
	if (!r)
		r = make_words(o, c, j, pid, body, periodic, e);
	if (r)
		return r;
	checkpoint_new_id(k->id);
	snprintf(k->jid, sizeof(k->jid), "%s", o->jid);
	snprintf(k->type, sizeof(k->type), "%s", periodic ? "periodic" : "process");
	k->state = CHECKPOINT_PENDING;
	k->uid = j ? j->uid : c->uid;
	k->pid = pid;
	o->was_frozen = freezer_holds(pid);
	k->attachable = j ? j->attachable : 0;
	k->time_ns = now_ns();
	o->keep = periodic && j ? j->keep : 0;
	/* Before there is a row without a worker, which would be taken for that of a daemon that was killed. */
	checkpoint_key(k, key);
	r = busy_begin(o->daemon, key, "is being written", e);
	if (!r && (r = store_put_checkpoint(o->daemon->store, k, true, e)))
		busy_end(o->daemon, key);
	return r;
}

static int start_thread(struct operation *o, struct error *e)
{
	struct daemon *d = o->daemon;
	struct error ignored = {};

	d->counters.operations++;
	d->counters.periodic += o->periodic;
	int r = thread_begin(work, o, e);
	if (!r)
		return 0;
	d->counters.operations--;
	d->counters.periodic -= o->periodic;
	store_delete_checkpoint(d->store, o->checkpoint.id, &ignored);
	return r;
}

int operation_dump(struct daemon *d, const struct caller *c, const struct job *j, pid_t pid, const json_t *body, bool periodic,
		   struct events **ret, struct error *e)
{
	struct operation *o = calloc(1, sizeof(*o));
	struct events *events = o ? events_new() : NULL;
	char id[CHECKPOINT_KEY_MAX];
	int r;

	if (!events) {
		free(o);
		return error_set(e, -ENOMEM, "out of memory");
	}
	o->events = events_keep(events);
	o->daemon = d;
	o->periodic = periodic;
	o->words = json_array();
	if (j) {
		snprintf(o->jid, sizeof(o->jid), "%s", j->jid);
		snprintf(o->key, sizeof(o->key), "%s", j->jid);
	} else {
		snprintf(o->key, sizeof(o->key), "process %d", pid);
	}
	r = j && !job_runs(j)	? error_set(e, -ESRCH, "job %s does not run", j->jid) :
	    periodic		? busy_begin_aside(d, o->key, "is being dumped", e) :
				  busy_begin(d, o->key, "is being dumped", e);
	if (r) {
		operation_free(o);
		events_release(events);
		return r;
	}
	r = tree_require_owner(pid, c->uid, e);
	if (!r)
		r = prepare(o, c, j, pid, body, periodic, e);
	if (!r && (r = start_thread(o, e))) {
		checkpoint_key(&o->checkpoint, id);
		busy_end(d, id);
	}
	if (r) {
		busy_end(d, o->key);
		operation_free(o);
		events_release(events);
		return r;
	}
	*ret = events; /* the thread has the operation */
	return 0;
}
