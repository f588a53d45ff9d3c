/* See remote.h. */
#include "cli/remote.h"

#include "base/log.h"
#include "image/store/store.h"

#include <ctype.h>
#include <limits.h>
#include <sys/stat.h>

int remote_settings(const struct command_line *c, struct settings *s, struct error *e)
{
	const char *dir = c->config_dir;
	const struct {
		enum setting which;
		const char *value, *option;
	} line[] = { { SETTING_ADDRESS, c->address, "--address" }, { SETTING_PROTOCOL, c->protocol, "--protocol" },
		     { SETTING_TLS_CERT, c->tls_cert, "--tls-cert" }, { SETTING_TLS_KEY, c->tls_key, "--tls-key" },
		     { SETTING_TLS_CA, c->tls_ca, "--tls-ca" }, { SETTING_TLS_NAME, c->tls_name, "--tls-name" } };
	int r = settings_read(s, c->program->name, dir, c->config_json, e);

	if (!r && !strcmp(c->verb->name, "daemon start") && given_find(c->given, "profiling"))
		r = settings_set(s, SETTING_PROFILING, c->profiling ? "true" : "false", "--profiling", e);
	for (size_t i = 0; !r && i < ARRAY_SIZE(line); i++)
		if (line[i].value)
			r = settings_set(s, line[i].which, line[i].value, line[i].option, e);
	return r;
}

void remote_profiling(struct command_line *c, const struct settings *s)
{
	if (!given_find(c->given, "profiling"))
		c->profiling |= settings_bool(s, SETTING_PROFILING);
}

bool remote_leaves_running(const struct command_line *c, const struct settings *s)
{
	return !given_find(c->given, "leave-running") && !given_find(c->given, "leave-stopped") && settings_bool(s, SETTING_LEAVE_RUNNING);
}

void remote_tell_unknown(const struct command_line *c)
{
	_cleanup_free_ struct settings *s = c->config_json ? malloc(sizeof(*s)) : NULL;
	struct error e = {};

	/* What is wrong with them the verb says, and config show names all. */
	if (s && !settings_read(s, c->program->name, "/", c->config_json, &e) && s->unknown[0] && strcmp(c->verb->name, "config show"))
		fprintf(stderr, "Warning: there is no such setting, it is ignored: %s\n", s->unknown);
}

int remote_need_full(struct command_line *c)
{
	const struct option_row *row = option_find(c->program, "address");

	if (!row || !option_belongs(c->program, c->verb, row) || c->no_server || !strcmp(c->verb->name, "config show"))
		return 0;
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};
	/* What is wrong with them the verb says. */
	if (!s || remote_settings(c, s, &e) || !strcmp(settings_text(s, SETTING_PROTOCOL), "unix"))
		return 0;
	return cli_become_full(c);
}

bool remote_wanted(const struct command_line *c, const struct settings *s)
{
	struct stat st;

	if (c->no_server)
		return false;
	if (strcmp(s->value[SETTING_ADDRESS].origin, "default") || strcmp(settings_text(s, SETTING_PROTOCOL), "unix"))
		return true;
	/* Nobody named a daemon, and there is none where it usually is: it is done here. */
	return stat(settings_text(s, SETTING_ADDRESS), &st) == 0;
}

bool remote_wanted_for_path(const struct command_line *c, const struct settings *s)
{
	return remote_wanted(c, s) && (geteuid() == 0 || strcmp(s->value[SETTING_ADDRESS].origin, "default") != 0);
}

json_t *remote_call(struct command_line *c, const char *method, const char *path, json_t *body)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};
	json_t *answer = NULL;
	int r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");

	if (!r)
		r = client_call(s, method, path, body, &answer, &e);
	json_decref(body);
	if (!r)
		return answer;
	cli_report(c, &e);
	return NULL;
}

bool remote_path(const struct command_line *c, char *to, size_t size, const char *format, const char *word)
{
	struct error e = {};
	bool good = *word && strlen(word) < 90;

	for (const char *at = word; *at && good; at++)
		good = isalnum((unsigned char)*at) || strchr("._-", *at);
	if (!good) {
		error_set(&e, -EINVAL, "%.90s is no name of a job or checkpoint: letters, digits, dots, dashes and underscores", word);
		cli_report(c, &e);
		return false;
	}
	char *at = strstr(format, "%s");
	snprintf(to, size, "%.*s%s%s", (int)(at - format), format, word, at + 2);
	return true;
}

