/*
 * What a process has that the kernel shows in its own memory only (inside.h), or not in full, and that a new process can't be given: rules of
 * Landlock, keys in keyrings of its own, a security label that is not AppArmor's. Refused, so that it is not lost.
 *
 * Where the kernel's memory can't be read, Landlock and keyrings are not seen.
 */
#pragma once

#include "engine/task/task.h"

/* What takes a while, before anything is stopped. */
int hidden_prepare(struct dump *d);
/* Its threads must have been asked. */
int hidden_check(struct dump *d, struct task *t);
void hidden_release(struct dump *d);
