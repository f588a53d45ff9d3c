/* Supervisors are started here: for new jobs, and for those that come from a checkpoint. */
#include "daemon/api.h"

#include "base/store_path.h"
#include "daemon/fields.h"
#include "daemon/helper.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ANSWER_MAX 8192

/* The answer is the line that is no event and has no message. */
static int take_line(const char *line, struct events *told, bool *answered, struct error *e)
{
	json_t *document = line[0] == '{' ? json_loads(line, 0, NULL) : NULL;
	const char *error = json_string_value(json_object_get(document, "error"));
	int code = (int)json_integer_value(json_object_get(document, "code")), r = 0;

	*answered = document && !json_object_get(document, "event");
	if (!*answered)
		events_line(told, line);
	else if (error)
		r = error_set(e, code < 0 ? code : -EIO, "%s", error);
	json_decref(document);
	return r;
}

static int read_answer(int fd, struct events *told, struct error *e)
{
	FILE *f = fdopen(fd, "r");
	char line[ANSWER_MAX];
	bool answered = false;
	int r = 0;

	while (f && !answered && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		r = take_line(line, told, &answered, e);
	}
	if (f)
		fclose(f);
	else
		close(fd);
	return answered ? r : error_set(e, -EIO, "the job's supervisor died");
}

static int write_wanted(const char *dir, json_t *spec, struct error *e)
{
	char path[STORE_PATH_MAX + 300], token[24];
	FILE *f;

	checkpoint_new_id(token);
	json_object_set_new(spec, "token", json_string(token));
	snprintf(path, sizeof(path), "%s/" SUPERVISOR_WANTED, dir);
	f = fopen(path, "we");
	bool good = f && fputs(token, f) >= 0;
	if (f && fclose(f))
		good = false;
	return good ? 0 : error_errno(e, errno ? -errno : -EIO, "cannot write %s", path);
}

static int start(struct daemon *d, struct job *j, json_t *spec, struct events *told, struct error *e)
{
	char dir[STORE_PATH_MAX + 200];
	char *argv[] = { (char *)"fermata-supervisor", j->jid, NULL };
	int ends[2];
	pid_t pid;

	snprintf(dir, sizeof(dir), "%s/%s", d->jobs_dir, j->jid);
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return error_errno(e, -errno, "cannot make %s", dir);
	int r = write_wanted(dir, spec, e);
	if (r)
		return r;
	json_object_set_new(spec, "jid", json_string(j->jid));
	json_object_set_new(spec, "dir", json_string(dir));
	json_object_set_new(spec, "log", json_string(j->log));
	json_object_set_new(spec, "own_namespace", json_boolean(j->own_namespace));
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	r = daemon_helper_start_with(argv, spec, ends[1], -1, &pid, e);
	close(ends[1]);
	if (r) {
		close(ends[0]);
		return r;
	}
	r = read_answer(ends[0], told, e);
	waitpid(pid, NULL, 0);
	return r;
}

/* An earlier run's end is not this one's: whoever finds the row to be starting must not find that. */
static int put_starting(struct daemon *d, struct job *j, struct error *e)
{
	char state[STORE_PATH_MAX + 300];

	snprintf(state, sizeof(state), "%s/%s/" SUPERVISOR_STATE, d->jobs_dir, j->jid);
	pthread_mutex_lock(&d->jobs_lock);
	unlink(state);
	int r = store_put_job(d->store, j, false, e);
	pthread_mutex_unlock(&d->jobs_lock);
	return r;
}

int supervisor_begin(struct daemon *d, struct job *j, json_t *spec, struct events *told, struct error *e)
{
	j->state = JOB_STARTING;
	j->ended[0] = '\0';
	j->exit_code = -1;
	j->ended_ns = 0;
	members_note_supervisor(d, j);
	j->process = j->supervisor = (struct identity){};
	int r = spec ? put_starting(d, j, e) : error_set(e, -ENOMEM, "out of memory, or a text that is no UTF-8");
	if (!r)
		r = start(d, j, spec, told, e);
	json_decref(spec);
	return r ? r : job_refresh(d, j, e);
}

/* ---- options of the engine ---- */

