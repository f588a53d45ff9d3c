/*
 * Programs that the daemon starts: this same binary, under a name that says as what. The daemon does no dump or restore itself, so that
 * one that goes wrong ends a helper and not the daemon, and one that is under way goes on when the daemon is killed.
 *
 *	fermata-supervisor	starts or restores a job, holds its terminal, waits for its end (supervisor.c)
 *	fermata-enter PID keep|end …	goes into the pid and mount namespaces of PID, and runs there what follows: `fermata dump process …`. With
 *			"end" PID is killed when that went well: from outside, since the end of a namespace's root is that of all within
 *	fermata-gpud	has the GPU's driver loaded for all the others (gpu.h)
 */
#pragma once

#include "base/error.h"

#include <jansson.h>

/* Starts argv[0]; a descriptor of -1 is /dev/null. The caller waits for it. */
int daemon_helper_start(char *const argv[], int in, int out, int err, pid_t *ret, struct error *e);
/* The same, with the document on its standard input. */
int daemon_helper_start_with(char *const argv[], const json_t *document, int out, int err, pid_t *ret, struct error *e);

/* Whether argv[0] names a helper; *ret_status is then its exit status. */
bool daemon_helper_main(int argc, char **argv, int *ret_status);

int supervisor_main(void);

/*
 * What supervisor and daemon both keep to. The folder of a job: `state.json`, `socket`, and `wanted`, which holds the token of the supervisor
 * that was started last. Under a lock of the folder (flock) a supervisor takes up its work, by `state.json`, when its token stands there; and
 * a daemon that finds no sign of one removes it. So one that starts late, after who started it was killed and its job given up, does nothing.
 * When the job is killed `wanted` becomes `killed`, until it runs again: a new name costs no room on a full disk, where the database takes no news.
 */
#define SUPERVISOR_WANTED "wanted"
#define SUPERVISOR_KILLED "killed"
#define SUPERVISOR_STATE "state.json"
#define SUPERVISOR_SOCKET "socket"
