/*
 * The driver's libraries, loaded at run time. For the helper process alone: what they start (threads, descriptors, memory) goes with it.
 */
#pragma once

#include "gpu/cuda.h"
#include "gpu/gpu.h"

#include <pthread.h>

/* What moves device memory of other processes (storage.h); CUDA 13.4 and what it rests on. */
struct driver_custom {
	int (*complete)(void *handle);
	int (*device_count)(int *ret), (*device_get)(int *ret, int number), (*device_uuid)(struct cuda_uuid *ret, int device);
	int (*retain)(void **ret_context, int device), (*set_current)(void *context), (*stream_context)(void *stream, void **ret);
	int (*stream_create)(void **ret, unsigned int flags), (*stream_destroy)(void *stream), (*stream_wait)(void *stream);
	int (*host_alloc)(void **ret, size_t size, unsigned int flags), (*host_free)(void *p);
	int (*copy_out)(void *to, uint64_t from, size_t size, void *stream), (*copy_in)(uint64_t to, const void *from, size_t size, void *stream);
	int (*set)(uint64_t to, unsigned char value, size_t size, void *stream);
	bool found; /* all of them */
	pthread_mutex_t lock; /* one operation is begun after the other; and of what follows */
	struct {
		char uuid[GPU_UUID_MAX];
		void *context; /* NULL: none yet; retained as long as the process lives: operations need it, and so do processes that were restored by them */
		int device;
	} devices[GPU_DEVICES_MAX];
	size_t n_devices;
};

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
	struct driver_custom custom;
	bool by_tool; /* the library lacks the calls: cuda-checkpoint makes them (tool.h) */
};

/* Loads libcuda and calls cuInit: 26 ms to some seconds. -ENOENT: there is no libcuda; -ENOTSUP: it can't checkpoint. */
int driver_load(struct driver *d, const char *library, struct error *e);
/* One call, to its end. */
void driver_call(struct driver *d, struct gpu_call *call);
/* CUresult to -errno and its name. */
int driver_errno(int result);
const char *driver_error_name(const struct driver *d, int result);
/* GPUs as the driver wants them. False: it is no UUID. */
bool driver_read_uuid(const char *text, struct cuda_uuid *ret);
void driver_write_uuid(const struct cuda_uuid *uuid, char ret[GPU_UUID_MAX]);
/* From NVML; what can't be asked stays empty. */
void driver_machine(struct driver *d, struct gpu_machine *ret);
