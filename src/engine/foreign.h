/*
 * What images of CRIU have elsewhere than ours: each is brought to where the restore looks for it, right after it was read.
 */
#pragma once

#include "engine/restore.h"

/* Set by foreign_vdso in the flags of an entry of a pagemap: its pages are in the file, and are not put into the process. No image has it. */
#define PAGES_PASSED_OVER (1U << 31)

static inline bool pages_are_passed_over(const PagemapEntry *p)
{
	return p->has_flags && p->flags & PAGES_PASSED_OVER;
}

/* The vdso's image stands among the pages, and not in mm-PID.img. */
int foreign_vdso(struct restore *s, struct rtask *t);
