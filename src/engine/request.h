/*
 * What the user asked for. Filled from the command line (later: RPC, daemon), read only afterwards.
 */
#pragma once

#include "base/base.h"

struct request {
	pid_t pid;
	const char *images_dir; /* the directory of images itself */
	bool shell_job;         /* the session and terminal of the caller are the target's */
	bool leave_running;
	bool leave_stopped;
	bool detach;            /* restore: do not wait for the restored tree */
	const char *pidfile;
	bool file_locks, link_remap, ext_unix_sk;
	bool skip_in_flight; /* connections that a TCP listener has not accepted are dropped */
	bool skip_verify; /* restore: do not compare checksums first */
};
