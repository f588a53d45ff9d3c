/* Supervisors are started here: for new jobs, and for those that come from a checkpoint. */
#include "daemon/daemon.h"

#include "base/store_path.h"
#include "daemon/helper.h"

#include <ctype.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ANSWER_MAX 8192

static int read_answer(int fd, struct error *e)
{
	char text[ANSWER_MAX];
	size_t have = 0;
	ssize_t n;

	while ((n = read(fd, text + have, sizeof(text) - 1 - have)) > 0 || (n < 0 && errno == EINTR))
		have += (size_t)MAX(n, 0);
	text[have] = '\0';
	json_t *answer = json_loads(text, 0, NULL);
	const char *error = json_string_value(json_object_get(answer, "error"));
	int code = (int)json_integer_value(json_object_get(answer, "code")), r = 0;
	if (!answer)
		r = error_set(e, -EIO, "the job's supervisor died");
	else if (error)
		r = error_set(e, code < 0 ? code : -EIO, "%s", error);
	json_decref(answer);
	return r;
}

/* What is needed to find the job again should the store be lost. */
static int write_description(const struct job *j, const char *dir, struct error *e)
{
	char path[STORE_PATH_MAX + 300];
	json_t *text = json_pack("{s:s, s:s, s:s, s:I, s:I, s:b, s:b, s:I}", "jid", j->jid, "command", j->command, "log", j->log, "owner",
				 (json_int_t)j->uid, "gid", (json_int_t)j->gid, "attachable", (int)j->attachable, "own_namespace",
				 (int)j->own_namespace, "created_ns", (json_int_t)j->created_ns);
	/* A command that is no UTF-8 has no place in JSON; the rest is what counts. */
	if (!text)
		text = json_pack("{s:s, s:I}", "jid", j->jid, "owner", (json_int_t)j->uid);
	snprintf(path, sizeof(path), "%s/job.json", dir);
	int r = json_dump_file(text, path, JSON_COMPACT) ? error_errno(e, errno ? -errno : -EIO, "cannot write %s", path) : 0;
	json_decref(text);
	return r;
}

static int start(struct daemon *d, struct job *j, json_t *spec, struct error *e)
{
	char dir[STORE_PATH_MAX + 200], state[STORE_PATH_MAX + 300];
	char *argv[] = { (char *)"fermata-supervisor", j->jid, NULL };
	int ends[2];
	pid_t pid;

	snprintf(dir, sizeof(dir), "%s/%s", d->jobs_dir, j->jid);
	snprintf(state, sizeof(state), "%s/" SUPERVISOR_STATE, dir);
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return error_errno(e, -errno, "cannot make %s", dir);
	/* An earlier run's end is not this one's. */
	unlink(state);
	int r = write_description(j, dir, e);
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
	if (!r) {
		r = read_answer(ends[0], e);
		waitpid(pid, NULL, 0);
	}
	close(ends[0]);
	return r;
}

int supervisor_begin(struct daemon *d, struct job *j, json_t *spec, struct error *e)
{
	j->state = JOB_STARTING;
	j->ended[0] = '\0';
	j->exit_code = -1;
	j->ended_ns = 0;
	j->process = j->supervisor = (struct identity){};
	int r = spec ? store_put_job(d->store, j, false, e) : error_set(e, -ENOMEM, "out of memory, or a text that is no UTF-8");
	if (!r)
		r = start(d, j, spec, e);
	json_decref(spec);
	return r ? r : job_refresh(d, j, e);
}

/* ---- options of the engine ---- */

