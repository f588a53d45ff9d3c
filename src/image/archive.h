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
/* A piece that is being made. */
struct sink_piece {
	struct sink *sink;
};
struct sink_ops {
	/* What was not committed is gone. */
	void (*free)(struct sink *s);
	/* No piece is waited for any more: the rest fails. */
	void (*fail)(struct sink *s);
	/* Room for a member in pieces of `step` bytes (the last one shorter; one where there are no bytes); gives the first ticket. */
	int (*reserve)(struct sink *s, const char *name, uint64_t size, uint64_t step, uint64_t *ret_ticket);
	int (*piece_begin)(struct sink *s, uint64_t ticket, struct sink_piece **ret);
	int (*piece_write)(struct sink_piece *p, const void *data, size_t size);
	/* Writes it, also what was begun only. `p` is gone. */
	int (*piece_end)(struct sink_piece *p);
	/* A member at the end: its head, then all its bytes by `append`. */
	int (*member)(struct sink *s, const char *name, uint64_t size);
	int (*append)(struct sink *s, const void *data, size_t size);
	/* The index and the end. Then the names appear. */
	int (*commit)(struct sink *s);
	void (*withdraw)(struct sink *s);
	/* Descriptor of a directory on the same file system, for what is kept meanwhile. */
	int (*directory)(const struct sink *s);
	/* Bytes in the files so far. */
	uint64_t (*written)(const struct sink *s);
};
struct sink {
	const struct sink_ops *ops;
};

static inline void sink_free(struct sink *s)
{
	if (s)
		s->ops->free(s);
}

static inline void sink_fail(struct sink *s)
{
	s->ops->fail(s);
}

static inline int sink_reserve(struct sink *s, const char *name, uint64_t size, uint64_t step, uint64_t *ret_ticket)
{
	return s->ops->reserve(s, name, size, step, ret_ticket);
}

static inline int sink_piece_begin(struct sink *s, uint64_t ticket, struct sink_piece **ret)
{
	return s->ops->piece_begin(s, ticket, ret);
}

static inline int sink_piece_write(struct sink_piece *p, const void *data, size_t size)
{
	return p->sink->ops->piece_write(p, data, size);
}

static inline int sink_piece_end(struct sink_piece *p)
{
	return p->sink->ops->piece_end(p);
}

static inline int sink_member(struct sink *s, const char *name, uint64_t size)
{
	return s->ops->member(s, name, size);
}

static inline int sink_append(struct sink *s, const void *data, size_t size)
{
	return s->ops->append(s, data, size);
}

static inline int sink_commit(struct sink *s)
{
	return s->ops->commit(s);
}

static inline void sink_withdraw(struct sink *s)
{
	s->ops->withdraw(s);
}

static inline int sink_directory(const struct sink *s)
{
	return s->ops->directory(s);
}

static inline uint64_t sink_written(const struct sink *s)
{
	return s->ops->written(s);
}

/* An archive. `path`: the file to be; with streams, the directory that exists for it. -EEXIST: it is taken. */
int sink_new(const char *path, const struct packing *packing, struct sink **ret);

/* Reading. */
struct archive_member {
	char name[ARCHIVE_NAME_MAX];
	uint64_t offset, size;	 /* in the stream */
	unsigned char *data;	 /* or NULL; of small ones that were met on the way */
	unsigned char *digests;	 /* XXH3-128 of the whole, then of each 4 MiB; where all had to be read anyway */
};

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

/* Who reads: an archive, or a checkpoint in a store (store/store.h). Members lie in one stream, whatever it is made of. */
struct source;
/* For one thread. */
struct source_reader {
	struct source *source;
};
struct source_ops {
	void (*free)(struct source *s);
	/* The stream is the file itself: its descriptor, else -1. */
	int (*plain)(const struct source *s);
	/* There is no index: reading goes forward, one at a time. */
	bool (*is_sequential)(const struct source *s);
	struct source_reader *(*reader_new)(struct source *s);
	void (*reader_free)(struct source_reader *r);
	/* Exactly so many bytes of the stream. */
	int (*read)(struct source_reader *r, void *to, size_t size, uint64_t offset);
	/* In a process that fork(2) made of one with threads: nobody has its locks. Gives its descriptors, up to `max` of them, and their number. */
	size_t (*adopt)(struct source *s, int *fds, size_t max);
};
struct source {
	const struct source_ops *ops;
	enum packing_kind kind;
	struct archive_index index; /* members by name, once they are sorted */
	char damage[128]; /* what was found damaged first, or "" */
};
/* An archive. -EMEDIUMTYPE: it is none; -EBADMSG: damaged or cut off. `fd` becomes the source's on success. */
int source_open(int fd, struct source **ret);
/* The parts in a directory. -ENOENT: there are none. */
int source_open_parts(int dirfd, struct source **ret);
void source_free(struct source *s);
/* -EBADMSG: one name is there twice. */
int source_sort(struct source *s);
/* By name; NULL: there is none. */
const struct archive_member *source_find(const struct source *s, const char *name);

static inline enum packing_kind source_kind(const struct source *s)
{
	return s->kind;
}

static inline const struct archive_member *source_member(const struct source *s, size_t index)
{
	return index < s->index.members.count ? &s->index.members.data[index] : NULL;
}

static inline int source_plain(const struct source *s)
{
	return s->ops->plain(s);
}

static inline bool source_is_sequential(const struct source *s)
{
	return s->ops->is_sequential(s);
}

static inline struct source_reader *source_reader_new(struct source *s)
{
	return s->ops->reader_new(s);
}

static inline void source_reader_free(struct source_reader *r)
{
	if (r)
		r->source->ops->reader_free(r);
}

static inline int source_read(struct source_reader *r, void *to, size_t size, uint64_t offset)
{
	return r->source->ops->read(r, to, size, offset);
}
