/* What the daemon has this same program say, by a helper: of checkpoints, processes, the machine. It prints JSON, or text for people. */
#pragma once

#include "base/error.h"

#include <jansson.h>

/* `words`: the command line without the program's name, a list of texts; consumed. A helper's error is ours. */
int tool_json(json_t *words, json_t **ret, struct error *e);
int tool_text(json_t *words, char **ret, struct error *e); /* the caller's */
