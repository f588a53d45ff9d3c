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
	int r = settings_read(s, c->program->name, dir, c->config_json, e);

	if (!r && c->address)
		r = settings_set(s, SETTING_ADDRESS, c->address, "--address", e);
	return !r && c->protocol ? settings_set(s, SETTING_PROTOCOL, c->protocol, "--protocol", e) : r;
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
		error_set(&e, -EINVAL, "%.90s is no name of a job or checkpoint: letters, digits, dots and dashes", word);
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

/* Options of the request that are this side's, or that have a place of their own in it. */
static bool is_own(const char *name)
{
	static const char *const names[] = { "dir", "name", "path", "no-server", "json", "pid-file", "attach", "attachable", "out", "detach", "config",
					     "config-dir", "address", "protocol", "as", "checkpoint", "quiet", "verbosity", "log-file", "criu-opts" };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return true;
	return false;
}

json_t *remote_options(const struct command_line *c)
{
	json_t *options = json_object();

	for (size_t i = 0; i < c->given->count; i++) {
		const struct given *g = &c->given->data[i];
		if (is_own(g->row->name) || !option_belongs(c->program, c->verb, g->row))
			continue;
		if (g->row->kind == OPTION_LIST) {
			json_t *list = json_object_get(options, g->row->name);
			if (!list) {
				list = json_array();
				json_object_set_new(options, g->row->name, list);
			}
			json_array_append_new(list, json_string(g->value));
		} else {
			json_object_set_new(options, g->row->name, g->value ? json_string(g->value) : json_boolean(!g->negated));
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

/* ---- dump ---- */

struct dump_view {
	const struct command_line *c;
	char path[PATH_MAX];
	json_t *done;
};

static int heard(void *data, json_t *event, struct error *e)
{
	struct dump_view *v = data;
	const char *what = json_string_value(json_object_get(event, "event"));

	if (!what)
		return 0;
	if (!strcmp(what, "error"))
		return error_set(e, (int)json_integer_value(json_object_get(event, "code")), "%s", json_string_value(json_object_get(event, "error")));
	if (!strcmp(what, "message") && !v->c->json && !v->c->quiet)
		printf("%s\n", json_string_value(json_object_get(event, "text")));
	if (!strcmp(what, "done"))
		v->done = json_incref(event);
	return 0;
}

int remote_dump(struct command_line *c, const char *path)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct dump_view view = { .c = c };
	struct error e = {};
	json_t *body = json_pack("{s:o}", "options", remote_options(c));

	if (c->dir)
		json_object_set_new(body, "dir", remote_absolute(c->dir));
	if (c->name)
		json_object_set_new(body, "name", json_string(c->name));
	int r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");
	if (!r)
		r = client_events(s, "POST", path, body, heard, &view, &e);
	json_decref(body);
	if (!r && !view.done)
		r = error_set(&e, -EPIPE, "the daemon ended before the dump did; fermata checkpoints says whether it was finished");
	if (!r && c->json)
		return remote_print(view.done);
	if (!r)
		printf("Dumped to %s\n", json_string_value(json_object_get(view.done, "path")));
	json_decref(view.done);
	return r ? cli_report(c, &e) : 0;
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

int remote_restore(struct command_line *c, const char *path, json_t *body)
{
	char attach[200];

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
	json_t *job = remote_call(c, "POST", path, body);
	if (!job)
		return 1;
	json_int_t pid = json_integer_value(json_object_get(job, "pid"));
	const char *jid = json_string_value(json_object_get(job, "job"));
	int status = write_pid(c, pid);
	if (c->json && !c->attach)
		return remote_print(job) || status;
	fprintf(c->attach ? stderr : stdout, "Restored successfully, PID: %lld\n", (long long)pid);
	snprintf(attach, sizeof(attach), "/v1/jobs/%s/attach", jid ? jid : "");
	if (c->attach)
		status = attach_to(c, attach, jid);
	json_decref(job);
	return status;
}
