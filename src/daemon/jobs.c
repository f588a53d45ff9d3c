/* Jobs: started, taken over, looked at, ended, forgotten. See daemon.h; restores.c starts supervisors, operation.c dumps. */
#include "daemon/daemon.h"

#include "base/log.h"
#include "daemon/fields.h"
#include "daemon/helper.h"
#include "proc/freezer.h"
#include "proc/proc.h"

#include <ctype.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#define STATE_MAX 4096
#define NAME_TRIES 50
#define END_MS 5000
#define WAIT_MS 20

/* ---- names ---- */

int job_check_name(const char *jid, struct error *e)
{
	size_t length = strlen(jid);
	bool good = length && length <= 64 && isalnum((unsigned char)jid[0]);

	for (size_t i = 0; good && i < length; i++)
		good = isalnum((unsigned char)jid[i]) || strchr("._-", jid[i]);
	return good ? 0 : error_set(e, -EINVAL, "%.70s is no name for a job: letters, digits, dots, dashes and underscores, up to 64, the first a letter or digit", *jid ? jid : "nothing");
}

static void generate_name(char ret[JID_MAX])
{
	static const char *const first[] = { "amber", "bold", "brisk", "calm", "clear", "eager", "early", "fair", "fine", "gentle", "glad", "keen",
					     "kind", "light", "lively", "mellow", "neat", "proud", "quick", "quiet", "ready", "round", "sharp", "still",
					     "swift", "warm", "wide", "wise" };
	static const char *const second[] = { "alto", "aria", "ballad", "bell", "cello", "chord", "clef", "coda", "drum", "fife", "flute", "fugue",
					      "harp", "horn", "lute", "lyre", "note", "oboe", "opera", "organ", "reed", "rondo", "scale", "sonata",
					      "tempo", "trio", "viola", "waltz" };
	uint32_t random = 0;

	if (getrandom(&random, sizeof(random), 0) < 0)
		random = (uint32_t)now_ns();
	snprintf(ret, JID_MAX, "%s-%s-%u", first[random % ARRAY_SIZE(first)], second[random / 64 % ARRAY_SIZE(second)], random >> 16 & 0xfff);
}

/* Writes a new job down under the name asked for, or one that is free. */
static int put_new(struct daemon *d, struct job *j, const char *jid, struct error *e)
{
	int r = jid ? job_check_name(jid, e) : 0;

	if (r)
		return r;
	j->created_ns = now_ns();
	if (jid) {
		snprintf(j->jid, sizeof(j->jid), "%s", jid);
		return store_put_job(d->store, j, true, e);
	}
	for (int tries = 0; tries < NAME_TRIES; tries++) {
		generate_name(j->jid);
		r = store_put_job(d->store, j, true, e);
		if (r != -EEXIST)
			return r;
	}
	return r;
}

/* ---- what they are doing ---- */

static json_t *read_state(struct daemon *d, const char *jid)
{
	char path[STORE_PATH_MAX + 200], *text = NULL;
	json_t *state = NULL;

	snprintf(path, sizeof(path), "%s/%s/" SUPERVISOR_STATE, d->jobs_dir, jid);
	if (read_file_at(AT_FDCWD, path, STATE_MAX, &text, NULL) == 0)
		state = json_loads(text, 0, NULL);
	free(text);
	return state;
}

static void read_identity(const json_t *state, const char *pid, const char *start, struct identity *ret)
{
	const char *boot = json_string_value(json_object_get(state, "boot"));

	ret->pid = json_integer_value(json_object_get(state, pid));
	ret->start = json_integer_value(json_object_get(state, start));
	snprintf(ret->boot, sizeof(ret->boot), "%s", boot ? boot : "");
}

static void halt(struct job *j, const char *how, int64_t code)
{
	j->state = JOB_HALTED;
	if (!j->ended[0])
		snprintf(j->ended, sizeof(j->ended), "%s", how);
	j->exit_code = code;
	j->ended_ns = now_ns();
}

