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

/* --gpu: are CUDA processes looked for? GPU_AUTO: where NVIDIA's driver is. */
enum request_gpu { GPU_AUTO, GPU_ALWAYS, GPU_NEVER };
struct request_gpu_pair {
	const char *from, *to; /* "GPU-…" */
};

/* --lazy: restore lets it run at once, and its memory comes when it is touched. LAZY_WORTH: of processes that have more than a little. */
enum request_lazy { LAZY_NOT, LAZY_WORTH, LAZY_ALL };

struct request {
	pid_t pid;
	const char *images_dir; /* the directory of images itself */
	bool shell_job;         /* the session and terminal of the caller are the target's */
	bool leave_running;
	bool leave_stopped;
	bool detach;            /* restore: do not wait for the restored tree */
	bool ends;              /* restore: the process ends right after it, so memory is left to the kernel */
	const char *pidfile;
	bool file_locks, link_remap, ext_unix_sk;
	uint64_t ghost_limit; /* bytes of a deleted file that are saved; 0: no limit */
	const char *file_validation; /* "filesize", "buildid"; NULL: the latter */
	bool skip_file_rwx_check;
	struct request_hook hook; /* .call NULL: none */
	bool skip_in_flight; /* connections that a TCP listener has not accepted are dropped */
	enum request_gpu gpu;
	uint32_t gpu_timeout_ms; /* how long work on a GPU may take to end; 0: 10 s */
	uint32_t gpu_deadline_ms; /* how long any call of its driver may take; 0: 600 s */
	bool gpu_force;		 /* also what the driver is known not to restore */
	const struct request_gpu_pair *gpu_map; /* restore: GPUs that take the place of others; the caller's */
	size_t n_gpu_map;
	enum request_lazy lazy;
	bool skip_verify; /* restore: do not compare checksums first */
};