/* What a user who is not root may ask of a root's dump or restore of their own processes: nothing that names a path. */
static bool is_harmless(const char *name)
{
	static const char *const names[] = { "leave-running", "leave-stopped", "shell-job", "file-locks", "link-remap", "skip-in-flight",
					     "tcp-established", "tcp-close", "compression", "streams", "profiling", "verbosity" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

static int add_word(json_t *list, const char *name, const char *value, struct error *e)
{
	json_t *word = value ? json_sprintf("--%s=%s", name, value) : json_sprintf("--%s", name);

	return json_array_append_new(list, word) ? error_set(e, -ENOMEM, "out of memory") : 0;
}

static int add_option(json_t *list, const char *name, const json_t *value, struct error *e)
{
	char number[32];
	int r = 0;

	if (json_is_string(value))
		return add_word(list, name, json_string_value(value), e);
	if (json_is_true(value))
		return add_word(list, name, NULL, e);
	if (json_is_false(value)) {
		char no[70];
		snprintf(no, sizeof(no), "no-%.60s", name);
		return add_word(list, no, NULL, e);
	}
	if (json_is_integer(value)) {
		snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
		return add_word(list, name, number, e);
	}
	if (!json_is_array(value))
		return error_set(e, -EINVAL, "the value of option %s is of no kind that options have", name);
	for (size_t i = 0; !r && i < json_array_size(value); i++)
		r = json_is_array(json_array_get(value, i)) ? -EINVAL : add_option(list, name, json_array_get(value, i), e);
	return r;
}

int options_check(const struct daemon *d, const struct caller *c, const char *verb, const json_t *options, struct error *e)
{
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)options, name, value)
		if (c->uid && !is_harmless(name))
			return error_set(e, -EPERM, "only root may give the option --%.60s through the daemon", name);
	return d->vocabulary->check(verb, options, e);
}

int options_words(const json_t *options, json_t *ret, struct error *e)
{
	const char *name;
	json_t *value;
	int r = 0;

	json_object_foreach((json_t *)options, name, value) {
		r = add_option(ret, name, value, e);
		if (r)
			return r;
	}
	return r;
}

/* ---- restores ---- */

/* A checkpoint that we know, named by its path: its terminal was one that we gave it. */
static bool was_attachable(struct daemon *d, const char *path)
{
	struct checkpoint_list list = {};
	struct error e = {};
	bool found = false;

	if (store_list_checkpoints(d->store, NULL, &list, &e) == 0)
		for (size_t i = 0; i < list.count && !found; i++)
			found = !strcmp(list.data[i].path, path) && list.data[i].attachable;
	VEC_FREE(&list);
	return found;
}

/* Somebody may have removed it by hand. */
static int check_there(const struct checkpoint *k, struct error *e)
{
	if (checkpoint_is_whole(k->path))
		return 0;
	return error_set(e, -ENOENT, "the checkpoint %s is not there any more: %s; fermata checkpoints shows others, for --checkpoint ID", k->id, k->path);
}

/* The checkpoint that is meant: by its id, its path, or the job's last. */
static int choose(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct checkpoint *ret, struct error *e)
{
	const char *id = field_text(body, "checkpoint"), *path = field_text(body, "path");

	if (path && c->uid)
		return error_set(e, -EPERM, "only root may restore from a path; restore a job of yours instead");
	if (path && !store_or_plain_is_absolute(path))
		return error_set(e, -EINVAL, "the path of the checkpoint must begin with a /, or with store:/");
	if (path) {
		snprintf(ret->path, sizeof(ret->path), "%s", path);
		ret->attachable = j ? j->attachable : was_attachable(d, path);
		return 0;
	}
	if (!id && !j)
		return error_set(e, -EINVAL, "a path or a checkpoint's id is needed");
	int r = id ? store_get_checkpoint(d->store, id, ret, e) : checkpoint_last(d, j->jid, ret, e);
	if (!r && id && c->uid && ret->uid != (int64_t)c->uid)
		return error_set(e, -ENOENT, "there is no checkpoint %.40s of yours", id);
	if (!r && id && j && ret->jid[0] && strcmp(ret->jid, j->jid) != 0)
		return error_set(e, -EINVAL, "the checkpoint %.40s is one of job %s, and not of %s; fermata restore job %s --checkpoint %.40s restores it", id, ret->jid, j->jid,
				 ret->jid, id);
	if (!r && ret->state != CHECKPOINT_WHOLE)
		return error_set(e, -EBUSY, "the checkpoint %.40s is %s", id, ret->state == CHECKPOINT_LEAVING ? "being removed" : "still being written");
	return r ? r : check_there(ret, e);
}

