/*
 * Questions about an address space, answered from its parsed /proc/PID/maps.
 */
#pragma once

#include "proc/proc.h"

/* The `status` bits of a vma_entry in the images. */
enum {
	VMA_REGULAR = 1 << 0,
	VMA_STACK = 1 << 1,
	VMA_VSYSCALL = 1 << 2,
	VMA_VDSO = 1 << 3,
	VMA_HEAP = 1 << 5,
	VMA_FILE_PRIVATE = 1 << 6,
	VMA_FILE_SHARED = 1 << 7,
	VMA_ANON_SHARED = 1 << 8,
	VMA_ANON_PRIVATE = 1 << 9,
	VMA_SYSVIPC = 1 << 10,
	VMA_VVAR = 1 << 12,
	VMA_AIORING = 1 << 13,
	VMA_MEMFD = 1 << 14, /* beside VMA_FILE_*: of a memfd; in images alone, for CRIU */
};

/* The bits of mmap(2)'s flags that say of what huge pages an area is. */
#define VMA_HUGE_FLAGS (MAP_HUGETLB | 0x3fU << 26)

#define VMA_DROPPABLE 0x08 /* MAP_DROPPABLE, in place of MAP_PRIVATE (Linux 6.11) */

uint32_t vma_status(const struct proc_vma *vma);
/* The area of a parent that holds all of `vma` of its child and is of the same memory, or NULL. */
const struct proc_vma *maps_find_same(const struct proc_maps *parent, const struct proc_vma *vma);
/* Whether what is locked is locked page by page (MLOCK_ONFAULT). */
bool vma_locks_on_fault(const struct proc_vma *vma);
void maps_sort(struct proc_maps *maps);
/* A free range of `size` bytes, or 0. */
uint64_t maps_find_hole(const struct proc_maps *maps, size_t size);
/* SNIPPET_MAX executable bytes behind the end of the vdso's image, which is [start, end), or 0. `mem_fd`: /proc/PID/mem. */
uint64_t vdso_find_slack(uint64_t start, uint64_t end, int mem_fd);
uint64_t maps_find_slack(const struct proc_maps *maps, int mem_fd);