/* No supervisor has taken the job up, and none will from now on (helper.h). False: one just did. */
static bool give_up(struct daemon *d, const char *jid)
{
	char path[STORE_PATH_MAX + 200];

	snprintf(path, sizeof(path), "%s/%s", d->jobs_dir, jid);
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return true;
	if (flock(dir, LOCK_EX) < 0)
		return false;
	bool taken = faccessat(dir, SUPERVISOR_STATE, F_OK, 0) == 0;
	if (!taken)
		unlinkat(dir, SUPERVISOR_WANTED, 0);
	return !taken;
}

static bool was_killed(struct daemon *d, const char *jid)
{
	char path[STORE_PATH_MAX + 200];

	snprintf(path, sizeof(path), "%s/%s/" SUPERVISOR_KILLED, d->jobs_dir, jid);
	return access(path, F_OK) == 0;
}

/* Until it runs again. False: that could not be noted. */
static bool note_kill(struct daemon *d, const char *jid)
{
	char path[STORE_PATH_MAX + 200];

	snprintf(path, sizeof(path), "%s/%s", d->jobs_dir, jid);
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return false;
	if (faccessat(dir, SUPERVISOR_KILLED, F_OK, 0) == 0 || renameat(dir, SUPERVISOR_WANTED, dir, SUPERVISOR_KILLED) == 0)
		return true;
	_cleanup_close_ int made = openat(dir, SUPERVISOR_KILLED, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	return made >= 0;
}

static void refresh_supervised(struct daemon *d, struct job *j)
{
	json_t *state = read_state(d, j->jid);
	const char *phase = json_string_value(json_object_get(state, "phase"));

	if (state) {
		read_identity(state, "supervisor", "supervisor_start", &j->supervisor);
		read_identity(state, "pid", "start", &j->process);
	}
	if (phase && (!strcmp(phase, "ended") || !strcmp(phase, "failed")))
		halt(j, was_killed(d, j->jid) ? "killed" : strcmp(phase, "failed") ? "exited" : "failed", json_integer_value(json_object_get(state, "code")));
	else if (phase && !strcmp(phase, "running") && j->state == JOB_STARTING)
		j->state = JOB_RUNNING;
	else if (!identity_alive(&j->supervisor) && !identity_alive(&j->process) && !busy_is(d, j->jid) && (state || give_up(d, j->jid)))
		halt(j, was_killed(d, j->jid) ? "killed" : "lost", -1);
	json_decref(state);
}

static void refresh_upcoming(struct job *j)
{
	struct identity found;

	if (identity_of((pid_t)j->process.pid, &found) == 0 && identity_alive(&found)) {
		j->process = found;
		j->state = JOB_RUNNING;
	}
}

int job_lock(struct daemon *d, struct job *j, struct error *e)
{
	char jid[JID_MAX];

	memcpy(jid, j->jid, sizeof(jid));
	pthread_mutex_lock(&d->jobs_lock);
	int r = store_get_job(d->store, jid, j, e);
	if (r)
		pthread_mutex_unlock(&d->jobs_lock);
	return r;
}

int job_unlock(struct daemon *d, const struct job *j, bool write, struct error *e)
{
	int r = write ? store_put_job(d->store, j, false, e) : 0;

	pthread_mutex_unlock(&d->jobs_lock);
	return r;
}

bool job_has_failed(const struct job *j)
{
	/* A restart that failed while no daemon was there is tried again as well. */
	return j->state == JOB_HALTED && ((!strcmp(j->ended, "exited") && j->exit_code > 0) || !strcmp(j->ended, "lost") ||
					  (!strcmp(j->ended, "failed") && j->restarts));
}

static void tell_end(struct daemon *d, const struct job *j)
{
	struct checkpoint last;
	struct error none = {};

	if (j->restart && job_has_failed(j) && checkpoint_last(d, j->jid, &last, &none))
		log_warning("job %s has failed (status %lld) and has no checkpoint that it could be restored from", j->jid, (long long)j->exit_code);
	else
		log_info("job %s has ended (%s, status %lld)", j->jid, j->ended, (long long)j->exit_code);
}

/* Nothing that its folder or /proc could tell would change the row. */
static bool is_settled(const struct job *j)
{
	return j->state == JOB_HALTED || (j->state == JOB_RUNNING && j->process.pid > 0 && identity_alive(&j->process));
}

int job_refresh_or_later(struct daemon *d, struct job *j, bool *ret_later, struct error *e)
{
	*ret_later = false;
	if (is_settled(j))
		return 0;
	int r = job_lock(d, j, e);

	if (r)
		return r;
	struct job before = *j;
	if (j->state == JOB_UPCOMING)
		refresh_upcoming(j);
	else if (j->state != JOB_HALTED && (j->supervisor.pid || j->state == JOB_STARTING))
		refresh_supervised(d, j);
	else if (j->state == JOB_RUNNING && !identity_alive(&j->process))
		halt(j, identity_state(&j->process) == -1 ? "stale" : "exited", -1);
	bool changed = memcmp(&before, j, sizeof(before)) != 0;
	r = job_unlock(d, j, changed, e);
	if (!r && changed && j->state == JOB_HALTED) {
		daemon_wake(d);
		tell_end(d, j);
	}
	*ret_later = r == -ENOSPC;
	return *ret_later ? 0 : r;
}

int job_refresh(struct daemon *d, struct job *j, struct error *e)
{
	bool later;

	return job_refresh_or_later(d, j, &later, e);
}

bool job_runs(const struct job *j)
{
	return j->state == JOB_RUNNING && identity_alive(&j->process);
}

int64_t job_late_ns(const struct job *j)
{
	return j->every_s && job_runs(j) ? MAX(now_ns() - j->next_ns, j->late_ns) : 0;
}

const char *job_status(const struct job *j)
{
	int state = j->state == JOB_RUNNING ? identity_state(&j->process) : 0;

	if (j->state == JOB_STARTING)
		return "starting";
	if (j->state == JOB_UPCOMING)
		return "upcoming";
	if (!strcmp(j->ended, "stale"))
		return "stale";
	if (state > 0 && freezer_holds((pid_t)j->process.pid))
		return "frozen";
	switch (state) {
	case 0:
	case 'X':
		return "halted";
	case -1:
		return "stale";
	default:
		return proc_state_word((char)state);
	}
}

static bool reaches(const struct caller *c, const struct job *j)
{
	return c->uid == 0 || (int64_t)c->uid == j->uid;
}

int job_get(struct daemon *d, const struct caller *c, const char *jid, struct job *ret, struct error *e)
{
	int r = store_get_job(d->store, jid, ret, e);

	/* Another's job is told as none: who may not reach it need not know of it. */
	if (!r && !reaches(c, ret))
		r = error_set(e, -ENOENT, "there is no job %s of yours; fermata job list shows them", jid);
	return r ? r : job_refresh(d, ret, e);
}

int job_list(struct daemon *d, const struct caller *c, struct job_list *ret, struct error *e)
{
	int r = store_list_jobs(d->store, ret, e);
	size_t kept = 0;

	for (size_t i = 0; !r && i < ret->count; i++) {
		if (!reaches(c, &ret->data[i]))
			continue;
		r = job_refresh(d, &ret->data[i], e);
		if (r == -ENOENT) /* deleted meanwhile */
			r = 0;
		else
			ret->data[kept++] = ret->data[i];
	}
	ret->count = r ? ret->count : kept;
	return r;
}

/* ---- start, take over ---- */

static int read_times(struct job *j, const json_t *body, struct error *e)
{
	static const char *const keys[] = { "every", "keep", "restart_limit" };
	int64_t *const to[] = { &j->every_s, &j->keep, &j->restart_limit };
	const char *restart = field_text(body, "restart");

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const json_t *value = json_object_get(body, keys[i]);
		if (value && (!json_is_integer(value) || json_integer_value(value) < 0 || json_integer_value(value) > 1000000000))
			return error_set(e, -EINVAL, "%s is no number from 0 to a milliard", keys[i]);
		if (value)
			*to[i] = json_integer_value(value);
	}
	if (restart && strcmp(restart, "no") && strcmp(restart, "on-failure"))
		return error_set(e, -EINVAL, "restart is %s; there are no and on-failure", restart);
	if (restart)
		j->restart = !strcmp(restart, "on-failure");
	/* What is due stays due where only other things are changed. */
	if (json_object_get(body, "every")) {
		j->next_ns = j->every_s ? now_ns() + j->every_s * 1000000000LL : 0;
		j->late_ns = j->missed = 0;
	}
	return 0;
}

