/*
 * Custom storage: device memory of another process, which the driver maps into ours (driver 615 and later), is copied by ourselves to a file, and back.
 *
 * Several threads take the blocks by turns: each has pinned memory for one and a stream, so that while some are on the bus others are hashed and written.
 * Files on disks are written past the page cache where that may be. Blocks of zeroes become holes, and are set on the device without crossing the bus.
 *
 * There is no way to give an operation up once it was begun (CUDA Driver API, "CUDA Checkpointing"): when a copy fails, what is on the device is kept
 * in memory, the operation is completed, and the process restored from that.
 */
#pragma once

#include "gpu/driver.h"

/* Contexts on the GPUs of the regions, or on all where there are none: without, the driver maps nothing. Each is made once. A CUresult. */
int storage_prepare(struct driver *d, const struct gpu_region *regions, size_t n);
/* GPU_CHECKPOINT: from locked to checkpointed; fills call->regions and what call->fd and call->digests are of. A CUresult, or a negative errno with call->why
 * set: then it is locked as before, unless the text says otherwise. */
int storage_save(struct driver *d, struct gpu_call *call);
/* GPU_RESTORE: from checkpointed to locked. `args` has the pairs. */
int storage_load(struct driver *d, struct gpu_call *call, struct cuda_restore_args *args);
