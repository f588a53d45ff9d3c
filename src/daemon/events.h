/*
 * What is told of work that takes long: events, each a line of JSON, for whoever asked, who reads them as they come and may go away at any
 * time; the work goes on.
 *
 *	{"event": "started", "path": …}  {"event": "progress", "stage": …, "done": N, "total": N, "elapsed_ns": N}
 *	{"event": "message", "text": …}  {"event": "profile", "stages": […], "total_ns": N, …}
 *	{"event": "done", …}  {"event": "error", "error": …, "code": -N}
 *
 * The last one is either of these two. All are kept until then, but of progress only what was told last.
 */
#pragma once

#include "base/error.h"

#include <jansson.h>

struct events;

/* How far somebody has read them; all zero at first. */
struct events_reader {
	size_t at;
	unsigned long progress;
};

struct events *events_new(void); /* with one reference */
struct events *events_keep(struct events *v);
void events_release(struct events *v); /* takes NULL */

/* Takes the event. NULL for `v`: nobody listens. */
void events_tell(struct events *v, json_t *event);
/* The last one. */
void events_done(struct events *v, json_t *event);
void events_failed(struct events *v, int code, const struct error *e);
/* A line that a helper said: an event, or a message. */
void events_line(struct events *v, const char *line);

/* The next one with a newline, the caller's, who waits for it; NULL: there are no more. */
char *events_next(struct events *v, struct events_reader *reader);
