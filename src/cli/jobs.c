/* The verbs of jobs and their checkpoints. Each is one request to the daemon, and a table of the answer or, with --json, the answer. */
#include "cli/remote.h"

#include "base/log.h"
#include "daemon/identity.h"

#include <signal.h>
#include <time.h>

static const char *text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

/* One request about the job or checkpoint named first; the answer, or NULL. */
static json_t *about(struct command_line *c, const char *method, const char *format, json_t *body)
{
	char path[200];

	if (remote_path(c, path, sizeof(path), format, c->words[0]))
		return remote_call(c, method, path, body);
	json_decref(body);
	return NULL;
}

/* ---- lists ---- */

static void text_time(char when[64], json_int_t ns)
{
	time_t seconds = (time_t)(ns / 1000000000);
	struct tm parts;

	strftime(when, 64, "%Y-%m-%dT%H:%M:%S", localtime_r(&seconds, &parts));
}

static void put_job(struct table *t, const json_t *job)
{
	const json_t *last = json_object_get(job, "checkpoint");
	char ago[32] = "-", size[32] = "-";

	if (json_is_object(last)) {
		text_ago(ago, number(last, "time_ns"));
		text_size(size, (uint64_t)number(last, "size"));
	}
	table_put(t, "%s", text(job, "job"));
	table_put(t, "%s", text(job, "type"));
	table_put(t, "%lld", (long long)number(job, "pid"));
	table_put(t, "%s", text(job, "status"));
	table_put(t, "%s", text(job, "gpu"));
	table_put(t, "%s", ago);
	table_put(t, "%s", size);
	table_put(t, "%s", text(job, "log"));
}

int verb_job_list(struct command_line *c)
{
	static const char *const heads[] = { "JOB", "TYPE", "PID", "STATUS", "GPU", "CHECKPOINT", "SIZE", "LOG" };
	json_t *list = remote_call(c, "GET", "/v1/jobs", NULL);

	if (!list)
		return 1;
	if (c->json)
		return remote_print(list);
	if (!json_array_size(list)) {
		puts("No jobs found.");
	} else {
		struct table *t = table_new(heads, ARRAY_SIZE(heads));
		for (size_t i = 0; i < json_array_size(list); i++)
			put_job(t, json_array_get(list, i));
		table_print(t);
	}
	json_decref(list);
	return 0;
}

static int print_checkpoints(struct command_line *c, json_t *list)
{
	static const char *const heads[] = { "ID", "TIME", "SIZE", "PATH" };

	if (!list)
		return 1;
	if (c->json)
		return remote_print(list);
	struct table *t = json_array_size(list) ? table_new(heads, ARRAY_SIZE(heads)) : NULL;
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *one = json_array_get(list, i);
		char when[64], size[32];
		text_time(when, number(one, "time_ns"));
		text_size(size, (uint64_t)number(one, "size"));
		table_put(t, "%s", text(one, "id"));
		table_put(t, "%s", when);
		table_put(t, "%s", !strcmp(text(one, "state"), "whole") ? size : !strcmp(text(one, "state"), "missing") ? "missing" :
				   !strcmp(text(one, "state"), "being removed") ? "leaving" : "writing");
		table_put(t, "%s", text(one, "path"));
	}
	if (t)
		table_print(t);
	else
		puts("No checkpoints found.");
	json_decref(list);
	return 0;
}

int verb_job_checkpoints(struct command_line *c)
{
	json_t *list = c->words[0] ? about(c, "GET", "/v1/jobs/%s/checkpoints", NULL) : remote_call(c, "GET", "/v1/checkpoints", NULL);

	return print_checkpoints(c, list);
}

int verb_checkpoints(struct command_line *c)
{
	return print_checkpoints(c, remote_call(c, "GET", "/v1/checkpoints", NULL));
}

/* ---- one ---- */

