/*
 * What lies outside the tree: the dump leaves it out where the user names it (--external), the restore takes a descriptor of the caller's
 * for it (--inherit-fd). Parsed once, by whoever fills the request; kinds ask.
 *
 * The names are criu's: file[MNT_ID:INODE], tty[RDEV:DEV], unix[INODE], pipe[INODE], socket[INODE], and a path. Of two numbers both
 * are hexadecimal, as the container runtimes write them, or both decimal, as fdinfo and stat(1) print them. "pipe:[INODE]" is the same
 * as "pipe[INODE]". Without a number ("pipe[]") every one is meant, at the dump.
 */
#pragma once

#include "base/error.h"
#include "base/pool.h"

#include <sys/stat.h>

struct request;
struct restore;

struct external {
	const char *type; /* "tty"; "" is a path or a label, which is in `id` then */
	const char *id;	  /* what stands in the brackets */
	const char *value; /* behind "]:", or NULL */
	int fd;		  /* of --inherit-fd */
};

struct external_list {
	VEC(struct external) left_out, given;
	struct pool pool; /* of the texts */
};

/* An argument of --external: TYPE[ID] or TYPE[ID]:VALUE. */
int external_add(struct external_list *list, const char *text, struct error *e);
/* An argument of --inherit-fd: fd[N]:RESOURCE. The descriptor must be open. */
int external_add_given(struct external_list *list, const char *text, struct error *e);
void external_free(struct external_list *list);

/* Dump: whether the user named it. */
bool external_is(const struct request *r, const char *type, uint64_t number);
bool external_is_pair(const struct request *r, const char *type, uint64_t a, uint64_t b);
/* What the user named it with: TYPE[NUMBER]:VALUE; TYPE[NAME]:VALUE. NULL: nothing was. */
const struct external *external_numbered(const struct request *r, const char *type, uint64_t number);
const struct external *external_named(const struct request *r, const char *type, const char *name);
/* A terminal: `dev` 0 is any, where only the number of the device is known. */
bool external_is_tty(const struct request *r, uint64_t rdev, uint64_t dev);

/* Restore: the caller's descriptor for it, or -1. It stays the caller's. */
int external_given(const struct request *r, const char *type, uint64_t number);
int external_given_pair(const struct request *r, const char *type, uint64_t a, uint64_t b);
int external_given_tty(const struct request *r, uint64_t rdev, uint64_t dev);
int external_given_path(const struct request *r, const char *path);
/* A description for the tree from what was given: a FIFO, pipe or terminal is opened again with these flags, anything else is shared with
 * the caller and must have been opened in the same way. Negative errno with the text set, where `what` names the resource. */
int external_open(struct restore *s, int given, int flags, const char *what);

/* Before anything is made: what the images say to be outside, and that no kind will ask for by itself. */
int external_check(struct restore *s);