/* What a user who is not root may ask of a root's dump or restore of their own processes: nothing that names a path. */
static bool is_harmless(const char *name)
{
	static const char *const names[] = { "leave-running", "leave-stopped", "shell-job", "file-locks", "link-remap", "skip-in-flight",
					     "tcp-established", "tcp-close", "compression", "streams", "profiling" };

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
	if (json_is_false(value))
		return 0;
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

int options_words(const struct caller *c, const json_t *options, json_t *ret, struct error *e)
{
	const char *name;
	json_t *value;
	int r = 0;

	json_object_foreach((json_t *)options, name, value) {
		for (const char *at = name; *at; at++)
			if (!islower((unsigned char)*at) && *at != '-')
				return error_set(e, -EINVAL, "%.60s is no name of an option", name);
		if (c->uid && !is_harmless(name))
			return error_set(e, -EPERM, "only root may give the option --%.60s through the daemon", name);
		r = add_option(ret, name, value, e);
		if (r)
			return r;
	}
	return r;
}

/* ---- restores ---- */

static const char *text_of(const json_t *body, const char *key)
{
	return json_string_value(json_object_get(body, key));
}

/* The checkpoint that is meant: by its id, its path, or the job's last. */
static int choose(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct checkpoint *ret, struct error *e)
{
	const char *id = text_of(body, "checkpoint"), *path = text_of(body, "path");

	if (path && c->uid)
		return error_set(e, -EPERM, "only root may restore from a path; restore a job of yours instead");
	if (path && !store_or_plain_is_absolute(path))
		return error_set(e, -EINVAL, "the path of the checkpoint must begin with a /, or with store:/");
	if (path) {
		snprintf(ret->path, sizeof(ret->path), "%s", path);
		ret->attachable = j ? j->attachable : 0;
		return 0;
	}
	if (id) {
		int r = store_get_checkpoint(d->store, id, ret, e);
		if (!r && c->uid && ret->uid != (int64_t)c->uid)
			return error_set(e, -ENOENT, "there is no checkpoint %.40s of yours", id);
		if (!r && ret->state != CHECKPOINT_WHOLE)
			return error_set(e, -EBUSY, "the checkpoint %.40s is still being written", id);
		return r;
	}
	return j ? checkpoint_last(d, j->jid, ret, e) : error_set(e, -EINVAL, "a path or a checkpoint's id is needed");
}

static json_t *restore_spec(const struct caller *c, const struct job *j, const struct checkpoint *from, const json_t *body, struct error *e)
{
	static const char *const taken[] = { "attach", "raw", "rows", "columns" };
	json_t *words = json_array(), *spec;

	if (options_words(c, json_object_get(body, "options"), words, e)) {
		json_decref(words);
		return NULL;
	}
	if (j->attachable)
		json_array_append_new(words, json_string("--shell-job"));
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
	const char *as = text_of(body, "as"), *out = text_of(body, "out");

	if (j)
		*ret = *j;
	else
		*ret = (struct job){ .type = "process", .keep = 5, .restart_limit = 3, .uid = c->uid, .gid = c->gid };
	ret->own_namespace = j && as;
	ret->created_ns = now_ns();
	ret->every_s = ret->next_ns = ret->restarts = 0;
	if (as)
		snprintf(ret->jid, sizeof(ret->jid), "%.64s", as);
	else
		snprintf(ret->jid, sizeof(ret->jid), "restored-%lld", (long long)(now_ns() / 1000000));
	int r = job_check_name(ret->jid, e);
	if (!j)
		snprintf(ret->command, sizeof(ret->command), "(restored from %.900s)", from->path);
	ret->attachable = from->attachable || json_is_true(json_object_get(body, "attachable")) || json_is_true(json_object_get(body, "attach"));
	if (out && !c->uid && out[0] == '/')
		snprintf(ret->log, sizeof(ret->log), "%s", out);
	else if (ret->attachable)
		snprintf(ret->log, sizeof(ret->log), "%s/fermata-output-%s.log", settings_text(&d->settings, SETTING_LOG_DIR), ret->jid);
	ret->state = JOB_STARTING;
	return r ? r : store_put_job(d->store, ret, true, e);
}

int job_restore(struct daemon *d, const struct caller *c, const struct job *j, const json_t *body, struct job *ret, struct error *e)
{
	struct checkpoint from = {};
	bool is_new = !j || text_of(body, "as");
	int r = choose(d, c, j, body, &from, e);

	if (!r && !is_new && job_runs(j))
		r = error_set(e, -EBUSY, "job %s runs; fermata job kill %s first, or restore it --as another", j->jid, j->jid);
	if (r)
		return r;
	if (is_new)
		r = make_job(d, c, j, body, &from, ret, e);
	else
		*ret = *j;
	if (r)
		return r;
	r = busy_begin(d, ret->jid, "is being restored", e);
	if (r)
		return r;
	json_t *spec = restore_spec(c, ret, &from, body, e);
	r = spec ? supervisor_begin(d, ret, spec, e) : e->code;
	if (r) {
		struct error ignored = {};
		d->counters.restores_failed++;
		if (is_new)
			store_delete_job(d->store, ret->jid, &ignored);
		else
			job_refresh(d, ret, &ignored);
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
