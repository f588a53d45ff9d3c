/*
 * The content of pages that the kernel knows by their struct page: parts of packets. Where the descriptions of pages and where the memory itself
 * begins (vmemmap, the direct map) is not told; it is found out with pages of our own, whose frame numbers are known (/proc/self/pagemap,
 * CAP_SYS_ADMIN), by way of a pipe that holds them, and is only believed when what stands there is what we have written.
 */
#pragma once

#include "engine/kernel.h"

#define KERNEL_PAGE_DESCRIPTION 64UL /* bytes of a struct page */

struct kernel_pages {
	uint64_t descriptions, memory;
};

int kernel_pages_find(struct kernel *k, struct kernel_pages *ret);
/* Only where the descriptions begin: that of a frame stands KERNEL_PAGE_DESCRIPTION times its number behind. */
int kernel_pages_find_descriptions(struct kernel *k, uint64_t *ret);
/* Some bytes of the page that is described at `page`, and of those behind it. */
int kernel_pages_read(struct kernel *k, const struct kernel_pages *p, uint64_t page, uint64_t offset, void *to, size_t size);
