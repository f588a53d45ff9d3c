/*
 * A dump under way: a thread of the daemon that waits for a helper, and writes down what comes of it. Whoever asked reads its events, a line
 * of JSON each, and may go away at any time; the dump goes on.
 *
 *	{"event": "started", "path": …}  {"event": "message", "text": …}  {"event": "done", "path": …, "id": …, "size": N}
 *	{"event": "error", "error": …, "code": -N}
 */
#pragma once

#include "daemon/daemon.h"

#define OPERATIONS_MAX 16 /* helpers at work at once; more wait */

struct operation;

void operations_begin(struct daemon *d);
/* `j` NULL: the process `pid`. body: dir, name, options. `periodic`: by the schedule, which leaves the job running. */
int operation_dump(struct daemon *d, const struct caller *c, const struct job *j, pid_t pid, const json_t *body, bool periodic,
		   struct operation **ret, struct error *e);
/* The event number *at, which is then one more, copied for the caller, who waits for it; NULL: there are no more. */
char *operation_next(struct operation *o, size_t *at);
void operation_release(struct operation *o);
