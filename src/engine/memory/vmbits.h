/*
 * The flags of areas as the kernel itself keeps them (vm_flags of a vm_area_struct, task/areas.h): in microseconds, where
 * smaps walks every page. Which bit is which is learned from areas of our own. Whatever does not fit what is expected, be it a bit that was not learned
 * or an area that maps does not have, is an error, and smaps has to tell.
 */
#pragma once

#include "engine/task/areas.h"

#define VMBITS_MAX 40

struct vmbits {
	struct {
		uint64_t bit, flag; /* the kernel's; PROC_VMF_* */
	} known[VMBITS_MAX];
	size_t count;
	struct areas_layout layout;
	uint64_t plain; /* bits that say nothing which maps does not */
};

/* -ENOTSUP and the like. By the main thread, as are all calls of kernel.h. */
int vmbits_learn(struct kernel *k, struct vmbits *ret);
/* Fills in the flags of *maps, which was just read, of a stopped process with this name. */
int vmbits_read(struct kernel *k, const struct vmbits *bits, pid_t pid, const char *comm, struct proc_maps *maps);
