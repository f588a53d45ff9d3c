/* Helpers for kinds that are "anon_inode:[NAME]" and tell about themselves in /proc/PID/fdinfo. */
#pragma once

#include "engine/kinds/kind.h"

/* Whether the descriptor is anon_inode:[name]. */
bool anon_is(const struct descriptor *f, const char *name);
/* The text behind "key:" and white space in the descriptor's fdinfo, or NULL. */
const char *fdinfo_value(const struct descriptor *f, const char *key);
