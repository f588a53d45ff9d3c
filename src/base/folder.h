/* What hangs together by links between folders. */
#pragma once

#include "base/base.h"

#include <limits.h>

/* Looks for a folder beside `path` whose symbolic link `link` leads to it: 1, with its path; 0 when there is none but `except` (or NULL). What is only being
 * made (.fermata-…) is none. */
int folder_find_referrer(const char *path, const char *link, const char *except, char ret[PATH_MAX]);
/* Whether the link `link` of a folder leads to `path`. */
bool folder_refers(const char *folder, const char *link, const char *path);
/* Removes a folder that has no folders in it. */
int folder_remove(const char *path);
