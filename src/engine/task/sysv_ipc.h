/*
 * System V semaphores and message queues of the host that a tree uses, with --host-ipc: ipcns-sem-0.img, ipcns-msg-0.img; and all those of an IPC namespace of its own, whose number then
 * stands in the names. They live on
 * without processes; who uses them nothing tells but who changed a semaphore last, sent or received last. What a process has to undo at its end
 * (SEM_UNDO) is found by semaphores.c.
 *
 * On restore what is still there and not in use by others gets its values or messages back; what has gone is made again under
 * its id. Those who had changed a semaphore last, or had sent last, do so again. Left out: who received last, the times, and who changed a
 * semaphore last that several processes of the tree had changed, one of which has to undo that.
 */
#pragma once

#include "engine/dump.h"
#include "engine/restore.h"

/* After the last task. */
int sysv_ipc_capture(struct dump *d);

int sysv_ipc_make(struct restore *s);
int sysv_ipc_plan(struct restore *s, struct rtask *t);
void sysv_ipc_release(struct restore *s);
