/*
 * A store: a directory that keeps many checkpoints, whose memory is cut into chunks of a page each, known by their SHA-256. What two
 * checkpoints, processes or jobs have in common is kept once; a page of zeroes is not kept at all. docs/IMAGES.md, "The store", has the
 * layout.
 *
 * A chunk is a page because programs write pages here and there: of chunks of 64 KiB more than half would change when 5% of the pages did.
 * What makes so small a chunk affordable: chunks are packed in frames of sixteen, and who refers to them does so by runs.
 *
 * With a key, from a file, all of it is encrypted and authenticated (key.c).
 *
 * Everything is written under no name, or a temporary one, synced, and named last; nothing that has a name is ever changed. Writers hold
 * the store's lock shared, so any number of them can write at once; prune holds it alone for the moment in which it removes something.
 * Readers need no lock: they hold what they read open.
 */
#pragma once

#include "base/error.h"
#include "base/store_path.h"
#include "base/meter.h"
#include "image/archive.h"

#include <limits.h>

/* The two parts of "store:DIR/NAME". -EINVAL: there is no name. */
int store_split(const char *path, char dir[PATH_MAX], char name[NAME_MAX + 1]);

/* Writing and reading a checkpoint; see archive.h. -EEXIST: there is one of that name. The store is made where it is an empty directory or none. */
int store_sink_new(const char *path, const struct packing *packing, struct sink **ret);
/* -ENOENT: there is no such checkpoint; -ENOTDIR: there is no store; -ENOKEY, -EKEYREJECTED: not with this key; -EBADMSG: damaged. */
int store_source_open(const char *path, const char *key, struct source **ret);

/* The words for what can't be opened, for all who open a store; `what`: what was to be done. */
int store_error(struct error *e, int r, const char *what, const char *dir);

/* ---- the store as a whole; `dir` with or without "store:"; `key`: the file with its key, or NULL ---- */

struct store_checkpoint {
	char name[NAME_MAX + 1];
	int64_t created; /* seconds since 1970 */
	enum packing_kind kind;
	uint64_t size;	/* bytes of its files */
	uint64_t added; /* that its dump added to the store, for chunks */
};
typedef VEC(struct store_checkpoint) store_checkpoints;
int store_list(const char *dir, const char *key, store_checkpoints *ret, struct error *e);

struct store_stats {
	uint64_t checkpoints, packs, chunks; /* chunks that are kept */
	uint64_t size;	  /* of all files of all checkpoints */
	uint64_t stored;  /* bytes on disk: chunks with their tables, */
	uint64_t recipes, index; /* checkpoints, and the index */
	uint64_t unused;  /* chunks that no checkpoint refers to */
};
int store_stats(const char *dir, const char *key, struct store_stats *ret, struct error *e);

/* Called for each thing that is damaged: a line that names it. */
struct store_report {
	void (*found)(void *data, const char *what, const char *checkpoint); /* `checkpoint`: that needs it, or NULL */
	void *data;
	struct meter *meter;		 /* bytes on disk, or NULL */
	uint64_t chunks, bytes, damaged; /* looked at; and how many of them were not as they were written */
};
/* Every chunk against its hash, every checkpoint against what it needs. 0 also where there is damage. */
int store_verify(const char *dir, const char *key, struct store_report *report, struct error *e);

struct store_pruned {
	struct meter *meter; /* the caller's, of bytes that are written anew, or NULL */
	uint64_t packs, rewritten, chunks, bytes; /* removed; written anew without what nobody needs; freed */
};
/* Removes what no checkpoint refers to. */
int store_prune(const char *dir, const char *key, struct store_pruned *ret, struct error *e);
/* A checkpoint; what only it needed goes with the next prune. `path`: "store:DIR/NAME". */
int store_remove(const char *path, const char *key, struct error *e);
