/*
 * Where a process with one thread waits for its registers: in sixteen bytes of code behind the end of the vdso's ELF image, which
 * unmap the arena and then do nothing. Stopped there it needs nothing but its registers; nobody has to take the arena away.
 *
 * The coordinator has the code in its own vdso for the moment in which the root is born, which all others have it from. Where that
 * can't be (a kernel that does not let it write there), everyone parks in the arena.
 */
#pragma once

#include "engine/restore.h"

/* Before anything is planned; and once the root was born. */
void rest_place(struct restore *s);
void rest_remove(struct restore *s);
/* Adds the last operation to the batch of a task with one thread. False: there is no such place, it has to park. */
bool rest_plan(struct restore *s, struct rtask *t);
/* Waits for the stop of its thread, which was interrupted, in that place. */
int rest_wait(struct restore *s, struct rtask *t);
/* Takes the code out of a stopped task's vdso. */
int rest_clean(struct restore *s, struct rtask *t);
