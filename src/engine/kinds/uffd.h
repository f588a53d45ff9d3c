/* A process that watches its own memory, userfaultfd(2). */
#pragma once

#include "engine/kinds/kind.h"

/* Whether what watches the area was captured, with it. */
bool uffd_covers(struct dump *d, const struct task *t, const struct proc_vma *vma);
/* Whether memory of this task will be watched: it must have no page but those that it had. */
bool uffd_watches(struct restore *s, struct rtask *t);
