/* See whole.h. */
#include "image/whole.h"

int read_whole(int fd, void *to, size_t size, uint64_t at)
{
	char *into = to;

	while (size) {
		ssize_t n = pread(fd, into, size, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EBADMSG;
		into += n;
		at += (uint64_t)n;
		size -= (size_t)n;
	}
	return 0;
}

int write_whole(int fd, const void *data, size_t size, uint64_t at)
{
	const char *from = data;

	while (size) {
		ssize_t n = pwrite(fd, from, size, (off_t)at);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			from += n;
			at += (uint64_t)n;
			size -= (size_t)n;
		}
	}
	return 0;
}
