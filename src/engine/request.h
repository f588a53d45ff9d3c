/*
 * What the user asked for. Filled from the command line (later: RPC, daemon), read only afterwards.
 */
#pragma once

#include "base/base.h"

struct error;

/* Called at the moments that criu's scripts know: "pre-dump", "post-dump" (the checkpoint stands, the tree does not run yet or is
 * about to be ended), "pre-restore", "post-restore" (all is built, nothing runs yet), "pre-resume", "post-resume" (it runs,
 * a failure is only logged). `pid`: the root, 0 where there is none yet. A negative errno with the text set fails the dump or restore. */
struct request_hook {
	int (*call)(void *data, const char *moment, pid_t pid, struct error *e);
	void *data;
};

/* What holds back the packets of TCP connections while nobody answers for them. */
enum network_lock_method { NETWORK_LOCK_NFTABLES, NETWORK_LOCK_SKIP };

struct request {
	pid_t pid;
	const char *images_dir; /* the directory of images itself */
	bool shell_job;         /* the session and terminal of the caller are the target's */
	bool leave_running;
	bool leave_stopped;
	bool detach;            /* restore: do not wait for the restored tree */
	const char *pidfile;
	bool file_locks, link_remap, ext_unix_sk;
	struct request_hook hook; /* .call NULL: none */
	bool tcp_established; /* TCP connections are saved and restored */
	bool tcp_close;	      /* they are, or become, closed */
	enum network_lock_method network_lock;
	bool skip_in_flight; /* connections that a TCP listener has not accepted are dropped */
	bool skip_verify; /* restore: do not compare checksums first */
};
