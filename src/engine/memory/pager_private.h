/* What the files of the pager share: pager.c brings pages, pager_wait.c is how others wait for them, guard.c stands beside and starts both. */
#pragma once

#include "engine/memory/pager.h"

struct pager;
/* NULL: out of memory. `listener` is of pager_listen; all else of the lot must stay. */
struct pager *pager_new(const struct pager_lot *lot, int listener);
/* The process that brings the pages. */
_Noreturn void pager_serve(struct pager *p);
/* Whoever connects waits for the end of pager and guard, and nothing else: nobody accepts. -1: can't be had. */
int pager_listen(void);
