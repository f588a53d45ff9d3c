/*
 * The flags of a process's memory areas, from the kernel's own memory (kernel.h): smaps, which else tells them, walks all pages and takes longer than
 * all that a small dump reads. Areas stand in a tree (Linux 6.1). Only the usual flags are decoded, and only after our own areas were found to have
 * what smaps says of them; a process with any other flag is read in smaps.
 */
#pragma once

#include "engine/kernel.h"
#include "proc/proc.h"

struct areas {
	struct area {
		uint64_t start, end, flags; /* flags as the kernel has them */
	} *data;
	size_t count, capacity;
};
/* How the kernel keeps them: places in its structs, and shapes of nodes. */
struct areas_layout {
	int root, start, end, flags; /* the latter in vm_area_struct */
	int from, size;		     /* all of them, there */
	struct areas_shape {
		int type, pivot, slot;
		size_t slots;
	} leaf, range, allocation;
};

/* -ENOTSUP: it can't be had. */
int areas_find_layout(struct kernel *k, struct areas_layout *ret);
/* All areas of a stopped process, by the address of its mm_struct, with all their flags; the caller frees data. */
int areas_walk(struct kernel *k, const struct areas_layout *l, uint64_t mm, struct areas *ret);

/* The layout, once its usual flags were found right; NULL where they can't be had. */
struct areas_layout *areas_find_checked(struct kernel *k);
/* Of a stopped process, by the address of its mm_struct; the caller frees data. -ENOTSUP: some have flags that are not usual. */
int areas_read(struct kernel *k, const struct areas_layout *l, uint64_t mm, struct areas *ret);
/* As proc_read_smaps, with the flags from there; -EBADMSG: they are not the areas that the process has. */
int areas_read_maps(pid_t pid, const struct areas *a, struct proc_maps *ret);
