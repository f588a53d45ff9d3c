/* What the daemon has this same program do by a helper: say something of checkpoints, processes, the machine; or look after checkpoints and stores. */
#pragma once

#include "daemon/daemon.h"

#include <jansson.h>

/* `words`: the command line without the program's name, a list of texts; consumed. A helper's error is ours. What it prints is JSON, or text for people. */
int tool_json(json_t *words, json_t **ret, struct error *e);
int tool_text(json_t *words, char **ret, struct error *e); /* the caller's */

/* Work that takes long, in a thread. */
struct tool_work {
	json_t *words;	     /* consumed; the helper is told --events too: each line that it says is an event, the last one the `result` of "done" */
	const char *keys[2]; /* what it is about: nobody else may be at work on that (busy_begin); NULL: nothing */
	const char *what;    /* "is being flattened"; stays */
	void (*done)(struct daemon *d, const char *id); /* after it went well; or NULL */
	const char *id;
	bool speaks; /* what it says is for people: there need be no result */
};
int tool_begin(struct daemon *d, const struct tool_work *work, struct events **ret, struct error *e);
