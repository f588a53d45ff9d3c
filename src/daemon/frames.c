/* See frames.h. */
#include "daemon/frames.h"

#include <sys/socket.h>

bool frame_put(struct frame_buffer *b, enum frame_type type, const void *data, size_t size)
{
	if (!vec_reserve((void **)&b->data, &b->capacity, b->count + FRAME_HEAD + size, 1))
		return false;
	unsigned char *at = b->data + b->count;
	at[0] = (unsigned char)type;
	for (int i = 0; i < 4; i++)
		at[1 + i] = (unsigned char)(size >> 8 * i);
	if (size)
		memcpy(at + FRAME_HEAD, data, size);
	b->count += FRAME_HEAD + size;
	return true;
}

int frame_receive(struct frame_buffer *b, int fd)
{
	if (!vec_reserve((void **)&b->data, &b->capacity, b->count + FRAME_MAX, 1))
		return -ENOMEM;
	ssize_t n = read(fd, b->data + b->count, FRAME_MAX);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	b->count += (size_t)n;
	return n == 0;
}

int frame_next(const struct frame_buffer *b, enum frame_type *ret_type, const unsigned char **ret_data, size_t *ret_size)
{
	size_t size = 0;

	if (b->count < FRAME_HEAD)
		return 0;
	for (int i = 0; i < 4; i++)
		size |= (size_t)b->data[1 + i] << 8 * i;
	if (size > FRAME_MAX)
		return -EBADMSG;
	if (b->count < FRAME_HEAD + size)
		return 0;
	*ret_type = (enum frame_type)b->data[0];
	*ret_data = b->data + FRAME_HEAD;
	*ret_size = size;
	return 1;
}

void frame_drop(struct frame_buffer *b, size_t bytes)
{
	b->count -= bytes;
	memmove(b->data, b->data + bytes, b->count);
}

int frame_send(struct frame_buffer *b, int fd)
{
	while (b->count) {
		ssize_t n = send(fd, b->data, b->count, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		frame_drop(b, (size_t)n);
	}
	return 0;
}