static int check_texts(const json_t *list, const char *what, bool may_be_empty, struct error *e)
{
	if (!json_is_array(list) || (!may_be_empty && !json_array_size(list)))
		return error_set(e, -EINVAL, "%s must be a list of texts", what);
	for (size_t i = 0; i < json_array_size(list); i++)
		if (!json_is_string(json_array_get(list, i)))
			return error_set(e, -EINVAL, "%s must be a list of texts", what);
	return 0;
}

static void join_command(const json_t *argv, char *to, size_t size)
{
	size_t used = 0;

	to[0] = '\0';
	for (size_t i = 0; i < json_array_size(argv) && used < size; i++)
		used += (size_t)snprintf(to + used, size - used, "%s%s", i ? " " : "", json_string_value(json_array_get(argv, i)));
}

/* Where the job's output goes: as asked, or its own file in the folder of logs. */
static int choose_log(struct daemon *d, const struct caller *c, struct job *j, const json_t *body, struct error *e)
{
	const char *out = field_text(body, "out");

	if (out && c->uid)
		return error_set(e, -EPERM, "only root may choose where the output goes; leave --out away, fermata job logs shows it");
	if (out && (out[0] != '/' || strlen(out) >= sizeof(j->log)))
		return error_set(e, -EINVAL, "the path of the log must begin with a / and be shorter than %zu", sizeof(j->log));
	if (out)
		snprintf(j->log, sizeof(j->log), "%s", out);
	else
		snprintf(j->log, sizeof(j->log), "%s/fermata-output-%s.log", settings_text(&d->settings, SETTING_LOG_DIR), j->jid);
	return 0;
}

