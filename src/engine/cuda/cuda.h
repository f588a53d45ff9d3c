/*
 * CUDA processes in dump and restore. What the driver does is asked of the helper (gpu/gpu.h); here is the order in which.
 *
 * Dump: lock, so that no more work is given to the GPUs and what was under way ends, while the tree runs; stop the tree; checkpoint, for which the
 * driver's own thread in each process must run while all others stand. Device memory then is ordinary memory of the process, and nothing of
 * the driver's is left in its descriptors and mappings. When the tree is to run on: restore and unlock, before anything else runs.
 *
 * Restore: when all processes stand ready with their registers, restore, unlock, and only then let anything run.
 *
 * Source: CUDA Driver API, "CUDA Checkpointing" (driver 570 and later).
 */
#pragma once

#include "engine/dump.h"
#include "gpu/gpu.h"
#include "inventory.pb-c.h"

struct restore;
struct tracee;

/* ---- dump ---- */

/* Before the tree is stopped: finds CUDA processes, asks what stands against it, locks them. May be called again for those that came since. */
int cuda_lock(struct dump *d);
/* The tree is stopped. 1: there is a CUDA process that was not locked: let the tree run, and begin again with cuda_lock. */
int cuda_checkpoint(struct dump *d);
/* What the processes had on GPUs, where it does not lie in their own memory (images.h): has it written, waits, gives what became of it. */
int cuda_images(struct dump *d);
/* For a tree that is to run on, and still stands: what the driver has checkpointed comes back and is unlocked. When that
 * has failed, it fails with the same words again. */
int cuda_resume(struct dump *d);
/* For one that has ended: nothing is to be put back. */
void cuda_forget(struct dump *d);
/* At the end, when the tree is no longer held: those that are only locked are unlocked. */
void cuda_finish(struct dump *d);
/* In place of cuda_lock, of a check: adds what stands against it to the obstacles, and touches nothing. */
int cuda_check(struct dump *d);
/* Whether this is one that was found. */
bool cuda_has(const struct dump *d, pid_t pid);
/* Whether there are processes that cuda_resume is for. */
bool cuda_used(const struct dump *d);
/* Will the driver take its descriptors and mappings out of this process before it is captured? For a check, where it does not. */
bool cuda_releases(const struct dump *d, pid_t pid);
/* For the inventory. *ret: NULL without CUDA processes; to be freed by cuda_entry_free. */
int cuda_entry(struct dump *d, FermataGpuEntry **ret);
void cuda_entry_free(FermataGpuEntry *entry);

/* ---- restore ---- */

/* Before any process is made: starts the helper, compares GPUs and drivers. */
int cuda_prepare(struct restore *s);
/* Every thread is stopped and has its registers. */
int cuda_restore(struct restore *s);
void cuda_release(struct restore *s);

/* ---- both ---- */

/* How long a call may take, in ms. */
int cuda_deadline(const struct request *request);

/* Bytes of the host's memory that may be had; UINT64_MAX: not known. */
uint64_t cuda_memory_available(void);

/* A thread of the driver's, which runs while a call is made. */
struct cuda_thread {
	pid_t pid, tid;
	struct tracee *tracee;
	uint64_t sigmask; /* its own, while it runs with all signals blocked */
	bool runs;
};
/* Each is let go, and stopped again; then it has its own mask again, tracee->regs are new. */
int cuda_thread_run(struct cuda_thread *t, struct error *e);
int cuda_thread_stop(struct cuda_thread *t, struct error *e);
/* Makes the calls, all at once, while the threads run, and waits. A call's own failure is in it; what is returned is the helper's, the
 * deadline's, or the death of a thread. */
int cuda_call(struct gpu *g, struct gpu_call *calls, size_t n, struct cuda_thread *threads, size_t n_threads, int deadline_ms, struct error *e);
