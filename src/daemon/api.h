/*
 * The daemon's API: a table of routes, one function each. docs/openapi.json is made from the table (`fermata daemon openapi`).
 */
#pragma once

#include "daemon/operation.h"

struct call {
	struct daemon *daemon;
	struct caller caller;
	const char *words[2]; /* what stood in the place of {…} in the path */
	char copies[2][JID_MAX];
	json_t *body;	      /* an object, maybe empty */
	const char *(*query)(void *connection, const char *name); /* a parameter behind `?`, or NULL */
	void *connection;
	/* the answer: one of these */
	json_t *answer;
	char *text;
	const char *text_type;
	int file;	      /* or -1: its content */
	struct events *events; /* as they come, a line each */
	int attach;	      /* or -1: a socket that the connection is joined to */
};

struct route {
	const char *method, *path, *summary;
	const char *query;   /* what may stand behind `?`, see fields.h; or NULL */
	const char *body;    /* what may stand in the body; or NULL */
	const char *answers; /* what kind: "json", "events", "text", "attach" */
	int (*handle)(struct call *c, struct error *e);
};

extern const struct route routes[];
extern const size_t routes_count;
/* How things look outside: new references. */
json_t *job_json(struct daemon *d, const struct job *j);
json_t *any_text(const char *text); /* of a program, which need not be UTF-8 */
/* What `fermata VERB` says, by a helper, as the query wants it: ?format=text for people. `words` are consumed. */
int call_answer_tool(struct call *c, json_t *words, struct error *e);
/* *ret_known: the path is one, maybe with another method. Fills c->words. */
const struct route *route_find(const char *method, const char *path, struct call *c, bool *ret_known);
json_t *routes_openapi(const struct vocabulary *v); /* a new reference */
unsigned http_status(int code); /* of a negative errno */
