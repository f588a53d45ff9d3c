/*
 * What the user asked for. Filled from the command line (later: RPC, daemon), read only afterwards.
 */
#pragma once

#include "base/base.h"
#include "image/packing.h"

struct error;
struct external_list;

/* Called at the moments that criu's scripts know: "pre-dump", "post-dump" (the checkpoint stands, the tree does not run yet or is
 * about to be ended), "pre-restore", "post-restore" (all is built, nothing runs yet), "pre-resume", "post-resume" (it runs,
 * a failure is only logged). `pid`: the root, 0 where there is none yet. A negative errno with the text set fails the dump or restore. */
struct request_hook {
	int (*call)(void *data, const char *moment, pid_t pid, struct error *e);
	void *data;
};

/* What holds back the packets of TCP connections while nobody answers for them. */
enum network_lock_method { NETWORK_LOCK_NFTABLES, NETWORK_LOCK_SKIP };

/* --gpu: are CUDA processes looked for? GPU_AUTO: where NVIDIA's driver is. */
enum request_gpu { GPU_AUTO, GPU_ALWAYS, GPU_NEVER };
struct request_gpu_pair {
	const char *from, *to; /* "GPU-…" */
};

/* How far it is. Told about ten times a second while it lasts, from a thread of its own. */
struct request_progress {
	const char *stage;
	uint64_t elapsed_ns, done, total; /* bytes of memory; as far as is known, so `total` may grow */
};
struct request_watcher {
	void (*call)(void *data, const struct request_progress *p);
	void *data;
};

/* Where the time went: filled also after a failure, as far as it came. */
#define PROFILE_STAGES_MAX 12
struct profile_stage {
	const char *name;
	uint64_t ns;
};
struct profile {
	struct profile_stage stages[PROFILE_STAGES_MAX]; /* in their order; they add up to the total */
	size_t count;
	uint64_t total_ns;
	uint64_t pause_ns; /* dump: the tree stood still */
	uint64_t memory_ns; /* dump: from the first page that was copied to the last */
	uint64_t pages_scanned, pages_written, pages_previous, shared_written; /* dump; previous: that the parent checkpoint has */
	uint64_t pages_restored, bytes; /* bytes: in the files of the checkpoint */
};

/* --lazy: restore lets it run at once, and its memory comes when it is touched. LAZY_WORTH: of processes that have more than a little.
 * LAZY_TOUCHED: and what is not touched does not come: it stays in the checkpoint, where all that was restored from it has it in common. */
enum request_lazy { LAZY_NOT, LAZY_WORTH, LAZY_TOUCHED, LAZY_ALL };

/* --manage-cgroups: CGROUPS_NOT: tasks are where who restores them is. CGROUPS_NONE: they are brought into their groups, which have what they have. CGROUPS_PROPS: groups
 * that are there get their settings. CGROUPS_SOFT: groups that are not there are made, with their settings. CGROUPS_FULL: also those that are. CGROUPS_STRICT: none may be there. */
enum request_cgroups { CGROUPS_NOT, CGROUPS_NONE, CGROUPS_PROPS, CGROUPS_SOFT, CGROUPS_FULL, CGROUPS_STRICT };

struct request {
	pid_t pid;
	const char *images_dir; /* the directory of images itself; the archive, or the directory of its parts */
	struct packing packing; /* dump: all zero: images in the directory */
	int timeout_s;          /* dump: how long the stop of all may take; 0: the usual 10 */
	bool sibling;           /* restore: the root is a child of the caller's parent, who waits for it */
	bool shell_job;         /* the session and terminal of the caller are the target's */
	bool leave_running;
	bool leave_stopped;
	bool live, no_live;	/* leave_running: memory is saved while the tree runs (memory/live.h); neither: where nothing speaks against it */
	bool portable;		/* dump: CRIU can restore it too: every process has all its pages, and the vdso's */
	const char *parent;	/* dump: the checkpoint that this one has its unchanged pages from; NULL: none */
	bool parent_from_images; /* that path is meant from images_dir */
	bool track;		/* dump: memory is watched from now on, so that the next dump can have this one as its parent */
	bool pre_dump;		/* memory alone; the tree runs on */
	bool dedup;		/* dump: pages that the checkpoint has are then taken out of its parents */
	bool detach;            /* restore: do not wait for the restored tree */
	bool ends;              /* restore: the process ends right after it, so memory is left to the kernel */
	const char *pidfile;
	bool file_locks, link_remap, ext_unix_sk;
	enum request_cgroups cgroups;
	const char *const *cgroup_roots; /* restore: "[CONTROLLER:]DIR", where the root's group is to be; the caller's */
	size_t n_cgroup_roots;
	uint64_t ghost_limit; /* bytes of a deleted file that are saved; 0: no limit */
	const char *file_validation; /* "filesize", "buildid"; NULL: the latter */
	bool skip_file_rwx_check;
	uid_t only_uid; /* restore: whose shared memory alone may be written to (kinds/shmfile.h); 0: anybody's */
	bool host_ipc; /* message queues and semaphores of the host that the tree uses are saved with it */
	struct request_hook hook; /* .call NULL: none */
	bool tcp_established; /* TCP connections are saved and restored */
	bool tcp_close;	      /* they are, or become, closed */
	enum network_lock_method network_lock;
	bool skip_in_flight; /* connections that a listener has not accepted are dropped, and packets that raw and packet sockets have not read */
	const struct external_list *externals; /* what lies outside, kinds/external.h; NULL: nothing was named */
	const char *root; /* restore: what the root of a mount namespace is made of; NULL: what it was */
	const char *const *skip_mounts; /* dump: where mounts are left out, with those below them; the caller's */
	const char *const *enable_fs;	/* types of file systems that need no more than to be mounted again, with commas between them; "all"; the caller's */
	size_t n_skip_mounts, n_enable_fs;
	bool pipes_outside; /* dump: every pipe may have its other end outside, as criu has it */
	enum request_gpu gpu;
	const char *gpu_helper; /* the socket of the daemon's resident helper (gpu/gpu.h); NULL: there is none */
	uint32_t gpu_timeout_ms; /* how long work on a GPU may take to end; 0: 10 s */
	uint32_t gpu_deadline_ms; /* how long any call of its driver may take; 0: 600 s */
	bool gpu_staged;	 /* the driver brings device memory into the processes', also where it could be copied past them */
	bool gpu_force;		 /* also what the driver is known not to restore */
	const struct request_gpu_pair *gpu_map; /* restore: GPUs that take the place of others; the caller's */
	size_t n_gpu_map;
	struct request_watcher progress; /* .call NULL: none */
	struct profile *profile;	/* NULL: it is not asked for */
	enum request_lazy lazy;
	bool any_processor; /* restore: also on one that lacks instructions that the processor of the dump had */
	int lazy_waiter; /* a socket, where a zero byte is written once a lazy restore has all its pages, and another when it can't have them; 0: none */
	const char *const *joins; /* restore: "NS:FILE", namespaces that take the place of the tree's; the caller's */
	size_t n_joins;
	bool empty_net; /* the content of a network namespace is left out; who restores fills it */
	bool weak_sysctls; /* restore: goes on where a setting of a network namespace can't be set */
	bool skip_verify; /* restore: do not compare checksums first */
};
