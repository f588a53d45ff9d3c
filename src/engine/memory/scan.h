/*
 * Which pages of an address space are worth saving: PAGEMAP_SCAN (Linux 6.7), or /proc/PID/pagemap where that is missing.
 */
#pragma once

#include "base/base.h"

/* A run of pages. `shared`: the parent has the very same ones at the same addresses. `several`: some other process has them too,
 * by fork(2). `previous`: the parent checkpoint has it (increment.h). */
struct page_run {
	uint64_t start, end;
	bool shared, several, previous;
};

struct page_runs {
	struct page_run *data;
	size_t count, capacity;
	size_t closed; /* so many of the first are not added to: no run goes beyond its area */
	const uint64_t *cuts; /* while they are looked for: where areas begin */
	size_t cuts_count;
};

/* The pages of [start, end) that are there or swapped out; not zero pages, and where `file_backed` only those that were written.
 * They are added to *runs. `shared`: the parent may have them too, which is for scan_split to tell. */
int scan_pages(int pagemap_fd, uint64_t start, uint64_t end, bool file_backed, bool shared, struct page_runs *runs);
/* What a scan finds: what is not the zero page; of that what was written, where a file has the rest; zero pages too, where it matters that they are there. */
enum scan_what { SCAN_DATA, SCAN_WRITTEN, SCAN_ALL };
/* The same of several areas that follow each other, [start, end) in all: each but the first begins at one of `cuts`, in order. */
int scan_areas(int pagemap_fd, uint64_t start, uint64_t end, const uint64_t *cuts, size_t count, enum scan_what what, bool shared, struct page_runs *runs);
/* 0: PAGEMAP_SCAN finds pages in [start, end), of which some are there. */
int scan_fast_works(int pagemap_fd, uint64_t start, uint64_t end);
/* Splits the runs by who else has the pages: fills `several` and, where it was set and parent_fd, that of the parent's pagemap, is not
 * -1, `shared`. Runs that are `several` already stay as they are. Page frame numbers need CAP_SYS_ADMIN; without, nothing is found to be shared. */
int scan_split(int pagemap_fd, int parent_fd, struct page_runs *runs);
