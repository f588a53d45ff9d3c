/*
 * What goes between who is attached to a job and its supervisor: frames of one byte for the type, four for the size (little-endian), and
 * so many bytes. The daemon passes them on unread.
 */
#pragma once

#include "base/base.h"

#define FRAME_MAX (64u << 10)
#define FRAME_HEAD 5u

enum frame_type {
	FRAME_INPUT = 'i',  /* client: bytes typed */
	FRAME_END = 'e',    /* client: there will be no more */
	FRAME_WINDOW = 'w', /* client: rows and columns, two bytes each */
	FRAME_OUTPUT = 'o', /* supervisor: bytes the job wrote */
	FRAME_EXIT = 'x',   /* supervisor: four bytes, the job's exit code; the last frame */
};

/* Bytes that came and are not a whole frame yet, or wait to be sent. */
struct frame_buffer {
	unsigned char *data;
	size_t count, capacity;
};

bool frame_put(struct frame_buffer *b, enum frame_type type, const void *data, size_t size);
/* Takes what there is to read; 0, 1 at the end, or a negative errno. -EAGAIN: nothing now. */
int frame_receive(struct frame_buffer *b, int fd);
/* The first whole frame: 1 and *ret_data within the buffer, until frame_drop; 0: none yet; -EBADMSG. */
int frame_next(const struct frame_buffer *b, enum frame_type *ret_type, const unsigned char **ret_data, size_t *ret_size);
void frame_drop(struct frame_buffer *b, size_t bytes);
/* Sends what waits, as much as goes without waiting: 0 all gone, -EAGAIN, or what went wrong. */
int frame_send(struct frame_buffer *b, int fd);
