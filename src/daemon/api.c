/* See api.h. */
#include "daemon/api.h"

#include "daemon/helper.h"
#include "daemon/tools.h"
#include "daemon/upkeep.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/un.h>

#define CHILDREN_MAX 100000

unsigned http_status(int code)
{
	switch (-code) {
	case EINVAL:
	case ENAMETOOLONG:
		return 400;
	case EPERM:
	case EACCES:
		return 403;
	case ENOENT:
	case ESRCH:
		return 404;
	case EEXIST:
	case EBUSY:
		return 409;
	case E2BIG:
		return 413;
	case ENOTSUP:
	case ENOEXEC:
		return 422;
	case ENOSPC:
		return 507;
	default:
		return 500;
	}
}

/* ---- how things look outside ---- */

json_t *any_text(const char *text)
{
	json_t *value = json_string(text);

	if (value)
		return value;
	char copy[STORE_PATH_MAX];
	snprintf(copy, sizeof(copy), "%s", text);
	for (char *at = copy; *at; at++)
		if ((unsigned char)*at >= 0x80)
			*at = '?';
	return json_string(copy);
}

static const char *state_of(const struct checkpoint *c)
{
	if (c->state == CHECKPOINT_WHOLE)
		return checkpoint_is_whole(c->path) ? "whole" : "missing";
	return c->state == CHECKPOINT_LEAVING ? "being removed" : "being written";
}

static json_t *checkpoint_json(const struct checkpoint *c)
{
	return json_pack("{s:s, s:s, s:o, s:s, s:s, s:I, s:I, s:I}", "id", c->id, "job", c->jid, "path", any_text(c->path), "kind", c->type, "state",
			 state_of(c), "pid", (json_int_t)c->pid, "time_ns", (json_int_t)c->time_ns, "size",
			 (json_int_t)c->size);
}

/* What a job that has ended has left in the background. */
static json_t *rest_json(struct daemon *d, const struct job *j)
{
	json_t *list = json_array();
	struct tree rest = {};

	if (j->state == JOB_HALTED && members_list_strays(d, j, &rest) == 0)
		for (size_t i = 0; i < rest.count; i++)
			json_array_append_new(list, json_integer(rest.data[i]));
	VEC_FREE(&rest);
	return list;
}

json_t *job_json(struct daemon *d, const struct job *j)
{
	struct checkpoint last;
	struct error none = {};
	const char *status = job_status(j);
	/* What a dump makes of it for the moment. */
	if (!strcmp(status, "traced") && busy_is(d, j->jid))
		status = "dumping";
	json_t *document = json_pack("{s:s, s:s, s:I, s:s, s:s, s:I, s:I, s:s, s:o, s:o, s:b, s:b}", "job", j->jid, "type", j->type, "pid",
				     (json_int_t)j->process.pid, "status", status, "gpu", job_runs(j) && tree_uses_gpu((pid_t)j->process.pid) ? "yes" : "no", "uid", (json_int_t)j->uid, "gid",
				     (json_int_t)j->gid, "ended", j->ended, "command", any_text(j->command), "log", any_text(j->log), "attachable",
				     (int)j->attachable, "own_namespace", (int)j->own_namespace);
	json_t *more = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I, s:I}", "created_ns", (json_int_t)j->created_ns, "ended_ns", (json_int_t)j->ended_ns,
				 "checkpoint_every", (json_int_t)j->every_s, "checkpoint_late_s",
				 (json_int_t)(job_late_ns(j) / 1000000000), "checkpoints_missed", (json_int_t)j->missed, "keep", (json_int_t)j->keep, "restart", j->restart ? "on-failure" : "no",
				 "restart_limit", (json_int_t)j->restart_limit, "restarts", (json_int_t)j->restarts);

	json_object_update(document, more);
	json_decref(more);
	json_object_set_new(document, "left", rest_json(d, j));
	json_object_set_new(document, "exit_code", j->exit_code < 0 ? json_null() : json_integer(j->exit_code));
	json_object_set_new(document, "checkpoint", checkpoint_last(d, j->jid, &last, &none) ? json_null() : checkpoint_json(&last));
	return document;
}

