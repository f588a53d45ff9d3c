/*
 * What is configured: defaults, config.json, --config JSON, the environment (FERMATA_ADDRESS, FERMATA_CHECKPOINT_DIR …), the command
 * line; each stands above those before it. The keys are those that Cedana documents, where they mean something here.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>

enum setting {
	SETTING_ADDRESS, SETTING_PROTOCOL, SETTING_GROUP, SETTING_TLS_CERT, SETTING_TLS_KEY, SETTING_TLS_CA, SETTING_TLS_NAME, SETTING_LOG_LEVEL,
	SETTING_METRICS, SETTING_DB_PATH, SETTING_LOG_DIR, SETTING_CHECKPOINT_DIR, SETTING_CHECKPOINT_COMPRESSION,
	SETTING_CHECKPOINT_STREAMS, SETTING_CHECKPOINT_STORE_KEY, SETTING_LEAVE_RUNNING, SETTING_CONNECTIONS, SETTING_PROFILING, SETTING_GPU_HELPER, SETTING_GPU_POOL, SETTINGS,
};

struct settings {
	struct {
		char text[512];
		char origin[300];
	} value[SETTINGS];
	char dir[300]; /* of config.json */
	char unknown[512]; /* keys that there are none of, each with where it stands; for people */
};

/* `dir` NULL: that of the environment or /etc/PROGRAM. `json` may be NULL. */
int settings_read(struct settings *s, const char *program, const char *dir, const char *json, struct error *e);
/* The command line's; the value is checked as any other. */
int settings_set(struct settings *s, enum setting which, const char *text, const char *origin, struct error *e);
const char *settings_text(const struct settings *s, enum setting which);
long settings_number(const struct settings *s, enum setting which);
bool settings_bool(const struct settings *s, enum setting which);
/* [{key, value, origin, help}]: a new reference. */
json_t *settings_json(const struct settings *s);
/* Writes config.json with all values; `merge`: over what is there, keeping what it says. */
int settings_write(const struct settings *s, bool merge, struct error *e);