json_t *remote_absolute(const char *path)
{
	const char *prefix = store_is_path(path) ? STORE_PREFIX : "", *from = path + strlen(prefix);
	char full[2 * PATH_MAX + 16], here[PATH_MAX];

	if (from[0] == '/' || !getcwd(here, sizeof(here)))
		return json_string(path);
	snprintf(full, sizeof(full), "%s%s/%s", prefix, here, from);
	return json_string(full);
}

json_t *remote_options(const struct command_line *c)
{
	json_t *options = json_object();

	for (size_t i = 0; i < c->given->count; i++) {
		const struct given *g = &c->given->data[i];
		if (option_is_own(g->row->name) || !option_belongs(c->program, c->verb, g->row))
			continue;
		if (g->row->kind == OPTION_LEVEL) {
			/* As often as it was given. */
			json_object_set_new(options, g->row->name, json_integer(c->verbosity));
		} else if (g->row->kind == OPTION_LIST) {
			json_t *list = json_object_get(options, g->row->name);
			if (!list) {
				list = json_array();
				json_object_set_new(options, g->row->name, list);
			}
			json_array_append_new(list, json_string(g->value));
		} else {
			/* A path, which the daemon would take from its own directory. */
			json_t *value = g->value && !strcmp(g->row->name, "parent") ? remote_absolute(g->value) :
					g->value ? json_string(g->value) : json_boolean(!g->negated);
			json_object_set_new(options, g->row->name, value);
		}
	}
	return options;
}

int remote_print(json_t *document)
{
	int r = json_dumpf(document, stdout, JSON_INDENT(1));

	puts("");
	json_decref(document);
	return r ? 1 : 0;
}

int remote_duration(const char *text, long *ret_s, struct error *e)
{
	static const struct {
		char unit;
		long seconds;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
	char *end;

	errno = 0;
	long value = strtol(text, &end, 10), factor = *end ? 0 : 1;
	for (size_t i = 0; i < ARRAY_SIZE(units); i++)
		if (*end == units[i].unit && !end[1])
			factor = units[i].seconds;
	if (errno || end == text || value < 0 || !factor || value > 1000000000 / factor)
		return error_set(e, -EINVAL, "%s is no time; write seconds, or a number with s, m, h or d behind it, 0 for never", text);
	*ret_s = value * factor;
	return 0;
}

/* ---- what the daemon tells ---- */

struct view {
	struct command_line *c;
	bool speaks; /* messages are the answer */
	json_t *done, *profile;
};

static void hear_progress(struct view *v, const json_t *event)
{
	const char *stage = json_string_value(json_object_get(event, "stage"));
	const struct request_progress progress = {
		.stage = stage ? stage : "", .elapsed_ns = (uint64_t)json_integer_value(json_object_get(event, "elapsed_ns")),
		.done = (uint64_t)json_integer_value(json_object_get(event, "done")), .total = (uint64_t)json_integer_value(json_object_get(event, "total")) };

	if (progress_wanted(v->c))
		progress_show(v->c, &progress);
}

static int heard(void *data, json_t *event, struct error *e)
{
	struct view *v = data;
	const char *what = json_string_value(json_object_get(event, "event"));

	if (!what)
		return 0;
	if (!strcmp(what, "progress")) {
		hear_progress(v, event);
		return 0;
	}
	progress_end(v->c);
	if (!strcmp(what, "error"))
		return error_set(e, (int)json_integer_value(json_object_get(event, "code")), "%s", json_string_value(json_object_get(event, "error")));
	if (!strcmp(what, "message") && (v->speaks || !v->c->quiet))
		fprintf(v->c->json || v->c->attach ? stderr : stdout, "%s\n", json_string_value(json_object_get(event, "text")));
	if (!strcmp(what, "profile")) {
		json_decref(v->profile);
		v->profile = json_incref(event);
		profile_take(v->c, v->profile);
	}
	if (!strcmp(what, "done"))
		v->done = json_incref(event);
	return 0;
}

/* One request whose answer is events; `body` is consumed. 0 with v->done, or an error that was reported. */
static int follow(struct view *v, const char *method, const char *path, json_t *body, bool dump, const char *otherwise)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};
	int r = s ? remote_settings(v->c, s, &e) : error_set(&e, -ENOMEM, "out of memory");

	if (!r)
		remote_profiling(v->c, s);
	if (!r && v->c->profiling)
		json_object_set_new(json_object_get(body, "options"), "profiling", json_true());
	if (!r && dump && remote_leaves_running(v->c, s))
		json_object_set_new(json_object_get(body, "options"), "leave-running", json_true());
	if (!r)
		r = client_events(s, method, path, body, heard, v, &e);
	progress_end(v->c);
	json_decref(body);
	if (!r && !v->done)
		r = error_set(&e, -EPIPE, "%s", otherwise);
	return r ? cli_report(v->c, &e) : 0;
}

