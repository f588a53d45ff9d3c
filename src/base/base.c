/* See base.h. */
#include "base/base.h"

#include <fcntl.h>

bool vec_reserve(void **ptr, size_t *capacity, size_t need, size_t element_size)
{
	if (need <= *capacity)
		return true;
	size_t wanted = MAX(need, *capacity + *capacity / 2);
	wanted = MAX(wanted, (size_t)8);
	void *grown = reallocarray(*ptr, wanted, element_size);
	if (!grown)
		return false;
	*ptr = grown;
	*capacity = wanted;
	return true;
}

static int read_all(int dirfd, const char *path, size_t max_bytes, bool at_once, char **ret_data, size_t *ret_size)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	_cleanup_free_ char *data = NULL;
	size_t used = 0, capacity = 4096;

	data = malloc(capacity);
	if (!data)
		return -ENOMEM;
	for (;;) {
		if (used + 1 == capacity) {
			if (capacity >= max_bytes)
				return -EFBIG;
			char *grown = realloc(data, capacity * 4);
			if (!grown)
				return -ENOMEM;
			data = grown;
			capacity *= 4;
		}
		ssize_t n = read(fd, data + used, capacity - used - 1);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		used += (size_t)n;
		if (n == 0 || (at_once && used + 1 < capacity))
			break;
	}
	data[used] = '\0';
	if (ret_size)
		*ret_size = used;
	*ret_data = TAKE_PTR(data);
	return 0;
}

int read_file_at(int dirfd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_size)
{
	return read_all(dirfd, path, max_bytes, false, ret_data, ret_size);
}

int read_small_at(int dirfd, const char *path, size_t max_bytes, char **ret_data, size_t *ret_size)
{
	return read_all(dirfd, path, max_bytes, true, ret_data, ret_size);
}

void descriptors_reserve(size_t highest)
{
	_cleanup_close_ int any = open("/", O_PATH | O_CLOEXEC);
	_cleanup_close_ int high = fcntl(any, F_DUPFD_CLOEXEC, (int)MIN(highest, 1UL << 20));

	(void)high; /* with a lower limit it is only slower */
}
