/*
 * A CUDA driver of the tests' own, as libcuda.so.1 and libnvidia-ml.so.1, with just so much of the interface that a program can keep state on a
 * "device" and that a checkpointer can save it. What the real one is known for is kept (CUDA Driver API, "CUDA Checkpointing"):
 *
 * - device memory lies outside of the process, in a file of $FAKE_GPU_DIR, and is lost when the process ends;
 * - a process that uses it holds a character device that can't be saved;
 *   ($FAKE_DEVICE, where that is another than the usual);
 * - state, lock, checkpoint, restore and unlock are done by a thread of the process, and hang while that is stopped; its id is told without it;
 * - lock blocks further calls and waits for work under way; checkpoint moves device memory into new anonymous memory and closes the device.
 *
 * With $FAKE_CUSTOM it has custom storage: a checkpointer with a context on the device maps what a process has there, and completes the operation; what a restore
 * maps holds rubbish at first.
 *
 * $FAKE_GPU_DIR/fail makes a call go wrong: lines "CALL HOW [PID]", with CALL init, state, lock, checkpoint, restore, complete or unlock, or, of the checkpointer,
 * retain, host (pinned memory) or copy; and HOW a CUresult, or `hang`, or `die` (the thread that does it exits its process).
 * "N*TIMES" is a CUresult so many times, then nothing.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define FAKE_DEVICES 2
#define FAKE_MEMORY (1ULL << 32)

/* What programs use. Names and arguments as the CUDA Driver API has them. */
int cuInit(unsigned int flags);
int cuMemAlloc_v2(uint64_t *ret, size_t size);
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size);
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size);
/* In place of a kernel: adds one to each 64-bit number, `ms` milliseconds later; calls do not wait for it, a lock does. */
int fakeLaunch(uint64_t at, size_t numbers, unsigned int ms);
int cuCtxSynchronize(void);
int fakeSetDevice(int device);