static json_t *run_spec(const struct caller *c, const struct job *j, const json_t *body)
{
	static const char *const taken[] = { "argv", "env", "cwd", "umask", "attach", "raw", "rows", "columns" };
	bool root = c->uid == 0 && json_is_true(json_object_get(body, "as_root"));
	json_t *spec = json_pack("{s:I, s:I}", "uid", root ? (json_int_t)0 : (json_int_t)c->uid, "gid", root ? (json_int_t)0 : (json_int_t)c->gid);
	json_t *groups = json_array();

	for (size_t i = 0; i < c->n_groups && !root; i++)
		json_array_append_new(groups, json_integer(c->groups[i]));
	json_object_set_new(spec, "groups", groups);
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (json_object_get(body, taken[i]))
			json_object_set(spec, taken[i], json_object_get(body, taken[i]));
	json_object_set_new(spec, "attachable", json_boolean(j->attachable));
	return spec;
}

int job_run(struct daemon *d, const struct caller *c, const json_t *body, struct job *ret, struct error *e)
{
	const json_t *argv = json_object_get(body, "argv");
	struct job j = { .type = "process", .state = JOB_STARTING, .uid = c->uid, .gid = c->gid, .exit_code = -1, .keep = 5, .restart_limit = 3 };
	int r = check_texts(argv, "argv", false, e);

	if (!r)
		r = check_texts(json_object_get(body, "env"), "env", true, e);
	if (!r && (!field_text(body, "cwd") || field_text(body, "cwd")[0] != '/'))
		r = error_set(e, -EINVAL, "cwd must be a path from / on");
	if (!r && c->uid && json_is_true(json_object_get(body, "as_root")))
		r = error_set(e, -EPERM, "only root may run a job --as-root");
	if (!r)
		r = read_times(&j, body, e);
	if (r)
		return r;
	join_command(argv, j.command, sizeof(j.command));
	j.attachable = json_is_true(json_object_get(body, "attachable")) || json_is_true(json_object_get(body, "attach"));
	r = put_new(d, &j, field_text(body, "jid"), e);
	if (r)
		return r;
	r = busy_begin(d, j.jid, "is being started", e);
	if (!r)
		r = choose_log(d, c, &j, body, e);
	if (!r)
		r = store_put_job(d->store, &j, false, e);
	if (!r)
		r = supervisor_begin(d, &j, run_spec(c, &j, body), NULL, e);
	if (r) {
		struct error ignored = {};
		store_delete_job(d->store, j.jid, &ignored);
	} else {
		d->counters.started++;
	}
	busy_end(d, j.jid);
	daemon_wake(d);
	*ret = j;
	return r;
}

