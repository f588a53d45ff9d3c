/* See settings.h. */
#include "daemon/settings.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#define CONFIG_MAX (1u << 20)
#define STREAMS_MAX 64 /* as the option --streams has it */

enum kind { KIND_TEXT, KIND_NUMBER, KIND_BOOL };

static const struct row {
	const char *key, *standard, *help;
	enum kind kind;
	const char *choices; /* separated by blanks */
} rows[SETTINGS] = {
	[SETTING_ADDRESS] = { "address", "/run/fermata.sock", "The daemon's socket; with protocol tcp HOST:PORT", KIND_TEXT, NULL },
	[SETTING_PROTOCOL] = { "protocol", "unix", "unix, or tcp with mutual TLS", KIND_TEXT, "unix tcp" },
	[SETTING_GROUP] = { "group", "", "The group whose members may use the socket; empty: root only", KIND_TEXT, NULL },
	[SETTING_TLS_CERT] = { "tls.cert", "", "With tcp: the certificate, PEM", KIND_TEXT, NULL },
	[SETTING_TLS_KEY] = { "tls.key", "", "With tcp: its private key, PEM", KIND_TEXT, NULL },
	[SETTING_TLS_CA] = { "tls.ca", "", "With tcp: who signs the peers' certificates, PEM", KIND_TEXT, NULL },
	[SETTING_TLS_NAME] = { "tls.name", "", "With tcp, for who speaks with a daemon: the name in its certificate, where that is not the address's", KIND_TEXT, NULL },
	[SETTING_LOG_LEVEL] = { "log_level", "info", "The daemon's log: disabled, error, warning, info, debug", KIND_TEXT,
				"disabled error warning warn info debug trace" },
	[SETTING_METRICS] = { "metrics", "true", "Whether /metrics answers", KIND_BOOL, NULL },
	[SETTING_DB_PATH] = { "db.path", "/var/lib/fermata/fermata.db", "The database; beside it the folder of jobs", KIND_TEXT, NULL },
	[SETTING_LOG_DIR] = { "log_dir", "/var/log", "Where the output of jobs goes", KIND_TEXT, NULL },
	[SETTING_CHECKPOINT_DIR] = { "checkpoint.dir", "/tmp", "Where checkpoints go: a folder, or a store (store:DIR)", KIND_TEXT, NULL },
	[SETTING_CHECKPOINT_COMPRESSION] = { "checkpoint.compression", "none", "How they are packed", KIND_TEXT, "none tar gzip lz4 zlib zstd" },
	[SETTING_CHECKPOINT_STREAMS] = { "checkpoint.streams", "0", "Files written at once", KIND_NUMBER, NULL },
	[SETTING_CHECKPOINT_STORE_KEY] = { "checkpoint.store_key", "", "The file with the key of stores, which are encrypted then", KIND_TEXT, NULL },
	[SETTING_LEAVE_RUNNING] = { "criu.leave_running", "false", "What is dumped runs on, unless --no-leave-running is given", KIND_BOOL, NULL },
	[SETTING_CONNECTIONS] = { "connections", "256", "How many clients at once", KIND_NUMBER, NULL },
	[SETTING_PROFILING] = { "profiling.enabled", "false", "Print where the time went", KIND_BOOL, NULL },
	[SETTING_GPU_HELPER] = { "gpu.helper", "auto", "A process that has the GPU's driver loaded: auto (where there is one), on, off", KIND_TEXT, "auto on off" },
	[SETTING_GPU_POOL] = { "gpu.pool_size", "0", "Has no effect: programs need nothing started beforehand for their GPU; see gpu.helper", KIND_NUMBER, NULL },
};

static int find_key(const char *key)
{
	for (int i = 0; i < SETTINGS; i++)
		if (!strcmp(rows[i].key, key))
			return i;
	return -1;
}

/* `levels`: behind a colon a number may follow. */
static bool is_choice(const struct row *row, bool levels, const char *text)
{
	const char *choices = row->choices;
	const size_t length = levels ? strcspn(text, ":") : strlen(text);
	const char *level = text + length + (text[length] == ':');

	if (text[length] && (!*level || level[strspn(level, "0123456789")]))
		return false;


	while (*choices) {
		size_t n = strcspn(choices, " ");
		if (n == length && !strncmp(choices, text, n))
			return true;
		choices += n + (choices[n] == ' ');
	}
	return false;
}