/* ---- about the daemon ---- */

/* A folder that must be written to, and have room. */
static void add_folder(json_t *list, const char *what, const char *path)
{
	struct statvfs room = {};
	const char *error = access(path, W_OK) < 0 || statvfs(path, &room) < 0 ? strerror(errno) : NULL;
	json_t *one = json_pack("{s:s, s:o, s:I}", "what", what, "path", any_text(path), "free_bytes", (json_int_t)(room.f_bavail * room.f_frsize));

	if (error)
		json_object_set_new(one, "error", json_string(error));
	json_array_append_new(list, one);
}

static json_t *list_folders(struct call *c)
{
	json_t *list = json_array();

	add_folder(list, "checkpoint.dir", settings_text(&c->daemon->settings, SETTING_CHECKPOINT_DIR));
	add_folder(list, "log_dir", settings_text(&c->daemon->settings, SETTING_LOG_DIR));
	add_folder(list, "db.path", c->daemon->state_dir);
	return list;
}

static int get_health(struct call *c, struct error *e)
{
	const char *full = c->query(c->connection, "full");

	c->answer = json_pack("{s:s, s:i, s:I, s:i}", "version", FERMATA_VERSION, "pid", getpid(), "started_ns", (json_int_t)c->daemon->started_ns,
			      "uid", (int)c->caller.uid);
	if (c->answer && full && !strcmp(full, "true"))
		json_object_set_new(c->answer, "folders", list_folders(c));
	return 0;
}

static int get_config(struct call *c, struct error *e)
{
	if (c->caller.uid)
		return error_set(e, -EPERM, "only root may see the daemon's configuration");
	c->answer = settings_json(&c->daemon->settings);
	return 0;
}

static int get_openapi(struct call *c, struct error *e)
{
	c->answer = routes_openapi(c->daemon->vocabulary);
	return 0;
}

static int get_metrics(struct call *c, struct error *e)
{
	if (!settings_bool(&c->daemon->settings, SETTING_METRICS))
		return error_set(e, -ENOENT, "metrics are switched off in the configuration");
	c->text = metrics_text(c->daemon);
	c->text_type = "text/plain; version=0.0.4";
	return c->text ? 0 : error_set(e, -ENOMEM, "out of memory");
}

/* ---- jobs ---- */

static int get_job(struct call *c, struct job *ret, struct error *e)
{
	return job_get(c->daemon, &c->caller, c->words[0], ret, e);
}

static int answer_job(struct call *c, const struct job *j)
{
	c->answer = job_json(c->daemon, j);
	return 0;
}

static int list_jobs(struct call *c, struct error *e)
{
	struct job_list list = {};
	int r = job_list(c->daemon, &c->caller, &list, e);

	if (!r)
		c->answer = json_array();
	for (size_t i = 0; !r && i < list.count; i++)
		json_array_append_new(c->answer, job_json(c->daemon, &list.data[i]));
	VEC_FREE(&list);
	return r;
}

static int run_job(struct call *c, struct error *e)
{
	struct job j;
	int r = job_run(c->daemon, &c->caller, c->body, &j, e);

	return r ? r : answer_job(c, &j);
}

static int manage_job(struct call *c, struct error *e)
{
	struct job j;
	int r = job_manage(c->daemon, &c->caller, c->body, &j, e);

	return r ? r : answer_job(c, &j);
}

static int show_job(struct call *c, struct error *e)
{
	struct job j;
	int r = get_job(c, &j, e);

	return r ? r : answer_job(c, &j);
}

static int set_job(struct call *c, struct error *e)
{
	struct job j;
	int r = get_job(c, &j, e);

	if (!r)
		r = job_set(c->daemon, &j, c->body, e);
	return r ? r : answer_job(c, &j);
}