/* Of what is a job already there would be two that know nothing of each other; and `job kill --all` must not end the machine. */
static int check_manageable(struct daemon *d, pid_t pid, struct error *e)
{
	struct job_list list = {};
	int r;

	if (tree_holds_us(pid))
		return error_set(e, -EINVAL, "process %d can be no job: the daemon runs below it, and to kill that job would end both", pid);
	r = store_list_jobs(d->store, &list, e);
	for (size_t i = 0; !r && i < list.count; i++)
		if (list.data[i].process.pid == pid && job_runs(&list.data[i]))
			r = error_set(e, -EEXIST, "process %d is the job %s already", pid, list.data[i].jid);
	VEC_FREE(&list);
	return r;
}

int job_manage(struct daemon *d, const struct caller *c, const json_t *body, struct job *ret, struct error *e)
{
	pid_t pid = (pid_t)json_integer_value(json_object_get(body, "pid"));
	bool upcoming = json_is_true(json_object_get(body, "upcoming"));
	struct job j = { .type = "process", .state = JOB_RUNNING, .exit_code = -1, .keep = 5, .restart_limit = 3 };
	struct proc_status status;
	char path[64], *text = NULL;
	size_t size = 0;

	int r = pid <= 0 ? error_set(e, -EINVAL, "pid is no process id") : identity_of(pid, &j.process);
	if (r == -ESRCH && upcoming && c->uid == 0) {
		j.state = JOB_UPCOMING;
		j.process = (struct identity){ .pid = pid };
		r = 0;
	} else if (r == -ESRCH) {
		return error_set(e, r, "there is no process %d%s", pid, upcoming ? ", and only root may wait for one" : "; with --upcoming it is waited for");
	}
	if (!r)
		r = tree_require_owner(pid, c->uid, e);
	if (!r)
		r = check_manageable(d, pid, e);
	if (!r)
		r = read_times(&j, body, e);
	if (r)
		return r;
	if (j.state == JOB_RUNNING && proc_read_status(pid, &status) == 0) {
		j.uid = status.uid[0];
		j.gid = status.gid[0];
	}
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	if (read_file_at(AT_FDCWD, path, 1 << 20, &text, &size) == 0)
		for (size_t i = 0; i < MIN(size, sizeof(j.command)) - (size > 0); i++)
			j.command[i] = text[i] ? text[i] : ' ';
	j.command[sizeof(j.command) - 1] = '\0';
	free(text);
	r = put_new(d, &j, field_text(body, "jid"), e);
	daemon_wake(d);
	*ret = j;
	return r;
}

int job_set(struct daemon *d, struct job *j, const json_t *body, struct error *e)
{
	int r = job_lock(d, j, e);

	if (r)
		return r;
	r = read_times(j, body, e);
	if (json_object_get(body, "restart"))
		j->restarts = 0;
	int written = job_unlock(d, j, !r, e);
	daemon_wake(d);
	return r ? r : written;
}

/* ---- the end ---- */

/* Its supervisor stays as long as there is something left of the job, and says so. */
static bool has_rest(struct daemon *d, const struct job *j)
{
	json_t *state = read_state(d, j->jid);
	bool rest = json_is_true(json_object_get(state, "rest"));

	json_decref(state);
	return rest;
}

void job_wait_end(struct daemon *d, struct job *j)
{
	int pidfd = identity_open(j->supervisor.pid ? &j->supervisor : &j->process);
	struct pollfd poller = { .fd = pidfd, .events = POLLIN };
	struct error e = {};

	for (int ms = 0; pidfd >= 0 && ms < END_MS && poll(&poller, 1, WAIT_MS) == 0; ms += WAIT_MS)
		if (!identity_alive(&j->process) && has_rest(d, j))
			break;
	if (pidfd >= 0)
		close(pidfd);
	job_refresh(d, j, &e);
}

