/*
 * Mapping a file at an address where its driver does not let itself be mapped: io_uring's takes no address (Linux 6.5). Everything else
 * is filled for that moment, so that the kernel finds no other place.
 */
#pragma once

#include "engine/restore.h"

struct place_range {
	uint64_t start, end;
};

/* `taken`: what is mapped in the task at that point of its batch, in order. */
void place_plan(struct rtask *t, const VmaEntry *v, int fd, const struct place_range *taken, size_t count);
