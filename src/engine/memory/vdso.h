/*
 * The vdso of an address space: its ELF image goes into the root's mm-PID.img, all others have the same. Where the kernel of the restore has the very same one, that is
 * put where it was. Otherwise the old image stands there again, as plain memory, each function leading to this kernel's
 * (vdso_patch.h), which has a place of its own.
 *
 * Left out: a program that has changed its vdso is refused at the dump; one with a thread inside the vdso, or in a signal handler
 * that has interrupted it, is refused by a restore under another kernel. Memory of a MAP_DROPPABLE kind that vgetrandom uses
 * is looked at by neither side.
 */
#pragma once

#include "engine/restore.h"
#include "engine/task/task.h"

/* Checks the process's vdso; that of the root goes into `mm`, whose bytes the caller frees. */
int vdso_capture(struct dump *d, struct task *t, MmEntry *mm);

/* The kernel's own areas, a part of the vdso; as the images have them. */
bool vdso_is_part(const VmaEntry *v);
/* Moves the vdso of the coordinator out of the way, to `room`. */
void vdso_plan_aside(struct restore *s, struct batch *b, uint64_t room);
/* The same in a child that has memory of its parent's. */
void vdso_plan_aside_of(struct restore *s, struct batch *b, const struct rtask *parent, uint64_t room);
/* Whether both are to have it at the same place, and not as an old one. */
bool vdso_is_parents(const struct restore *s, const struct rtask *t);
/* From `room`, unless it stays; or the image of the old one. `room_size`: of the room. */
int vdso_plan(struct restore *s, struct rtask *t, uint64_t room, uint64_t room_size);
/* Whether the task's vdso is the image of the old one. */
bool vdso_is_old(struct restore *s, const struct rtask *t);
/* A task that is stopped and has its memory, its threads their registers: whether none is inside an old vdso. */
int vdso_check_threads(struct restore *s, const struct rtask *t);
void vdso_release(struct restore *s);
