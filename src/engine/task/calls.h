/*
 * System calls that a thread was stopped in, and how it goes on with them: as if it had not been stopped.
 *
 * The kernel notes in the registers how a call that was interrupted goes on (-ERESTART…, never seen by programs): again as it was, or, for those with
 * a time to wait, until the moment that is kept in the thread's restart block. Some calls it ends with EINTR instead, signal(7); these are told to go
 * on as well.
 */
#pragma once

#include "engine/task/state.h"

/* Right behind the stop: a call that ended for it alone, and can be made again, is. */
void calls_mend(struct tracee *t);
/* What it was, and how much is left of its time; `regs` become those with which a new thread makes the call again. */
int calls_capture(struct dump *d, struct thread *th, struct pool *pool, ThreadCoreEntry *core, struct user_regs_struct *regs);

/* Whether the image's can be. */
bool calls_are_valid(const CoreEntry *core);
/* Puts what the kernel had noted of its call among the registers that it is to have. */
void calls_note(struct rthread *th);
/* Of those with a time that is left, in all threads. They are stopped, have their registers, and no batch is to come: they are in their calls again. */
int calls_give_back(struct restore *s);