static json_t *restore_spec(const struct daemon *d, const struct caller *c, const struct job *j, const struct checkpoint *from, const json_t *body, struct error *e)
{
	static const char *const taken[] = { "attach", "raw", "rows", "columns" };
	json_t *words = json_array(), *spec;

	if (options_words(json_object_get(body, "options"), words, e)) {
		json_decref(words);
		return NULL;
	}
	if (!json_object_get(json_object_get(body, "options"), "profiling") && settings_bool(&d->settings, SETTING_PROFILING))
		json_array_append_new(words, json_string("--profiling"));
	if (j->attachable)
		json_array_append_new(words, json_string("--shell-job"));
	else if (field_text(body, "out"))
		json_array_append_new(words, json_sprintf("--out=%s", field_text(body, "out")));
	if (c->uid)
		json_array_append_new(words, json_sprintf("--for-user=%u", c->uid));
	spec = json_pack("{s:b, s:s, s:o, s:b, s:I, s:I}", "restore", 1, "path", from->path, "options", words, "attachable", (int)j->attachable, "uid",
			 (json_int_t)j->uid, "gid", (json_int_t)j->gid);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (json_object_get(body, taken[i]))
			json_object_set(spec, taken[i], json_object_get(body, taken[i]));
	return spec;
}

/* A job for what is restored beside, or from a path: named `jid`, or after the checkpoint's job. */
static int make_job(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, const struct checkpoint *from,
		    struct job *ret, struct error *e)
{
	const char *as = field_text(body, "as"), *out = field_text(body, "out");

	if (j)
		*ret = *j;
	else
		*ret = (struct job){ .type = "process", .keep = 5, .restart_limit = 3, .uid = c->uid, .gid = c->gid };
	ret->own_namespace = j && as;
	ret->created_ns = now_ns();
	ret->every_s = ret->next_ns = ret->restarts = ret->late_ns = ret->missed = 0;
	if (as)
		snprintf(ret->jid, sizeof(ret->jid), "%.64s", as);
	else
		snprintf(ret->jid, sizeof(ret->jid), "restored-%lld", (long long)(now_ns() / 1000000));
	int r = job_check_name(ret->jid, e);
	if (!j)
		snprintf(ret->command, sizeof(ret->command), "(restored from %.900s)", from->path);
	ret->attachable = from->attachable || json_is_true(json_object_get(body, "attachable")) || json_is_true(json_object_get(body, "attach"));
	if (out)
		snprintf(ret->log, sizeof(ret->log), "%s", out);
	else if (ret->attachable || ret->own_namespace)
		snprintf(ret->log, sizeof(ret->log), "%s/fermata-output-%s.log", settings_text(&d->settings, SETTING_LOG_DIR), ret->jid);
	ret->state = JOB_STARTING;
	return r ? r : store_put_job(d->store, ret, true, e);
}

static int check_out(const struct caller *c, const char *out, struct error *e)
{
	if (out && c->uid)
		return error_set(e, -EPERM, "only root may choose where the output goes; leave --out away");
	if (out && (out[0] != '/' || strlen(out) >= STORE_PATH_MAX))
		return error_set(e, -EINVAL, "the path of the output must begin with a / and be shorter than %d", STORE_PATH_MAX);
	return 0;
}

/* What the last run has left may be what was in the way. Nobody has said that it may be ended. */
static int name_rest(struct daemon *d, const struct job *j, int r, struct error *e)
{
	const size_t used = strlen(e->text);
	struct tree rest = {};
	char names[300];

	if (members_list_strays(d, j, &rest) == 0 && rest.count) {
		members_describe(&rest, names, sizeof(names));
		snprintf(e->text + used, sizeof(e->text) - used, "; of its last run there are still %s: fermata job kill %s ends them", names, j->jid);
	}
	VEC_FREE(&rest);
	return r;
}

