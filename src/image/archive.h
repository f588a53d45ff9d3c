/*
 * An archive: a tar of the files of a checkpoint, cut into frames (packing.h) where it is compressed, in one file or spread over several
 * ("parts"). docs/IMAGES.md, "Archives", has the layout. The rest of the image layer writes and reads files; where their bytes lie is
 * known here alone.
 */
#pragma once

#include "image/packing.h"

#define ARCHIVE_INDEX "fermata.index"
#define ARCHIVE_NAME_MAX 64 /* of a member, with its zero */

/*
 * Writing. A member whose size is known beforehand is reserved, and its pieces are made by any threads at once: each has a ticket,
 * the order in which they come to stand in the stream. Who makes a piece waits for those before it only to learn its place. Therefore
 * pieces are to be begun in the order of their tickets. All other members are appended at the end, by one thread.
 */
struct sink;
/* `path`: the file to be; with streams, the directory that exists for it. -EEXIST: it is taken. */
int sink_new(const char *path, const struct packing *packing, struct sink **ret);
/* What was not committed is gone. Takes NULL. */
void sink_free(struct sink *s);
/* No piece is waited for any more: the rest fails. */
void sink_fail(struct sink *s);
/* Room for a member in pieces of `step` bytes (the last one shorter; one where there are no bytes); gives the first ticket. */
int sink_reserve(struct sink *s, const char *name, uint64_t size, uint64_t step, uint64_t *ret_ticket);

/* A piece that is being made. */
struct sink_piece;
int sink_piece_begin(struct sink *s, uint64_t ticket, struct sink_piece **ret);
int sink_piece_write(struct sink_piece *p, const void *data, size_t size);
/* Writes it, also what was begun only. `p` is gone. */
int sink_piece_end(struct sink_piece *p);

/* A member at the end: its head, then all its bytes by sink_append. */
int sink_member(struct sink *s, const char *name, uint64_t size);
int sink_append(struct sink *s, const void *data, size_t size);
/* The index and the end. Then the names appear. */
int sink_commit(struct sink *s);
void sink_withdraw(struct sink *s);
/* Descriptor of a directory on the same file system, for what is kept meanwhile. */
int sink_directory(const struct sink *s);
/* Bytes in the files so far. */
uint64_t sink_written(const struct sink *s);

/* Reading. */
struct archive_member {
	char name[ARCHIVE_NAME_MAX];
	uint64_t offset, size;	 /* in the stream */
	unsigned char *data;	 /* or NULL; of small ones that were met on the way */
	unsigned char *digests;	 /* XXH3-128 of the whole, then of each 4 MiB; where all had to be read anyway */
};

struct source;
/* -EMEDIUMTYPE: it is no archive; -EBADMSG: damaged or cut off. `fd` becomes the source's on success. */
int source_open(int fd, struct source **ret);
/* The parts in a directory. -ENOENT: there are none. */
int source_open_parts(int dirfd, struct source **ret);
void source_free(struct source *s);
enum packing_kind source_kind(const struct source *s);
/* By name; NULL: there is none. */
const struct archive_member *source_find(const struct source *s, const char *name);
const struct archive_member *source_member(const struct source *s, size_t index);
/* The stream is the file itself: its descriptor, else -1. */
int source_plain(const struct source *s);
/* There is no index: reading goes forward, one at a time. */
bool source_is_sequential(const struct source *s);

/* For one thread. */
struct source_reader *source_reader_new(struct source *s);
void source_reader_free(struct source_reader *r);
/* Exactly so many bytes of the stream. */
int source_read(struct source_reader *r, void *to, size_t size, uint64_t offset);

/* The index, as it is stored: archive_index.c. Little-endian numbers, in this order. */
struct archive_frame {
	uint64_t place; /* in the part: the lower 48 bits; above them the number of the part */
	uint32_t size, raw;
};
#define ARCHIVE_PART_SHIFT 48
#define ARCHIVE_FOOTER 512UL
#define ARCHIVE_END (ARCHIVE_FOOTER + 1024UL) /* the footer and the blocks that end a tar */
struct archive_index {
	VEC(struct archive_member) members;
	VEC(struct archive_frame) frames;
	uint64_t parts[PACKING_STREAMS_MAX]; /* the size of each, without the index */
	unsigned n_parts;
};
struct archive_footer {
	enum packing_kind kind;
	uint64_t place, size; /* of the first frame of the index, in part 0; bytes of the index */
	unsigned char digest[16];
};
void archive_index_free(struct archive_index *i);
/* *ret is the caller's. */
int archive_index_write(const struct archive_index *i, unsigned char **ret, size_t *ret_size);
int archive_index_read(struct archive_index *i, const unsigned char *data, size_t size);
void archive_footer_write(const struct archive_footer *f, unsigned char to[512]);
/* -ENOENT: it is none. */
int archive_footer_read(struct archive_footer *f, const unsigned char from[512]);
/* How many bytes the end of part 0 has, from the footer on. */
size_t archive_end_size(enum packing_kind kind);