/* Times as a clock shows them, and of an object its parts. */
static void print_value(const char *prefix, const char *key, const json_t *value)
{
	const size_t length = strlen(key);
	const bool is_time = length > 3 && !strcmp(key + length - 3, "_ns") && json_is_integer(value);
	char when[64] = "", name[64];
	const char *inner;
	json_t *part;

	snprintf(name, sizeof(name), "%s%.*s%s", prefix, (int)(is_time ? length - 3 : length), key, is_time && strcmp(key, "time_ns") ? " at" : "");
	if (is_time && json_integer_value(value))
		text_time(when, json_integer_value(value));
	if (json_is_object(value)) {
		snprintf(name, sizeof(name), "%s%s ", prefix, key);
		json_object_foreach((json_t *)value, inner, part)
			print_value(name, inner, part);
		return;
	}
	char *line = is_time || json_is_string(value) || json_is_null(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
	const char *text = line ? line : json_is_string(value) ? json_string_value(value) : when;
	printf("%-19s %s\n", name, *text ? text : "-");
	free(line);
}

static int print_object(struct command_line *c, json_t *object)
{
	const char *key;
	json_t *value;

	if (!object)
		return 1;
	if (c->json)
		return remote_print(object);
	json_object_foreach(object, key, value)
		print_value("", key, value);
	json_decref(object);
	return 0;
}

int verb_job_inspect(struct command_line *c)
{
	return print_object(c, about(c, "GET", "/v1/jobs/%s", NULL));
}

/* The daemon looks at it: it may lie where we can't. */
int verb_checkpoint_inspect(struct command_line *c)
{
	char path[200], full[260];

	if (!remote_path(c, path, sizeof(path), "/v1/checkpoints/%s/inspect?events=true", c->words[0]))
		return 1;
	snprintf(full, sizeof(full), "%s%s%s%s", path, c->json ? "" : "&format=text", c->verbosity > LOG_LEVEL_WARNING ? "&verbose=true" : "",
		 c->request.skip_verify ? "&skip-verify=true" : "");
	json_t *found = c->json ? about(c, "GET", "/v1/checkpoints/%s", NULL) : json_object(), *content = found ? remote_look(c, full) : NULL;
	if (content && c->json) {
		json_object_set_new(found, "content", content);
		return remote_print(found);
	}
	json_decref(found);
	return !content;
}

int verb_checkpoint_delete(struct command_line *c)
{
	json_t *gone = about(c, "DELETE", "/v1/checkpoints/%s", NULL);

	if (!gone)
		return 1;
	if (c->json)
		return remote_print(gone);
	printf("Deleted checkpoint %s\n", text(gone, "deleted"));
	json_decref(gone);
	return 0;
}

int verb_job_logs(struct command_line *c)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};
	char path[200];

	if (!remote_path(c, path, sizeof(path), "/v1/jobs/%s/log", c->words[0]))
		return 1;
	int r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");
	if (!r)
		r = client_copy(s, path, STDOUT_FILENO, &e);
	return r ? cli_report(c, &e) : 0;
}

/* ---- kill, delete ---- */

static int signal_number(const char *text, struct error *e)
{
	char *end;
	long n = strtol(text, &end, 10);
	const char *name = !strncmp(text, "SIG", 3) ? text + 3 : text;

	if (!*end && end != text && n > 0 && n < 65)
		return (int)n;
	for (int i = 1; i < 32; i++)
		if (sigabbrev_np(i) && !strcmp(sigabbrev_np(i), name))
			return i;
	return error_set(e, -EINVAL, "%s is no signal; write its number or name", text);
}

