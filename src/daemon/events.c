/* See events.h. */
#include "daemon/events.h"

#include <pthread.h>
#include <stdatomic.h>

struct events {
	atomic_int references;
	pthread_mutex_t lock;
	pthread_cond_t change;
	VEC(char *) lines;
	char *progress; /* the last */
	unsigned long progresses;
	bool done;
};

struct events *events_new(void)
{
	struct events *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->change, NULL);
	v->references = 1;
	return v;
}

struct events *events_keep(struct events *v)
{
	v->references++;
	return v;
}

void events_release(struct events *v)
{
	if (!v || --v->references > 0)
		return;
	VEC_FOREACH(&v->lines, line)
		free(*line);
	VEC_FREE(&v->lines);
	free(v->progress);
	pthread_mutex_destroy(&v->lock);
	pthread_cond_destroy(&v->change);
	free(v);
}

static bool is_progress(const json_t *event)
{
	const char *what = json_string_value(json_object_get(event, "event"));

	return what && !strcmp(what, "progress");
}

static void tell(struct events *v, json_t *event, bool last)
{
	char *text = v && event ? json_dumps(event, JSON_COMPACT) : NULL;
	bool progress = is_progress(event);

	json_decref(event);
	if (!v)
		return;
	pthread_mutex_lock(&v->lock);
	if (text && progress) {
		free(v->progress);
		v->progress = TAKE_PTR(text);
		v->progresses++;
	}
	char **slot = text ? VEC_PUSH(&v->lines) : NULL;
	if (slot)
		*slot = text;
	else
		free(text);
	v->done |= last;
	pthread_cond_broadcast(&v->change);
	pthread_mutex_unlock(&v->lock);
}

void events_tell(struct events *v, json_t *event)
{
	tell(v, event, false);
}

void events_done(struct events *v, json_t *event)
{
	tell(v, event, true);
}

void events_failed(struct events *v, int code, const struct error *e)
{
	json_t *event = json_pack("{s:s, s:s, s:i}", "event", "error", "error", e->text, "code", code);

	/* A path in it may be no UTF-8. */
	if (!event)
		event = json_pack("{s:s, s:s, s:i}", "event", "error", "error", strerror(-code), "code", code);
	tell(v, event, true);
}

void events_line(struct events *v, const char *line)
{
	json_t *event = line[0] == '{' ? json_loads(line, 0, NULL) : NULL;

	if (!event && line[0])
		event = json_pack("{s:s, s:s}", "event", "message", "text", line);
	tell(v, event, false);
}

char *events_next(struct events *v, struct events_reader *reader)
{
	const char *line = NULL;
	char *text = NULL;

	pthread_mutex_lock(&v->lock);
	while (reader->at >= v->lines.count && (v->done || reader->progress == v->progresses)) {
		if (v->done)
			break;
		pthread_cond_wait(&v->change, &v->lock);
	}
	if (reader->at < v->lines.count) {
		line = v->lines.data[reader->at++];
	} else if (!v->done) {
		line = v->progress;
		reader->progress = v->progresses;
	}
	if (line && asprintf(&text, "%s\n", line) < 0)
		text = NULL;
	pthread_mutex_unlock(&v->lock);
	return text;
}
