/* daemon check, config show. */
#include "cli/remote.h"

struct health {
	struct table *t;
	json_t *list;
	int warnings, errors;
};

static void put(struct health *h, const char *what, int severity, const char *format, ...) _printf_(4, 5);
static void put(struct health *h, const char *what, int severity, const char *format, ...)
{
	static const char *const words[] = { "ok", "warning", "error" };
	char text[1200];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	h->warnings += severity == 1;
	h->errors += severity == 2;
	table_put(h->t, "%s", what);
	table_put(h->t, "%s", words[severity]);
	table_put(h->t, "%s", text);
	json_array_append_new(h->list, json_pack("{s:s, s:s, s:s}", "check", what, "result", words[severity], "text", text));
}

#define LITTLE_ROOM (256LL << 20)

/* The daemon's, which need not be ours. */
static void check_folder(struct health *h, const json_t *folder)
{
	const char *what = json_string_value(json_object_get(folder, "what")), *path = json_string_value(json_object_get(folder, "path"));
	const char *error = json_string_value(json_object_get(folder, "error"));
	json_int_t room = json_integer_value(json_object_get(folder, "free_bytes"));
	char text[32];

	text_size(text, (uint64_t)room);
	if (error)
		put(h, what ? what : "", 2, "%s: %s", path, error);
	else
		put(h, what ? what : "", room < LITTLE_ROOM, "%s, %s free", path, text);
}

static void check_jobs(struct health *h, const struct settings *s)
{
	struct error e = {};
	json_t *jobs = NULL;

	if (client_call(s, "GET", "/v1/jobs", NULL, &jobs, &e)) {
		put(h, "jobs", 2, "%s", e.text);
		return;
	}
	size_t lost = 0;
	for (size_t i = 0; i < json_array_size(jobs); i++) {
		const char *ended = json_string_value(json_object_get(json_array_get(jobs, i), "ended"));
		lost += ended && !strcmp(ended, "lost");
	}
	put(h, "jobs", lost ? 1 : 0, "%zu%s", json_array_size(jobs), lost ? ", some of which were lost" : "");
	json_decref(jobs);
}

static void check_all(struct health *h, const struct settings *s, bool full)
{
	struct error e = {};
	json_t *answer = NULL;

	if (client_call(s, "GET", full ? "/v1/health?full=true" : "/v1/health", NULL, &answer, &e)) {
		put(h, "daemon", 2, "%s", e.text);
		return;
	}
	const char *version = json_string_value(json_object_get(answer, "version"));
	bool same = version && !strcmp(version, FERMATA_VERSION);
	put(h, "daemon", 0, "process %lld on %s", (long long)json_integer_value(json_object_get(answer, "pid")), settings_text(s, SETTING_ADDRESS));
	put(h, "version", same ? 0 : 1, "%s%s", version ? version : "?", same ? "" : ", and this command has " FERMATA_VERSION "; restart the daemon");
	check_jobs(h, s);
	const json_t *folders = json_object_get(answer, "folders");
	for (size_t i = 0; i < json_array_size(folders); i++)
		check_folder(h, json_array_get(folders, i));
	json_decref(answer);
}

int verb_daemon_check(struct command_line *c)
{
	static const char *const heads[] = { "CHECK", "RESULT", "WHAT" };
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct health h = { .t = table_new(heads, ARRAY_SIZE(heads)), .list = json_array() };
	struct error e = {};
	int r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");

	if (r)
		put(&h, "configuration", 2, "%s", e.text);
	else
		check_all(&h, s, c->full);
	if (c->json) {
		remote_print(json_pack("{s:b, s:O}", "good", !h.errors, "checks", h.list));
	} else {
		table_print(TAKE_PTR(h.t));
		if (h.errors)
			printf("%d error(s), %d warning(s).\n", h.errors, h.warnings);
		else if (h.warnings)
			printf("Looks good, with %d warning(s).\n", h.warnings);
		else
			puts("All good.");
	}
	json_decref(h.list);
	return h.errors ? 1 : 0;
}

int verb_config_show(struct command_line *c)
{
	static const char *const heads[] = { "KEY", "VALUE", "ORIGIN" };
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};
	int r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");

	if (r)
		return cli_report(c, &e);
	if (s->unknown[0])
		fprintf(stderr, "Warning: there is no such setting, it is ignored: %s\n", s->unknown);
	json_t *list = settings_json(s);
	if (c->json)
		return remote_print(list);
	struct table *t = table_new(heads, ARRAY_SIZE(heads));
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *one = json_array_get(list, i);
		table_put(t, "%s", json_string_value(json_object_get(one, "key")));
		table_put(t, "%s", settings_text(s, (enum setting)i));
		table_put(t, "%s", json_string_value(json_object_get(one, "origin")));
	}
	table_print(t);
	json_decref(list);
	return 0;
}
