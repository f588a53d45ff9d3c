/*
 * The small things that every file needs: cleanup attributes, array sizes, checked allocation.
 *
 * Nothing here logs, prints or knows about processes.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define PAGE_SIZE 4096UL
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define ALIGN_UP(x, a) (((x) + ((a)-1)) & ~((a)-1))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* Hands a pointer or descriptor to a new owner and leaves an empty one behind. */
#define TAKE_PTR(p) \
	({ \
		typeof(p) *take_ = &(p), value_ = *take_; \
		*take_ = NULL; \
		value_; \
	})
#define TAKE_FD(fd) \
	({ \
		int *take_ = &(fd), value_ = *take_; \
		*take_ = -EBADF; \
		value_; \
	})

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
	if (*fd >= 0) {
		int saved = errno;
		close(*fd);
		errno = saved;
	}
}

static inline void cleanup_fclose(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _cleanup_free_ _cleanup_(cleanup_free)
#define _cleanup_close_ _cleanup_(cleanup_close)
#define _cleanup_fclose_ _cleanup_(cleanup_fclose)
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _unused_ __attribute__((unused))

/* A growing array: ptr, count and capacity side by side, grown by half as much again.
 * Returns true on success; on failure the array is as it was. */
bool vec_reserve(void **ptr, size_t *capacity, size_t need, size_t element_size);

#define VEC(type) \
	struct { \
		type *data; \
		size_t count, capacity; \
	}
/* Appends one zeroed element and gives its address, or NULL when memory is short. */
#define VEC_PUSH(v) \
	(vec_reserve((void **)&(v)->data, &(v)->capacity, (v)->count + 1, sizeof(*(v)->data)) \
		 ? memset(&(v)->data[(v)->count++], 0, sizeof(*(v)->data)) \
		 : NULL)
#define VEC_FREE(v) (free((v)->data), (v)->data = NULL, (v)->count = (v)->capacity = 0)
#define VEC_FOREACH(v, it) for (typeof((v)->data + 0) it = (v)->data; it && it < (v)->data + (v)->count; it++)

/*
 * Makes room for descriptors up to `highest`, as long as there is one thread: the kernel lets a table that threads share grow
 * only after an RCU grace period, milliseconds each time.
 */
void descriptors_reserve(size_t highest);

/* Reads a whole file into a NUL-terminated buffer that the caller frees. `ret_size` may be NULL.
 * Returns 0 or a negative errno; -EFBIG beyond max_bytes. Made for /proc: reads until end of file. */
int read_file_at(int dirfd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_size);
/* The same of a file that gives as much as there is room for, so that less is the end: one with a single record in /proc. */
int read_small_at(int dirfd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_size);
