/*
 * A dump under way: a thread of the daemon that waits for a helper, and writes down what comes of it. Its events are whoever's asked for it.
 */
#pragma once

#include "daemon/daemon.h"
#include "daemon/events.h"

#define OPERATIONS_MAX 16 /* helpers at work at once; more wait */

void operations_begin(struct daemon *d);
/* `j` NULL: the process `pid`. body: dir, name, options. `periodic`: by the schedule, which leaves the job running. */
int operation_dump(struct daemon *d, const struct caller *c, const struct job *j, pid_t pid, const json_t *body, bool periodic,
		   struct events **ret, struct error *e);