json_t *remote_work(struct command_line *c, const char *path, json_t *body)
{
	struct view v = { .c = c };

	json_t *result = follow(&v, "POST", path, body, false, "the daemon ended before this was done; ask again") ? NULL : json_incref(json_object_get(v.done, "result"));
	json_decref(v.profile);
	json_decref(v.done);
	return result;
}

json_t *remote_look(struct command_line *c, const char *path)
{
	struct view v = { .c = c, .speaks = !c->json };

	int status = follow(&v, "GET", path, NULL, false, "the daemon ended before this was done; ask again");
	json_t *result = status ? NULL : c->json ? json_incref(json_object_get(v.done, "result")) : json_null();
	json_decref(v.profile);
	json_decref(v.done);
	return result;
}

/* ---- dump ---- */

int remote_dump(struct command_line *c, const char *path)
{
	struct view v = { .c = c };

	if (dump_check_result(c))
		return 1;
	json_t *body = json_pack("{s:o}", "options", remote_options(c));

	if (c->dir)
		json_object_set_new(body, "dir", remote_absolute(c->dir));
	if (c->name)
		json_object_set_new(body, "name", json_string(c->name));
	int status = follow(&v, "POST", path, body, true, "the daemon ended before the dump did; fermata checkpoints says whether it was finished");
	if (!status && c->json) {
		json_t *profile = profile_json(c, true);
		if (profile)
			json_object_set_new(v.done, "profile", profile);
		status = remote_print(json_incref(v.done));
	} else if (!status) {
		profile_print(c, true);
		printf("Dumped to %s\n", json_string_value(json_object_get(v.done, "path")));
	}
	if (v.done)
		status |= dump_write_result(c, json_string_value(json_object_get(v.done, "path")));
	json_decref(v.profile);
	json_decref(v.done);
	return status;
}

/* ---- restore ---- */

static int write_pid(const struct command_line *c, json_int_t pid)
{
	FILE *f = c->request.pidfile ? fopen(c->request.pidfile, "we") : NULL;
	bool good = f && fprintf(f, "%lld", (long long)pid) > 0;

	if (f && fclose(f))
		good = false;
	if (!c->request.pidfile || good)
		return 0;
	fprintf(stderr, "Error: process %lld was restored, but the pid file %s can't be written: %s\n", (long long)pid, c->request.pidfile, strerror(errno));
	return 1;
}

static int announce(struct command_line *c, json_t *job)
{
	json_int_t pid = json_integer_value(json_object_get(job, "pid"));
	const char *jid = json_string_value(json_object_get(job, "job"));
	char attach[200];
	int status = write_pid(c, pid);

	if (c->json && !c->attach) {
		json_t *profile = profile_json(c, false);
		if (profile)
			json_object_set_new(job, "profile", profile);
		return remote_print(json_incref(job)) || status;
	}
	if (!c->attach)
		profile_print(c, false);
	fprintf(c->attach ? stderr : stdout, "Restored successfully, PID: %lld\n", (long long)pid);
	snprintf(attach, sizeof(attach), "/v1/jobs/%s/attach", jid ? jid : "");
	return c->attach ? attach_to(c, attach, jid) : status;
}

int remote_restore(struct command_line *c, const char *path, json_t *body)
{
	struct view v = { .c = c };

	json_object_set_new(body, "events", json_true());
	json_object_set_new(body, "options", remote_options(c));
	json_object_set_new(body, "attachable", json_boolean(c->attachable || c->attach));
	json_object_set_new(body, "attach", json_boolean(c->attach));
	if (c->out)
		json_object_set_new(body, "out", remote_absolute(c->out));
	if (c->as)
		json_object_set_new(body, "as", json_string(c->as));
	if (c->checkpoint)
		json_object_set_new(body, "checkpoint", json_string(c->checkpoint));
	terminal_into(c, body);
	int status = follow(&v, "POST", path, body, false, "the daemon ended before the restore did; fermata job list says what became of it");
	if (!status)
		status = announce(c, json_object_get(v.done, "job"));
	json_decref(v.profile);
	json_decref(v.done);
	return status;
}
