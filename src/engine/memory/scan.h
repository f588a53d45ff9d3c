/*
 * Which pages of an address space are worth saving: PAGEMAP_SCAN (Linux 6.7), or /proc/PID/pagemap where that is missing.
 */
#pragma once

#include "base/base.h"

/* A run of pages. `shared`: the parent has the very same ones at the same addresses. */
struct page_run {
	uint64_t start, end;
	bool shared;
};

struct page_runs {
	struct page_run *data;
	size_t count, capacity;
};

/* The pages of [start, end) that are there or swapped out; not zero pages, and where `file_backed` only those that were written.
 * They are added to *runs. */
int scan_pages(int pagemap_fd, uint64_t start, uint64_t end, bool file_backed, struct page_runs *runs);
/* Splits the runs at `first` and after by whether the parent's pagemap has the same page frames: those that both got by fork(2).
 * Page frame numbers need CAP_SYS_ADMIN; without, nothing is found to be shared. */
int scan_shared(int pagemap_fd, int parent_fd, struct page_runs *runs, size_t first);
