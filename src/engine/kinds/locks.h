/* See locks.c. */
#pragma once

#include "engine/kinds/kind.h"

/* The locks that fdinfo tells of one descriptor; those of a description are kept once. f->id is set. */
int locks_capture(struct dump *d, struct descriptor *f);
/* After the last task: what is left to check, and filelocks.img. */
int locks_finish(struct dump *d, bool success);
/* Once a task has closed all that it does not need: closing any descriptor of a file drops the process's POSIX locks on it. */
int locks_plan(struct restore *s, struct rtask *t);
/* Whether the images' locks can be, once all of them are loaded. */
int locks_check(struct restore *s);
/* What only mappings keep; once all tasks are parked. */
int locks_settle(struct restore *s);
