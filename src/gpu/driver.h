/*
 * The driver's libraries, loaded at run time. For the helper process alone: what they start (threads, descriptors, memory) goes with it.
 */
#pragma once

#include "gpu/cuda.h"
#include "gpu/gpu.h"

struct driver {
	void *cuda, *nvml; /* of dlopen */
	int (*driver_version)(int *version);
	int (*error_name)(int result, const char **ret);
	int (*get_state)(int pid, int *state);
	int (*get_restore_thread)(int pid, int *tid);
	int (*lock)(int pid, struct cuda_lock_args *args);
	int (*checkpoint)(int pid, struct cuda_checkpoint_args *args);
	int (*restore)(int pid, struct cuda_restore_args *args);
	int (*unlock)(int pid, struct cuda_unlock_args *args);
	int version;
	bool by_tool; /* the library lacks the calls: cuda-checkpoint makes them (tool.h) */
};

/* Loads libcuda and calls cuInit: 26 ms to some seconds. -ENOENT: there is no libcuda; -ENOTSUP: it can't checkpoint. */
int driver_load(struct driver *d, const char *library, struct error *e);
/* One call, to its end. */
void driver_call(const struct driver *d, struct gpu_call *call);
/* From NVML; what can't be asked stays empty. */
void driver_machine(struct driver *d, struct gpu_machine *ret);
