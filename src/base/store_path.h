/* How a place in a store is written, "store:DIR/NAME", and the file that is there: what image and daemon both know of stores (image/store/store.h). */
#pragma once

#include "base/base.h"

#define STORE_PREFIX "store:"
#define STORE_ADDED_OFFSET 24 /* in that file: how many bytes its dump added to the store, u64 */

static inline bool store_is_path(const char *path)
{
	return !strncmp(path, STORE_PREFIX, strlen(STORE_PREFIX));
}

/* What a program with another working directory may be told. */
static inline bool store_or_plain_is_absolute(const char *path)
{
	return (store_is_path(path) ? path + strlen(STORE_PREFIX) : path)[0] == '/';
}

/* How long the name of a directory is without the slashes at its end, which come again before what is put behind it. */
static inline size_t path_trimmed(const char *dir)
{
	size_t length = strlen(dir);

	while (length && dir[length - 1] == '/')
		length--;
	return length;
}

/* DIR/FOLDER/NAME. -EINVAL: there is no name, or it begins with a dot; -ENAMETOOLONG. */
static inline int store_file(const char *path, const char *folder, char *ret, size_t size)
{
	const char *from = store_is_path(path) ? path + strlen(STORE_PREFIX) : path, *slash = strrchr(from, '/');

	if (!slash || !slash[1] || slash[1] == '.')
		return -EINVAL;
	return (size_t)snprintf(ret, size, "%.*s/%s%s", (int)(slash - from), from, folder, slash) < size ? 0 : -ENAMETOOLONG;
}
