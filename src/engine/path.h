/*
 * Names of files that an image gives. They were canonical when they were saved: absolute, without "..", no symbolic link on the way. Opening
 * one follows no link, so that an image can reach only what it names; openat2(2), Linux 5.6.
 *
 * `root`: a descriptor of the root directory that they begin at, which is that of a tree in a mount namespace of its own; 0: our own.
 */
#pragma once

#include "base/error.h"

#include <sys/stat.h>

/* Whether it could have been saved so. */
bool path_is_canonical(const char *name);
/* openat2(2) without following links, but for a last one with O_NOFOLLOW and O_PATH. O_CLOEXEC is added. A descriptor or a negative
 * errno: -EBADMSG where the name is not canonical, -ELOOP where a link is in the way. */
int path_open(int root, const char *name, int flags);
/* Of a name of ours, not an image's: links are followed, within the root. */
int path_follow(int root, const char *name, int flags);
/* As lstat(2). 0 or a negative errno. */
int path_stat(int root, const char *name, struct stat *ret);
/* The directory that it lies in, as an O_PATH descriptor; *ret_base points into `name`. */
int path_open_parent(int root, const char *name, const char **ret_base);
/* What became of opening it, in words. Gives `code`. */
int path_error(struct error *e, int code, const char *name);