/* A restore that failed leaves the job as it was, ended as it had ended. */
static void put_back(struct daemon *d, const struct job *before, struct job *ret)
{
	struct error e = {};

	if (before->state != JOB_HALTED) {
		job_refresh(d, ret, &e);
	} else if (job_lock(d, ret, &e) == 0) {
		*ret = *before;
		job_unlock(d, ret, true, &e);
	}
}

static bool makes_new(const struct job *j, const json_t *body)
{
	return !j || field_text(body, "as");
}

/* What can be said before anything is begun. */
static int look_ahead(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct checkpoint *ret_from, struct error *e)
{
	int r = choose(d, c, j, body, ret_from, e);

	if (!r)
		r = check_out(c, field_text(body, "out"), e);
	if (!r && field_text(body, "as"))
		r = job_check_name(field_text(body, "as"), e);
	if (!r && !makes_new(j, body) && job_runs(j))
		r = error_set(e, -EBUSY, "job %s runs; fermata job kill %s first, or restore it --as another", j->jid, j->jid);
	return r;
}

int job_restore(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct events *told, struct job *ret,
		struct error *e)
{
	struct checkpoint from = {};
	const bool is_new = makes_new(j, body);
	int r = look_ahead(d, c, j, body, &from, e);

	if (r)
		return r;
	if (is_new)
		r = make_job(d, c, j, body, &from, ret, e);
	else
		*ret = *j;
	if (!is_new && body) /* somebody has asked for it: the tries of a restart begin anew */
		ret->restarts = 0;
	if (!is_new && field_text(body, "out"))
		snprintf(ret->log, sizeof(ret->log), "%s", field_text(body, "out"));
	if (r)
		return r;
	r = busy_begin(d, ret->jid, "is being restored", e);
	if (r)
		return r;
	json_t *spec = restore_spec(d, c, ret, &from, body, e);
	/* What went to the log of the job that it stands beside goes to its own. */
	if (spec && is_new && ret->own_namespace && !ret->attachable && j->log[0] && !field_text(body, "out"))
		json_object_set_new(spec, "log_before", json_string(j->log));
	r = spec ? supervisor_begin(d, ret, spec, told, e) : e->code;
	if (r) {
		struct error ignored = {};
		d->counters.restores_failed++;
		if (is_new)
			store_delete_job(d->store, ret->jid, &ignored);
		else
			put_back(d, j, ret);
		if (j && !is_new)
			name_rest(d, j, r, e);
	} else {
		d->counters.restores++;
		struct error ignored = {};
		if (ret->every_s && job_lock(d, ret, &ignored) == 0) {
			ret->next_ns = now_ns() + ret->every_s * 1000000000LL;
			job_unlock(d, ret, true, &ignored);
		}
		daemon_wake(d);
	}
	busy_end(d, ret->jid);
	return r;
}

/* ---- with events ---- */

struct restoring {
	struct daemon *daemon;
	struct caller caller;
	struct job job;
	bool is_new; /* of a path */
	json_t *body;
	struct events *events;
};

static void restoring_free(struct restoring *w)
{
	json_decref(w->body);
	events_release(w->events);
	free(w);
}

static void *work(void *argument)
{
	struct restoring *w = argument;
	struct error e = {};
	struct job after;
	int r = job_restore(w->daemon, &w->caller, w->is_new ? NULL : &w->job, w->body, w->events, &after, &e);

	if (r)
		events_failed(w->events, r, &e);
	else
		events_done(w->events, json_pack("{s:s, s:o}", "event", "done", "job", job_json(w->daemon, &after)));
	restoring_free(w);
	return NULL;
}

int job_restore_begin(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct events **ret, struct error *e)
{
	struct restoring *w = calloc(1, sizeof(*w));
	struct events *events = w ? events_new() : NULL;
	struct checkpoint from = {};

	if (!events) {
		free(w);
		return error_set(e, -ENOMEM, "out of memory");
	}
	*w = (struct restoring){ .daemon = d, .caller = *c, .is_new = !j, .body = json_deep_copy(body), .events = events_keep(events) };
	if (j)
		w->job = *j;
	int r = look_ahead(d, c, j, body, &from, e);
	if (!r)
		r = thread_begin(work, w, e);
	if (r) {
		restoring_free(w);
		events_release(events);
		return r;
	}
	*ret = events;
	return 0;
}
