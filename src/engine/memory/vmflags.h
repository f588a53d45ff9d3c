/*
 * The flags of areas stand in smaps alone, and reading that walks every page: ten milliseconds for a GiB. So for a process that is about to be
 * stopped for a moment they are read before it and again behind it. Pure.
 */
#pragma once

#include "proc/proc.h"

/* Gives the areas of `now` (from maps) the flags that they had in `earlier` (from smaps). An area that is new has none but what its name and kind
 * tell. */
void vmflags_borrow(struct proc_maps *now, const struct proc_maps *earlier);
/* Whether the flags in `now` still stand in `later` (from smaps, behind the pause). false: some were changed meanwhile, so that what they were in the
 * pause is not known. An area that was there in the pause alone is believed to have none, unless others of the process are kept from
 * its children or wiped in them (madvise(2)). `ignored`: flags that do not count. */
bool vmflags_confirm(const struct proc_maps *now, const struct proc_maps *later, uint64_t ignored);
