/*
 * What only the program fermata-daemon holds: the daemon itself, and the API's description for docs/openapi.json. Its libraries (HTTP, TLS,
 * SQLite) take longer to load than a small dump takes; fermata, which is the same program without them, becomes fermata-daemon where they are needed
 * (lean.c).
 */
#include "cli/remote.h"

#include "base/log.h"
#include "daemon/api.h"
#include "daemon/tunnel.h"

static const struct vocabulary vocabulary = { requested_check, requested_describe };

int cli_become_full(struct command_line *c)
{
	return 0;
}

int client_open_tls(const struct settings *s, struct error *e)
{
	return tunnel_open(s, e);
}

static int level_of(const char *word)
{
	static const char *const words[] = { "disabled", "error", "warning", "info", "debug" };

	for (int i = 0; i < (int)ARRAY_SIZE(words); i++)
		if (!strcmp(words[i], word))
			return i;
	/* As others spell them. */
	return !strcmp(word, "warn") ? LOG_LEVEL_WARNING : !strcmp(word, "trace") ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO;
}

int verb_daemon_start(struct command_line *c)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};
	int r = s ? cli_require_root(&e) : error_set(&e, -ENOMEM, "out of memory");

	if (!r)
		r = remote_settings(c, s, &e);
	if (!r && (c->init_config || c->merge_config))
		r = settings_write(s, c->merge_config, &e);
	if (r)
		return cli_report(c, &e);
	if (!given_find(c->given, "verbosity"))
		log_setup(level_of(settings_text(s, SETTING_LOG_LEVEL)), -1);
	if (s->unknown[0])
		log_warning("there is no such setting, it is ignored: %s", s->unknown);
	return daemon_run(s, &vocabulary);
}

int verb_daemon_openapi(struct command_line *c)
{
	json_t *document = routes_openapi(&vocabulary);
	int r = json_dumpf(document, stdout, JSON_INDENT(1) | JSON_SORT_KEYS);

	puts("");
	json_decref(document);
	return r ? 1 : 0;
}
