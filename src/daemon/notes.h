/*
 * Notes: a small file for each row of the database, in the folder `notes` beside it, so that one which is damaged or lost can be filled
 * again. Written after the row, and removed with it.
 *
 * Also the tables themselves, as lists of columns over a struct: of those statements and notes are made.
 */
#pragma once

#include "daemon/store.h"

struct column {
	const char *name;
	size_t offset, size; /* size 0: an int64_t */
};

struct table {
	const char *name;
	size_t size, n_columns;
	size_t n_noted; /* how many of them each note has; those that came later may be missing in one that is older */
	const struct column *columns; /* the first is the key */
};

extern const struct table table_jobs, table_checkpoints;

/* The folder beside the database `path`, or a negative errno. */
int notes_open(const char *path);
/* What goes wrong here is only logged: the database has it. */
void note_write(int notes, const struct table *t, const void *row);
void note_remove(int notes, const struct table *t, const char *key);
/* Each row that is noted; what `take` gives other than 0 ends it. */
int notes_read(int notes, int (*take)(void *data, const struct table *t, const void *row), void *data);
/* Removes all. */
void notes_forget(int notes);