int settings_set(struct settings *s, enum setting which, const char *text, const char *origin, struct error *e)
{
	const struct row *row = &rows[which];
	const bool levels = which == SETTING_CHECKPOINT_COMPRESSION;
	char *end;

	if (strlen(text) >= sizeof(s->value[which].text))
		return error_set(e, -EINVAL, "%s: the value of %s is too long", origin, row->key);
	errno = 0;
	if (row->kind == KIND_NUMBER && (strtol(text, &end, 10) < 0 || errno || end == text || *end))
		return error_set(e, -EINVAL, "%s: %s is %s, which is no number from 0 on", origin, row->key, text);
	if (row->kind == KIND_BOOL && strcmp(text, "true") && strcmp(text, "false") && strcmp(text, "1") && strcmp(text, "0"))
		return error_set(e, -EINVAL, "%s: %s is %s; write true or false", origin, row->key, text);
	if (row->choices && !is_choice(row, levels, text))
		return error_set(e, -EINVAL, "%s: %s is %s; choose one of: %s%s", origin, row->key, text, row->choices, levels ? ", maybe with a level: zstd:3" : "");
	if (which == SETTING_CONNECTIONS && strtol(text, NULL, 10) == 0)
		return error_set(e, -EINVAL, "%s: with %s 0 nobody could reach the daemon", origin, row->key);
	if (which == SETTING_CHECKPOINT_STREAMS && (strtol(text, NULL, 10) == 1 || strtol(text, NULL, 10) > STREAMS_MAX))
		return error_set(e, -EINVAL, "%s: %s is %s; there can be 2 to %d, or 0 for one file", origin, row->key, text, STREAMS_MAX);
	snprintf(s->value[which].text, sizeof(s->value[which].text), "%s", text);
	snprintf(s->value[which].origin, sizeof(s->value[which].origin), "%s", origin);
	return 0;
}

static void note_unknown(struct settings *s, const char *origin, const char *key)
{
	size_t used = strlen(s->unknown);

	snprintf(s->unknown + used, sizeof(s->unknown) - used, "%s%s in %s", used ? ", " : "", key, origin);
}

/* Objects within the document make keys with dots. Keys that are unknown are left alone, since they may be another program's or a newer one's, and named. */
static int take_object(struct settings *s, json_t *object, const char *prefix, const char *origin, struct error *e)
{
	const char *name;
	json_t *value;
	int r = 0;

	json_object_foreach(object, name, value) {
		char key[200], number[32];
		snprintf(key, sizeof(key), "%s%s%s", prefix, *prefix ? "." : "", name);
		int which = find_key(key);
		if (which < 0 && !json_is_object(value)) {
			note_unknown(s, origin, key);
		} else if (which < 0) {
			r = take_object(s, value, key, origin, e);
		} else if (which >= 0 && json_is_string(value)) {
			r = settings_set(s, (enum setting)which, json_string_value(value), origin, e);
		} else if (which >= 0 && json_is_integer(value)) {
			snprintf(number, sizeof(number), "%lld", (long long)json_integer_value(value));
			r = settings_set(s, (enum setting)which, number, origin, e);
		} else if (which >= 0 && json_is_boolean(value)) {
			r = settings_set(s, (enum setting)which, json_is_true(value) ? "true" : "false", origin, e);
		} else if (which >= 0) {
			r = error_set(e, -EINVAL, "%s: %s is neither text nor number", origin, key);
		}
		if (r)
			return r;
	}
	return 0;
}

static int take_text(struct settings *s, const char *text, const char *origin, struct error *e)
{
	json_error_t where;
	json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &where);
	int r;

	if (root && !json_is_object(root))
		r = error_set(e, -EINVAL, "%s is no JSON object, but another value", origin);
	else if (!root)
		r = error_set(e, -EINVAL, "%s is no JSON object: line %d: %s", origin, where.line, where.text);
	else
		r = take_object(s, root, "", origin, e);
	json_decref(root);
	return r;
}

static int take_file(struct settings *s, struct error *e)
{
	char path[320], *text = NULL;

	snprintf(path, sizeof(path), "%s/config.json", s->dir);
	int r = read_file_at(AT_FDCWD, path, CONFIG_MAX, &text, NULL);
	if (r == -ENOENT || r == -ENOTDIR || r == -EACCES)
		return 0;
	r = r ? error_errno(e, r, "cannot read %s", path) : take_text(s, text, path, e);
	free(text);
	return r;
}

