/*
 * GPUs: CUDA processes are brought to rest and back by NVIDIA's driver (570 and later), through a helper process that has its
 * libraries loaded. The caller, which traces the processes, never calls the driver itself: cuInit costs seconds, and a call may hang.
 *
 * The helper runs each call in a thread of its own, so that several go on at once. It keeps what was done to whom: when its caller goes
 * away without a word (killed, say) it puts every process back to where it was, and ends.
 *
 * Nothing here knows about ptrace; that a process's restore thread must run during a checkpoint or restore is the caller's care.
 */
#pragma once

#include "base/error.h"

#define GPU_UUID_MAX 48	   /* "GPU-…", with the NUL */
#define GPU_DEVICES_MAX 64
#define GPU_USERS_MAX 256

struct gpu;

enum gpu_op {
	GPU_STATE,	    /* gives enum gpu_state */
	GPU_RESTORE_THREAD, /* gives the id of the thread that checkpoint and restore run on */
	GPU_LOCK,	    /* no more work is given to the GPU, what was under way is finished */
	GPU_CHECKPOINT,	    /* locked: device memory goes into the process's own, the devices are let go */
	GPU_RESTORE,	    /* and back: locked again */
	GPU_UNLOCK,
	GPU_FORGET,	    /* not of the driver: whatever was done to it stays */
	GPU_OPS,
};

/* As the driver numbers them. */
enum gpu_state { GPU_RUNNING, GPU_LOCKED, GPU_CHECKPOINTED, GPU_FAILED, GPU_CHECKPOINTING, GPU_RESTORING };

/* A GPU of the checkpoint and the one that takes its place. */
struct gpu_pair {
	char from[GPU_UUID_MAX], to[GPU_UUID_MAX];
};

/*
 * Device memory of a process on one GPU, where the helper moves it (`own` below, driver 615 and later: custom storage), and its place in the file. They stand
 * one behind the other, each at a round GPU_BLOCK.
 */
#define GPU_BLOCK (4UL << 20)
struct gpu_region {
	char uuid[GPU_UUID_MAX];
	uint64_t offset, size; /* bytes */
};

/*
 * GPU_CHECKPOINT and GPU_RESTORE move device memory in one of two ways. The driver brings it into the process's own memory and back; or, with `own`, the
 * helper copies it to a file and back, past the process. The helper keeps a descriptor of that file until GPU_FORGET, so that it can put the process back.
 */
struct gpu_call {
	enum gpu_op op;
	pid_t pid;
	bool own;		      /* GPU_LOCK: it will be */
	bool in_memory;		      /* the file is a memfd */
	int fd, digests;	      /* own; of each GPU_BLOCK of the file, XXH3-128 (16 bytes, high word first) is written to the second */
	uint64_t offset;	      /* GPU_RESTORE: where in `fd` the file begins */
	uint32_t timeout_ms;	      /* GPU_LOCK: 0 waits for ever */
	const struct gpu_pair *pairs; /* GPU_RESTORE */
	size_t n_pairs;
	/* Its end: */
	bool done;
	int result;	/* 0 or a negative errno: -ESRCH it is no CUDA process, -ETIMEDOUT the lock, -ENOTSUP, -EBUSY its state is another … */
	uint32_t value; /* of the first two */
	struct gpu_region regions[GPU_DEVICES_MAX]; /* own: given by GPU_CHECKPOINT, and by the caller to GPU_RESTORE; to lock and
						     * checkpoint the caller gives the GPUs alone, or none where it does not know */
	size_t n_regions;
	char why[160];	/* the driver's words where it failed */
};

struct gpu_user {
	uint32_t pid;
	uint32_t device;
	uint64_t used; /* bytes of device memory, UINT64_MAX: not known */
};

struct gpu_device {
	char uuid[GPU_UUID_MAX], name[96];
	uint64_t total, free; /* bytes */
	bool mig;
};

/* What NVML tells. */
struct gpu_machine {
	char driver[80]; /* "580.65.06" */
	uint32_t cuda;	 /* 13000: 13.0 */
	bool own;	 /* the helper can move device memory itself (gpu_call) */
	bool maps;	 /* restore takes another GPU in place of one (580) */
	uint32_t n_devices, n_users;
	struct gpu_device devices[GPU_DEVICES_MAX];
	struct gpu_user users[GPU_USERS_MAX];
};

/* Does this machine have NVIDIA's driver? Costs one look at /proc; FERMATA_GPU in the environment, on or off, is believed instead: /proc/driver may be hidden. */
bool gpu_present(void);

/*
 * Asks the resident helper that listens at `resident`; where that is NULL or nobody listens there, starts one, by fork: call it before there are
 * threads. `library`: NULL for libcuda.so.1 as the loader finds it. The helper may be busy with cuInit when this returns; gpu_ready waits for that and
 * gives what went wrong with it.
 */
int gpu_open(const char *library, const char *resident, struct gpu **ret, struct error *e);
int gpu_ready(struct gpu *g, struct error *e);
/* Lets the helper go, which puts back whoever was not forgotten. Waits until it has. NULL is fine. */
void gpu_close(struct gpu *g);

/* The same without waiting: there are calls that hang, and the helper goes on waiting for them, for a minute. NULL is fine. */
void gpu_leave(struct gpu *g);

/* Asks for calls to be made, all at once. They must stay where they are until done. */
int gpu_start(struct gpu *g, struct gpu_call *calls, size_t n, struct error *e);
/* What becomes readable when a call has ended, or the helper has. */
int gpu_fd(const struct gpu *g);
/* Takes what has ended, without waiting. -EPIPE: the helper has died. */
int gpu_collect(struct gpu *g, struct error *e);
/* Has the helper gone, while nobody waited for it? */
bool gpu_has_died(const struct gpu *g);
/* gpu_start, and waits for all; for calls that need nobody's help. -ETIMEDOUT: not all have ended by then; the helper is killed, or puts
 * nothing back. */
int gpu_run(struct gpu *g, struct gpu_call *calls, size_t n, int deadline_ms, struct error *e);
/* The machine's GPUs and who uses them; *ret is the caller's, to be freed. */
int gpu_machine_read(struct gpu *g, struct gpu_machine **ret, struct error *e);

/*
 * Be the resident helper: a program of its own, which has the driver loaded once for all who connect to `listener` (a SOCK_SEQPACKET socket; callers
 * must have our user id). Ends when `lifeline` is closed at its other end, after those that are connected then; gives an exit status.
 */
int gpu_resident_main(int listener, int lifeline, const char *library);

const char *gpu_op_name(enum gpu_op op);       /* "lock" */
const char *gpu_state_name(enum gpu_state s); /* "running" */