static int delete_job(struct call *c, struct error *e)
{
	const char *also = c->query(c->connection, "checkpoints");
	struct job j;
	int r = get_job(c, &j, e);
	json_t *left = r ? NULL : rest_json(c->daemon, &j);

	if (!r)
		r = job_delete(c->daemon, &j, also && !strcmp(also, "true"), e);
	if (!r)
		c->answer = json_pack("{s:s, s:O}", "deleted", j.jid, "left", left);
	json_decref(left);
	return r;
}

static int kill_job(struct call *c, struct error *e)
{
	const json_t *number = json_object_get(c->body, "signal");
	struct job j;
	int signal = number ? (int)json_integer_value(number) : SIGKILL, r = get_job(c, &j, e);

	if (!r && (signal < 1 || signal > 64))
		r = error_set(e, -EINVAL, "%d is no signal", signal);
	if (!r)
		r = members_require_owner(c->daemon, &j, c->caller.uid, e);
	if (!r)
		r = job_kill(c->daemon, &j, signal, e);
	return r ? r : answer_job(c, &j);
}

static int stop_job(struct call *c, bool stop, struct error *e)
{
	struct job j;
	int r = get_job(c, &j, e);

	if (!r && !job_runs(&j))
		r = error_set(e, -ESRCH, "job %s does not run", j.jid);
	if (!r)
		r = tree_require_owner((pid_t)j.process.pid, c->caller.uid, e);
	if (!r)
		r = busy_begin(c->daemon, j.jid, stop ? "is being frozen" : "is being continued", e);
	if (r)
		return r;
	r = stop ? tree_freeze_all((pid_t)j.process.pid, e) : tree_unfreeze_all((pid_t)j.process.pid, e);
	busy_end(c->daemon, j.jid);
	return r ? r : answer_job(c, &j);
}

static int freeze_job(struct call *c, struct error *e)
{
	return stop_job(c, true, e);
}

static int unfreeze_job(struct call *c, struct error *e)
{
	return stop_job(c, false, e);
}

static int dump_job(struct call *c, struct error *e)
{
	struct job j;
	int r = get_job(c, &j, e);

	return r ? r : operation_dump(c->daemon, &c->caller, &j, (pid_t)j.process.pid, c->body, false, &c->events, e);
}

static bool wants_events(const struct call *c)
{
	return json_is_true(json_object_get(c->body, "events"));
}

static int restore_job(struct call *c, struct error *e)
{
	struct job j, after;
	int r = get_job(c, &j, e);

	if (!r && wants_events(c))
		return job_restore_begin(c->daemon, &c->caller, &j, c->body, &c->events, e);
	if (!r)
		r = job_restore(c->daemon, &c->caller, &j, c->body, NULL, &after, e);
	return r ? r : answer_job(c, &after);
}