static bool is_sure(const char *what)
{
	char answer[16];

	if (!isatty(STDIN_FILENO))
		return true;
	fprintf(stderr, "%s? [y/N] ", what);
	return fgets(answer, sizeof(answer), stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

static bool is_any(const json_t *job)
{
	return true;
}

/* The job named, or with --all every one: `act` for each. */
static int for_each(struct command_line *c, const char *question, const char *none, bool (*wanted)(const json_t *job), json_t *(*act)(struct command_line *c),
		    void (*print)(const struct command_line *c, const json_t *answer))
{
	char *one[] = { NULL, NULL };
	json_t *answers = json_array();
	int status = 0;
	size_t acted = 0;

	if (!c->all && !c->words[0]) {
		fprintf(stderr, "Error: %s %s needs the job, or --all\n", c->program->name, c->verb->name);
		json_decref(answers);
		return c->program->usage_status;
	}
	json_t *list = NULL;
	if (!c->all) {
		list = json_pack("[{s:s}]", "job", c->words[0]);
		wanted = is_any;
	} else if (is_sure(question)) {
		list = remote_call(c, "GET", "/v1/jobs", NULL);
	}
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *job = json_array_get(list, i);
		if (!wanted(job))
			continue;
		one[0] = (char *)text(job, "job");
		c->words = one;
		acted++;
		json_t *answer = act(c);
		if (answer && !c->json)
			print(c, answer);
		if (!answer || json_array_append_new(answers, answer))
			status = 1;
	}
	if (list && !acted) {
		fprintf(stderr, "Error: there is no such job: %s\n", none);
		status = 1;
	}
	/* Of one it is that one's answer, of all a list. */
	if (list && c->json && (c->all || json_array_size(answers)))
		status |= remote_print(json_incref(c->all ? answers : json_array_get(answers, 0)));
	json_decref(answers);
	json_decref(list);
	return list ? status : 1;
}

static bool is_halted(const json_t *job)
{
	return !strcmp(text(job, "status"), "halted") || !strcmp(text(job, "status"), "stale");
}

static bool is_running(const json_t *job)
{
	return !is_halted(job) && strcmp(text(job, "status"), "upcoming");
}

static int signal_of(const struct command_line *c, struct error *e)
{
	return c->signal ? signal_number(c->signal, e) : SIGKILL;
}

static json_t *kill_one(struct command_line *c)
{
	struct error e;

	return about(c, "POST", "/v1/jobs/%s/kill", json_pack("{s:i}", "signal", signal_of(c, &e)));
}

static void print_killed(const struct command_line *c, const json_t *answer)
{
	struct error e;
	int signal = signal_of(c, &e);

	if (signal == SIGKILL)
		printf("Killed job %s\n", c->words[0]);
	else
		printf("Sent signal %d to job %s\n", signal, c->words[0]);
}

int verb_job_kill(struct command_line *c)
{
	struct error e = {};

	return signal_of(c, &e) < 0 ? cli_report(c, &e) : for_each(c, "Kill all jobs", "none runs", is_running, kill_one, print_killed);
}

static json_t *delete_one(struct command_line *c)
{
	return about(c, "DELETE", c->with_checkpoints ? "/v1/jobs/%s?checkpoints=true" : "/v1/jobs/%s", NULL);
}

static void print_deleted(const struct command_line *c, const json_t *answer)
{
	const json_t *left = json_object_get(answer, "left"), *pid;
	size_t i;

	json_array_foreach(left, i, pid)
		fprintf(stderr, "Warning: process %lld, which job %s has left in the background, runs on and is no job's any more\n",
			(long long)json_integer_value(pid), c->words[0]);
	printf("Deleted job %s\n", c->words[0]);
}

int verb_job_delete(struct command_line *c)
{
	return for_each(c, "Delete all jobs that have ended", "none has ended", is_halted, delete_one, print_deleted);
}

/* ---- dump, restore, freeze ---- */

int verb_dump_job(struct command_line *c)
{
	char path[200];

	return remote_path(c, path, sizeof(path), "/v1/jobs/%s/dump", c->words[0]) ? remote_dump(c, path) : 1;
}

int verb_restore_job(struct command_line *c)
{
	json_t *body = json_object();
	char path[200];

	if (c->path)
		json_object_set_new(body, "path", remote_absolute(c->path));
	if (remote_path(c, path, sizeof(path), "/v1/jobs/%s/restore", c->words[0]))
		return remote_restore(c, path, body);
	json_decref(body);
	return 1;
}

static int stop_job(struct command_line *c, const char *format, const char *word)
{
	json_t *job = about(c, "POST", format, NULL);

	if (!job)
		return 1;
	if (c->json)
		return remote_print(job);
	printf("%s process PID %lld\n", word, (long long)number(job, "pid"));
	json_decref(job);
	return 0;
}

int verb_freeze_job(struct command_line *c)
{
	return stop_job(c, "/v1/jobs/%s/freeze", "Froze");
}

int verb_unfreeze_job(struct command_line *c)
{
	return stop_job(c, "/v1/jobs/%s/unfreeze", "Unfroze");
}

static int stop_process(struct command_line *c, bool stop)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};
	pid_t pid;
	int r = cli_parse_pid(c->words[0], &pid, &e);

	if (!r)
		r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");
	if (!r && remote_wanted(c, s))
		return stop_job(c, stop ? "/v1/processes/%s/freeze" : "/v1/processes/%s/unfreeze", stop ? "Froze" : "Unfroze");
	if (!r)
		r = stop ? tree_freeze_all(pid, &e) : tree_unfreeze_all(pid, &e);
	if (r)
		return cli_report(c, &e);
	if (c->json)
		return remote_print(json_pack("{s:i}", "pid", pid));
	printf("%s process PID %d\n", stop ? "Froze" : "Unfroze", pid);
	return 0;
}

int verb_freeze_process(struct command_line *c)
{
	return stop_process(c, true);
}

int verb_unfreeze_process(struct command_line *c)
{
	return stop_process(c, false);
}
