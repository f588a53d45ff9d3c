/*
 * The part of NVIDIA's driver interfaces that is used here, declared by ourselves, so that neither building nor running without a GPU
 * needs anything of NVIDIA's. Sources: CUDA Driver API reference, section "CUDA Checkpointing" (12.8, 13.0, 13.4) and
 * "Driver Entry Point Access"; NVML API reference.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* CUresult; the values that mean something to us. */
enum {
	CUDA_SUCCESS = 0,
	CUDA_ERROR_INVALID_VALUE = 1,
	CUDA_ERROR_OUT_OF_MEMORY = 2,
	CUDA_ERROR_NOT_INITIALIZED = 3,
	CUDA_ERROR_DEINITIALIZED = 4,
	CUDA_ERROR_NO_DEVICE = 100,
	CUDA_ERROR_INVALID_CONTEXT = 201,
	CUDA_ERROR_ILLEGAL_STATE = 401,
	CUDA_ERROR_NOT_READY = 600,
	CUDA_ERROR_NOT_PERMITTED = 800,
	CUDA_ERROR_NOT_SUPPORTED = 801,
	CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803,
	CUDA_ERROR_UNKNOWN = 999,
};

/* CUprocessState. The last two from CUDA 13.4, with custom storage only. */
enum cuda_process_state {
	CUDA_PROCESS_RUNNING = 0,
	CUDA_PROCESS_LOCKED = 1,
	CUDA_PROCESS_CHECKPOINTED = 2,
	CUDA_PROCESS_FAILED = 3,
	CUDA_PROCESS_CHECKPOINTING = 4,
	CUDA_PROCESS_RESTORING = 5,
};

/* Arguments of the cuCheckpointProcess calls: 64 bytes each, zero where nothing is said. */
struct cuda_lock_args {
	uint32_t timeout_ms; /* 0: for ever */
	uint32_t reserved0;
	uint64_t reserved1[7];
};
/* Custom storage (CUDA 13.4): device memory of another process, mapped into ours as one region a GPU until the operation is completed. The driver allocates all of it. */
struct cuda_region {
	uint64_t at;
	size_t size;
	void *stream; /* of the primary context of its GPU */
};
struct cuda_storage {
	void *handle;
	struct cuda_region *regions;
	uint32_t n_regions;
};
struct cuda_checkpoint_args {
	struct cuda_storage **storage; /* CUDA 13.4 */
	uint64_t reserved[7];
};
struct cuda_uuid {
	unsigned char bytes[16];
};
struct cuda_gpu_pair {
	struct cuda_uuid from, to;
};
struct cuda_restore_args {
	struct cuda_gpu_pair *pairs; /* CUDA 13.0 */
	uint32_t n_pairs;
	uint32_t padding;
	struct cuda_storage **storage; /* CUDA 13.4 */
	uint64_t reserved[5];
};
struct cuda_unlock_args {
	uint64_t reserved[8];
};
_Static_assert(sizeof(struct cuda_lock_args) == 64 && sizeof(struct cuda_checkpoint_args) == 64 && sizeof(struct cuda_restore_args) == 64, "as the driver has them");

/* NVML. */
struct nvml_memory {
	unsigned long long total, free, used; /* bytes */
};
struct nvml_process {
	unsigned int pid;
	unsigned long long used; /* bytes of device memory; ~0: not known */
	unsigned int gpu_instance, compute_instance;
};
#define NVML_SUCCESS 0
#define NVML_ERROR_INSUFFICIENT_SIZE 7