static int show_log(struct call *c, struct error *e)
{
	struct job j;
	int r = get_job(c, &j, e);

	if (!r && !j.log[0])
		r = error_set(e, -ENOENT, "job %s was not started here: its output goes where it went", j.jid);
	if (!r)
		c->file = open(j.log, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (!r && c->file < 0)
		r = error_errno(e, -errno, "cannot read %s", j.log);
	return r;
}

/* ---- attach ---- */

static int connect_supervisor(struct daemon *d, const struct job *j, struct error *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char path[STORE_PATH_MAX + 200];

	snprintf(path, sizeof(path), "%s/%s", d->jobs_dir, j->jid);
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" SUPERVISOR_SOCKET, dir);
	if (dir < 0 || fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_set(e, -ESRCH, "job %s has ended", j->jid);
	return TAKE_FD(fd);
}

static int attach_job(struct call *c, struct error *e)
{
	struct job j;
	int r = get_job(c, &j, e);

	if (!r && !j.attachable && !j.log[0])
		r = error_set(e, -EINVAL, "job %s was not started here, and has no terminal of ours: what it writes goes where it went", j.jid);
	if (!r && !j.attachable)
		r = error_set(e, -EINVAL, "job %s was not started with --attachable; fermata job logs %s shows its output", j.jid, j.jid);
	if (r)
		return r;
	c->attach = connect_supervisor(c->daemon, &j, e);
	return c->attach < 0 ? c->attach : 0;
}

/* ---- checkpoints ---- */

static int answer_checkpoints(struct call *c, const char *jid, struct error *e)
{
	struct checkpoint_list list = {};
	int r = store_list_checkpoints(c->daemon->store, jid, &list, e);

	if (!r)
		c->answer = json_array();
	for (size_t i = 0; !r && i < list.count; i++)
		if (c->caller.uid == 0 || list.data[i].uid == (int64_t)c->caller.uid)
			json_array_append_new(c->answer, checkpoint_json(&list.data[i]));
	VEC_FREE(&list);
	return r;
}

static int list_job_checkpoints(struct call *c, struct error *e)
{
	struct job j;
	int r = get_job(c, &j, e);

	return r ? r : answer_checkpoints(c, j.jid, e);
}

static int list_checkpoints(struct call *c, struct error *e)
{
	return answer_checkpoints(c, NULL, e);
}

static int show_checkpoint(struct call *c, struct error *e)
{
	struct checkpoint k;
	int r = call_get_checkpoint(c, &k, e);

	if (!r)
		c->answer = checkpoint_json(&k);
	return r;
}

int call_answer_tool(struct call *c, json_t *words, struct error *e)
{
	const char *format = c->query(c->connection, "format"), *verbose = c->query(c->connection, "verbose"), *events = c->query(c->connection, "events");
	bool text = format && !strcmp(format, "text");

	if (words && verbose && !strcmp(verbose, "true"))
		json_array_append_new(words, json_string("-v4"));
	if (!text && words)
		json_array_append_new(words, json_string("--json"));
	if (events && !strcmp(events, "true")) {
		const struct tool_work work = { .words = words, .speaks = text };
		return tool_begin(c->daemon, &work, &c->events, e);
	}
	if (!text)
		return tool_json(words, &c->answer, e);
	c->text_type = "text/plain; charset=utf-8";
	return tool_text(words, &c->text, e);
}

static int inspect_checkpoint(struct call *c, struct error *e)
{
	const char *skip = c->query(c->connection, "skip-verify");
	struct checkpoint k;
	int r = call_get_checkpoint(c, &k, e);

	return r ? r : call_answer_tool(c, json_pack("[s, s, s*]", "inspect", k.path, skip && !strcmp(skip, "true") ? "--skip-verify" : NULL), e);
}

static int compare_checkpoints(struct call *c, struct error *e)
{
	struct checkpoint one, other;
	int r = call_get_checkpoint(c, &one, e);

	c->words[0] = c->words[1];
	if (!r)
		r = call_get_checkpoint(c, &other, e);
	return r ? r : call_answer_tool(c, json_pack("[s, s, s]", "diff", one.path, other.path), e);
}

/* ---- the machine ---- */

static int get_features(struct call *c, struct error *e)
{
	return call_answer_tool(c, json_pack("[s]", "features"), e);
}

static int get_check(struct call *c, struct error *e)
{
	const char *dir = c->caller.uid ? c->daemon->private_dir : settings_text(&c->daemon->settings, SETTING_CHECKPOINT_DIR);

	return call_answer_tool(c, json_pack("[s, s, s]", "check", "--dir", dir), e);
}

/* ---- processes ---- */

static int get_pid(struct call *c, pid_t *ret, struct error *e)
{
	char *end;
	long pid = strtol(c->words[0], &end, 10);

	if (*end || pid <= 0 || pid > INT_MAX)
		return error_set(e, -EINVAL, "%.40s is no process id", c->words[0]);
	if (kill((pid_t)pid, 0) < 0 && errno == ESRCH)
		return error_set(e, -ESRCH, "there is no process %ld", pid);
	*ret = (pid_t)pid;
	return tree_require_owner((pid_t)pid, c->caller.uid, e);
}

/* The job that the process is the root of: what is done to one is done to the other. */
static bool find_job(struct call *c, pid_t pid, struct job *ret)
{
	struct job_list list = {};
	struct error e = {};
	bool found = false;

	if (job_list(c->daemon, &c->caller, &list, &e) == 0)
		for (size_t i = 0; i < list.count && !found; i++)
			if (list.data[i].process.pid == pid && job_runs(&list.data[i])) {
				*ret = list.data[i];
				found = true;
			}
	VEC_FREE(&list);
	return found;
}

static int dump_process(struct call *c, struct error *e)
{
	struct job j;
	pid_t pid = 0;
	int r = get_pid(c, &pid, e);

	if (r)
		return r;
	bool is_job = find_job(c, pid, &j);
	return operation_dump(c->daemon, &c->caller, is_job ? &j : NULL, pid, c->body, false, &c->events, e);
}

static int show_process(struct call *c, struct error *e)
{
	const char *tree = c->query(c->connection, "tree");
	pid_t pid = 0;
	int r = get_pid(c, &pid, e);
	json_t *words = r ? NULL : json_pack("[s, s, s, s]", "query", "process", c->words[0], "--inspect");

	if (words && tree && !strcmp(tree, "true"))
		json_array_append_new(words, json_string("--tree"));
	return r ? r : call_answer_tool(c, words, e);
}

static int check_process(struct call *c, struct error *e)
{
	pid_t pid = 0;
	int r = get_pid(c, &pid, e);
	json_t *words = r ? NULL : json_pack("[s, s, s]", "check", "process", c->words[0]);

	if (!r)
		r = options_words(json_object_get(c->body, "options"), words, e);
	if (!r)
		return call_answer_tool(c, words, e);
	json_decref(words);
	return r;
}

static int stop_process(struct call *c, bool stop, struct error *e)
{
	pid_t pid = 0;
	int r = get_pid(c, &pid, e);

	if (!r)
		r = stop ? tree_freeze_all(pid, e) : tree_unfreeze_all(pid, e);
	if (!r)
		c->answer = json_pack("{s:i}", "pid", pid);
	return r;
}

static int freeze_process(struct call *c, struct error *e)
{
	return stop_process(c, true, e);
}

static int unfreeze_process(struct call *c, struct error *e)
{
	return stop_process(c, false, e);
}

static int attach_process(struct call *c, struct error *e)
{
	struct job j;
	pid_t pid = 0;
	int r = get_pid(c, &pid, e);

	if (!r && !find_job(c, pid, &j))
		r = error_set(e, -ENOENT, "process %d is no job of this daemon; start it with fermata run process --attachable", pid);
	if (r)
		return r;
	snprintf(c->copies[0], sizeof(c->copies[0]), "%s", j.jid);
	c->words[0] = c->copies[0];
	return attach_job(c, e);
}

static int restore_path(struct call *c, struct error *e)
{
	struct job after;

	if (wants_events(c))
		return job_restore_begin(c->daemon, &c->caller, NULL, c->body, &c->events, e);
	int r = job_restore(c->daemon, &c->caller, NULL, c->body, NULL, &after, e);

	return r ? r : answer_job(c, &after);
}

/* Fields that several requests share, see fields.h. */
#define TIMES "every:integer keep:integer restart restart_limit:integer"
#define TERMINAL "attachable:boolean attach:boolean raw:boolean rows:integer columns:integer"
#define RUN "jid argv:texts env:texts cwd umask:integer out as_root:boolean " TERMINAL " " TIMES
#define MANAGE "pid:integer jid upcoming:boolean " TIMES
#define DUMP "dir name options:dump-process"
#define RESTORE "path checkpoint as out events:boolean options:restore-process " TERMINAL
#define STORE "store key"
#define PRINTED "format verbose:boolean"
#define TOLD PRINTED " events:boolean"

const struct route routes[] = {
	{ "GET", "/v1/health", "Version and pid of the daemon; with `full` its folders too", "full:boolean", NULL, "json", get_health },
	{ "GET", "/v1/config", "Each setting, and where it comes from", NULL, NULL, "json", get_config },
	{ "GET", "/v1/openapi.json", "This document", NULL, NULL, "json", get_openapi },
	{ "GET", "/metrics", "Counters for Prometheus", NULL, NULL, "text", get_metrics },
	{ "GET", "/v1/jobs", "All jobs, the newest first", NULL, NULL, "json", list_jobs },
	{ "POST", "/v1/jobs/run", "Start a program as a job", NULL, RUN, "json", run_job },
	{ "POST", "/v1/jobs/manage", "Make a job of a process that runs, or will", NULL, MANAGE, "json", manage_job },
	{ "POST", "/v1/jobs/restore", "Restore a checkpoint as a new job; with `events` the answer is events", NULL, RESTORE, "json", restore_path },
	{ "GET", "/v1/jobs/{jid}", "One job", NULL, NULL, "json", show_job },
	{ "PATCH", "/v1/jobs/{jid}", "Change periodic checkpoints and restarts", NULL, TIMES, "json", set_job },
	{ "DELETE", "/v1/jobs/{jid}", "Forget a job that does not run; with `checkpoints` its checkpoints are removed",
	  "checkpoints:boolean", NULL, "json", delete_job },
	{ "POST", "/v1/jobs/{jid}/kill", "Send a signal to all of its processes, SIGKILL when none is given", NULL, "signal:integer", "json", kill_job },
	{ "POST", "/v1/jobs/{jid}/freeze", "Stop all of its processes", NULL, NULL, "json", freeze_job },
	{ "POST", "/v1/jobs/{jid}/unfreeze", "Continue them", NULL, NULL, "json", unfreeze_job },
	{ "POST", "/v1/jobs/{jid}/dump", "Make a checkpoint", NULL, DUMP, "events", dump_job },
	{ "POST", "/v1/jobs/{jid}/restore", "Restore its last checkpoint, another of its, or one beside it under the name `as`; with `events` the answer is events",
	  NULL, RESTORE, "json", restore_job },
	{ "GET", "/v1/jobs/{jid}/log", "Its output so far", NULL, NULL, "text", show_log },
	{ "GET", "/v1/jobs/{jid}/attach", "Its terminal: the connection is upgraded to frames", NULL, NULL, "attach", attach_job },
	{ "GET", "/v1/jobs/{jid}/checkpoints", "Its checkpoints, the newest first", NULL, NULL, "json", list_job_checkpoints },
	{ "GET", "/v1/checkpoints", "All checkpoints, the newest first", NULL, NULL, "json", list_checkpoints },
	{ "POST", "/v1/checkpoints/flatten", "Give a checkpoint, named by its path, all the pages that it has in parents",
	  NULL, "path", "events", call_flatten_path },
	{ "GET", "/v1/checkpoints/{id}", "One checkpoint", NULL, NULL, "json", show_checkpoint },
	{ "DELETE", "/v1/checkpoints/{id}", "Remove a checkpoint", NULL, NULL, "json", call_delete_checkpoint },
	{ "GET", "/v1/checkpoints/{id}/inspect", "What it holds; with `format` text for people, `verbose`: each area of memory, thread and file; with `events` the answer is events",
	  TOLD " skip-verify:boolean", NULL, "json", inspect_checkpoint },
	{ "GET", "/v1/checkpoints/{id}/verify", "Compare it with its checksums; with `events` the answer is events",
	  TOLD, NULL, "json", call_verify_checkpoint },
	{ "GET", "/v1/checkpoints/{id}/diff/{other}", "In which files two differ; with `events` the answer is events", TOLD, NULL, "json", compare_checkpoints },
	{ "POST", "/v1/checkpoints/{id}/flatten", "Give it all the pages that it has in parents, so that it needs none",
	  NULL, NULL, "events", call_flatten_checkpoint },
	{ "GET", "/v1/inspect", "What a checkpoint holds, named by its path; `key`: the file with its store's key", TOLD " path key", NULL, "json", call_inspect_path },
	{ "GET", "/v1/verify", "Compare a checkpoint, named by its path, with its checksums", TOLD " path key", NULL, "json", call_verify_path },
	{ "GET", "/v1/diff", "In which files two differ, named by their paths", TOLD " path other key", NULL, "json", call_diff_paths },
	{ "POST", "/v1/store/ls", "The checkpoints of a store; `key`: the file with its key", NULL, STORE, "events", call_store_ls },
	{ "POST", "/v1/store/stats", "How much is in a store, and how much of it is kept once for several", NULL, STORE, "events", call_store_stats },
	{ "POST", "/v1/store/verify", "Compare every chunk of a store with its hash", NULL, STORE, "events", call_store_verify },
	{ "POST", "/v1/store/prune", "Remove the chunks that no checkpoint of a store needs", NULL, STORE, "events", call_store_prune },
	{ "POST", "/v1/store/rm", "Remove a checkpoint, store:/DIR/NAME; its chunks go with a prune, some time",
	  NULL, "checkpoint key", "json", call_store_rm },
	{ "GET", "/v1/features", "What can be saved, and what is refused", PRINTED, NULL, "json", get_features },
	{ "GET", "/v1/check", "What the machine has of what dump and restore need", PRINTED, NULL, "json", get_check },
	{ "GET", "/v1/processes/{pid}", "A process; with `tree` all below it", PRINTED " tree:boolean", NULL, "json", show_process },
	{ "POST", "/v1/processes/{pid}/check", "Whether it can be saved, with all below it, and what is in the way",
	  PRINTED, "options:check-process", "json", check_process },
	{ "POST", "/v1/processes/{pid}/dump", "Make a checkpoint of a process and all below it", NULL, DUMP, "events", dump_process },
	{ "POST", "/v1/processes/{pid}/freeze", "Stop a process and all below it", NULL, NULL, "json", freeze_process },
	{ "POST", "/v1/processes/{pid}/unfreeze", "Continue them", NULL, NULL, "json", unfreeze_process },
	{ "GET", "/v1/processes/{pid}/attach", "The terminal of the job that the process is", NULL, NULL, "attach", attach_process },
};
const size_t routes_count = ARRAY_SIZE(routes);

/* Compares with a path that has words in braces. */
static bool matches(const char *pattern, const char *path, struct call *c)
{
	size_t word = 0;

	while (*pattern) {
		if (*pattern == '{') {
			size_t length = strcspn(path, "/");
			if (!length || length >= sizeof(c->copies[0]) || word == ARRAY_SIZE(c->copies))
				return false;
			snprintf(c->copies[word], sizeof(c->copies[0]), "%.*s", (int)length, path);
			c->words[word] = c->copies[word];
			word++;
			path += length;
			pattern = strchr(pattern, '}') + 1;
		} else if (*pattern++ != *path++) {
			return false;
		}
	}
	return !*path;
}

const struct route *route_find(const char *method, const char *path, struct call *c, bool *ret_known)
{
	*ret_known = false;
	for (size_t i = 0; i < ARRAY_SIZE(routes); i++) {
		if (!matches(routes[i].path, path, c))
			continue;
		*ret_known = true;
		if (!strcmp(routes[i].method, method))
			return &routes[i];
	}
	return NULL;
}