/* FERMATA_CHECKPOINT_DIR for checkpoint.dir. */
static void variable_name(const char *program, const char *key, char ret[100])
{
	snprintf(ret, 100, "%s_%s", program, key);
	for (char *at = ret; *at; at++)
		*at = *at == '.' ? '_' : (char)toupper((unsigned char)*at);
}

static int take_environment(struct settings *s, const char *program, struct error *e)
{
	int r = 0;

	for (int i = 0; !r && i < SETTINGS; i++) {
		char name[100];
		variable_name(program, rows[i].key, name);
		const char *value = getenv(name);
		if (value)
			r = settings_set(s, (enum setting)i, value, name, e);
	}
	return r;
}

int settings_read(struct settings *s, const char *program, const char *dir, const char *json, struct error *e)
{
	char name[100];
	int r = 0;

	variable_name(program, "config_dir", name);
	const char *variable = getenv(name);
	if (dir || variable)
		snprintf(s->dir, sizeof(s->dir), "%s", dir ? dir : variable);
	else
		snprintf(s->dir, sizeof(s->dir), "/etc/%s", program);
	s->unknown[0] = '\0';
	for (int i = 0; !r && i < SETTINGS; i++)
		r = settings_set(s, (enum setting)i, rows[i].standard, "default", e);
	if (!r)
		r = take_file(s, e);
	if (!r && json)
		r = take_text(s, json, "--config", e);
	return r ? r : take_environment(s, program, e);
}

const char *settings_text(const struct settings *s, enum setting which)
{
	return s->value[which].text;
}

long settings_number(const struct settings *s, enum setting which)
{
	return strtol(s->value[which].text, NULL, 10);
}

bool settings_bool(const struct settings *s, enum setting which)
{
	return !strcmp(s->value[which].text, "true") || !strcmp(s->value[which].text, "1");
}

static json_t *value_json(const struct settings *s, enum setting which)
{
	switch (rows[which].kind) {
	case KIND_NUMBER:
		return json_integer(settings_number(s, which));
	case KIND_BOOL:
		return json_boolean(settings_bool(s, which));
	default:
		return json_string(settings_text(s, which));
	}
}

json_t *settings_json(const struct settings *s)
{
	json_t *list = json_array();

	for (int i = 0; i < SETTINGS; i++)
		json_array_append_new(list, json_pack("{s:s, s:o, s:s, s:s}", "key", rows[i].key, "value", value_json(s, (enum setting)i), "origin",
						      s->value[i].origin, "help", rows[i].help));
	return list;
}

/* Puts a value where its key says, unless something is there. */
static void put_key(json_t *root, const char *key, json_t *value)
{
	const char *dot = strchr(key, '.');
	char first[64];

	snprintf(first, sizeof(first), "%.*s", dot ? (int)(dot - key) : (int)strlen(key), key);
	json_t *there = json_object_get(root, first);
	if (!dot && !there) {
		json_object_set_new(root, first, value);
		return;
	}
	if (dot && !there) {
		there = json_object();
		json_object_set_new(root, first, there);
	}
	if (dot && json_is_object(there))
		put_key(there, dot + 1, value);
	else
		json_decref(value);
}

int settings_write(const struct settings *s, bool merge, struct error *e)
{
	char path[320], fresh[330];
	json_t *root = NULL;
	int r = 0;

	snprintf(path, sizeof(path), "%s/config.json", s->dir);
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	if (mkdir(s->dir, 0755) < 0 && errno != EEXIST)
		return error_errno(e, -errno, "cannot make %s", s->dir);
	if (merge)
		root = json_load_file(path, 0, NULL);
	else if (access(path, F_OK) == 0)
		return error_set(e, -EEXIST, "%s is there already; use --merge-config to add what it lacks", path);
	if (!json_is_object(root)) {
		json_decref(root);
		root = json_object();
	}
	for (int i = 0; i < SETTINGS; i++)
		put_key(root, rows[i].key, value_json(s, (enum setting)i));
	mode_t before = umask(0077);
	if (json_dump_file(root, fresh, JSON_INDENT(2)) || rename(fresh, path) < 0)
		r = error_errno(e, errno ? -errno : -EIO, "cannot write %s", path);
	umask(before);
	json_decref(root);
	return r;
}
