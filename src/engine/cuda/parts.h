/* The parts of a dump with CUDA processes among themselves, see cuda.h: dump.c has the order of things, checks.c what stands against it, entry.c what the inventory says. */
#pragma once

#include "engine/cuda/cuda.h"
#include "engine/cuda/images.h"
#include "engine/cuda/software.h"
#include "engine/task/task.h"

struct cuda_process {
	pid_t pid;
	enum gpu_state before, now; /* as it was found; as it is */
	uint64_t memory;	    /* bytes on the devices, as far as NVML tells */
	struct cuda_thread thread;
	bool stalled; /* a call has neither ended nor failed */
	struct cuda_image *image; /* where its device memory is while it is checkpointed; NULL: in its own */
	struct gpu_region *regions; /* of the image */
	size_t n_regions;
};

struct cuda_dump {
	struct gpu *gpu;
	struct gpu_machine *machine;
	VEC(struct cuda_process) processes;
	struct cuda_software software; /* what they have of the driver's */
	bool threads_known; /* `thread` is set in each */
	bool own;	    /* device memory goes past the processes (images.h) */
	int resumed;	    /* what cuda_resume gave when the tree did not get its GPUs back, and why */
	struct error why;
};

static inline const char *comm_of(pid_t pid, struct proc_stat *room)
{
	return proc_read_stat(pid, room) ? "?" : room->comm;
}

#define cuda_error(d, pid, code, format, ...) \
	error_set((d)->e, code, "process %d (%s): " format, pid, comm_of(pid, &(struct proc_stat){}), ##__VA_ARGS__)

struct pids {
	VEC(pid_t) list;
};

/* The tree as it is now; it may grow meanwhile, which the next look will see. */
int cuda_list_tree(struct pids *tree, pid_t root);
/* NULL: it is none that was found. */
struct cuda_process *cuda_find(const struct dump *d, pid_t pid);
/* Before anything is touched; a check notes each. */
int cuda_check_obstacles(struct dump *d);
/* One of the driver's devices that it has open, whose name begins so; or false. */
bool cuda_holds_device(pid_t pid, const char *name, char ret[64]);