/* What a job that has ended has left in the background. */
static int kill_rest(struct daemon *d, struct job *j, int signal, struct error *e)
{
	struct tree rest = {};
	char names[500];
	int r = members_list_strays(d, j, &rest) ? error_set(e, -ENOMEM, "out of memory") : 0;

	if (!r && !rest.count)
		r = error_set(e, -ESRCH, "job %s does not run", j->jid);
	for (size_t i = 0; !r && i < rest.count; i++)
		kill(rest.data[i], signal);
	VEC_FREE(&rest);
	if (!r && signal == SIGKILL)
		members_end(d, j, names, sizeof(names));
	return r;
}

int job_kill(struct daemon *d, struct job *j, int signal, struct error *e)
{
	struct tree t = {}, strays = {};

	if (!job_runs(j))
		return kill_rest(d, j, signal, e);
	int pidfd = identity_open(&j->process);
	if (pidfd < 0)
		return error_set(e, -ESRCH, "job %s does not run", j->jid);
	/* Written first: whoever finds it gone must not take that for a failure and restart it. */
	const bool ends = signal == SIGKILL || signal == SIGTERM, noted = ends && note_kill(d, j->jid);
	int r = job_lock(d, j, e);
	if (!r && ends)
		snprintf(j->ended, sizeof(j->ended), "killed");
	if (!r)
		r = job_unlock(d, j, ends, e);
	/* On a full disk it must be possible to end something: job_refresh writes it when there is room. */
	if (r == -ENOSPC && (noted || !j->restart))
		r = 0;
	if (!r)
		r = tree_list((pid_t)j->process.pid, &t) ? error_set(e, -ENOMEM, "out of memory") : 0;
	/* Those that went to the background outlive their parents, not the job. */
	if (!r && signal == SIGKILL && members_list_strays(d, j, &strays))
		r = error_set(e, -ENOMEM, "out of memory");
	int above = freezer_above((pid_t)j->process.pid);
	for (size_t i = 0; !r && i < t.count; i++)
		kill(t.data[i], signal);
	for (size_t i = 0; !r && i < strays.count; i++)
		kill(strays.data[i], signal);
	/* The freezer of cgroups version 1 keeps even from dying. */
	for (size_t i = 0; !r && i < t.count && signal == SIGKILL; i++)
		freezer_release(t.data[i]);
	VEC_FREE(&t);
	VEC_FREE(&strays);
	close(pidfd);
	if (!r && signal == SIGKILL)
		job_wait_end(d, j);
	freezer_tidy(above);
	return r;
}

static int delete_checkpoints(struct daemon *d, const char *jid, struct error *e)
{
	struct checkpoint_list list = {};
	int r = store_list_checkpoints(d->store, jid, &list, e);

	for (size_t i = 0; !r && i < list.count; i++)
		r = checkpoint_remove(d, &list.data[i], e);
	VEC_FREE(&list);
	return r;
}

int job_delete(struct daemon *d, struct job *j, bool with_checkpoints, struct error *e)
{
	char path[STORE_PATH_MAX + 200];
	int r = busy_begin(d, j->jid, "is being deleted", e);

	if (r)
		return r;
	if (j->supervisor.pid && job_runs(j))
		r = error_set(e, -EBUSY, "job %s runs; fermata job kill %s first", j->jid, j->jid);
	if (!r && with_checkpoints)
		r = delete_checkpoints(d, j->jid, e);
	if (!r)
		r = store_delete_job(d->store, j->jid, e);
	snprintf(path, sizeof(path), "%s/%s", d->jobs_dir, j->jid);
	if (!r)
		remove_tree(path);
	busy_end(d, j->jid);
	return r;
}

/* ---- after a start of the daemon ---- */

int jobs_recover(struct daemon *d, struct error *e)
{
	struct job_list list = {};
	size_t pending;
	int r = store_list_jobs(d->store, &list, e);

	for (size_t i = 0; !r && i < list.count; i++) {
		r = job_refresh(d, &list.data[i], e);
		if (!r && list.data[i].state == JOB_RUNNING)
			log_info("job %s is found again: process %lld", list.data[i].jid, (long long)list.data[i].process.pid);
	}
	VEC_FREE(&list);
	if (!r)
		checkpoints_remove_rest(d);
	return r ? r : checkpoints_recover(d, &pending, e);
}
