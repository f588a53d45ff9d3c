/* The index of an archive, to bytes and back. See archive.h; everything that is read may be hostile. */
#include "image/archive.h"

#include <xxhash.h>

#define MEMBERS_MAX (1UL << 20)
#define FRAME_RAW_MAX (8UL << 20)
#define MEMBER_SIZE (16 + ARCHIVE_NAME_MAX)
#define FRAME_SIZE 16UL
#define HEAD_SIZE 24UL
#define STREAM_MAX ((uint64_t)1 << 56)

static const char index_mark[8] = "FERMIDX1", footer_mark[16] = "fermata footer 1";

static void put(unsigned char **to, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		*(*to)++ = (unsigned char)(value >> (8 * i));
}

static uint64_t get(const unsigned char **from, size_t bytes)
{
	uint64_t value = 0;

	for (size_t i = 0; i < bytes; i++)
		value |= (uint64_t)(*from)[i] << (8 * i);
	*from += bytes;
	return value;
}

void archive_index_free(struct archive_index *i)
{
	VEC_FOREACH(&i->members, m) {
		free(m->data);
		free(m->digests);
	}
	VEC_FREE(&i->members);
	VEC_FREE(&i->frames);
}

int archive_index_write(const struct archive_index *i, unsigned char **ret, size_t *ret_size)
{
	size_t size = HEAD_SIZE + 8UL * i->n_parts + MEMBER_SIZE * i->members.count + FRAME_SIZE * i->frames.count;
	unsigned char *data = malloc(size), *at = data;

	if (!data)
		return -ENOMEM;
	memcpy(at, index_mark, sizeof(index_mark));
	at += sizeof(index_mark);
	put(&at, i->n_parts, 4);
	put(&at, i->members.count, 4);
	put(&at, i->frames.count, 8);
	for (unsigned k = 0; k < i->n_parts; k++)
		put(&at, i->parts[k], 8);
	VEC_FOREACH(&i->members, m) {
		put(&at, m->offset, 8);
		put(&at, m->size, 8);
		memcpy(at, m->name, ARCHIVE_NAME_MAX);
		at += ARCHIVE_NAME_MAX;
	}
	VEC_FOREACH(&i->frames, f) {
		put(&at, f->place, 8);
		put(&at, f->size, 4);
		put(&at, f->raw, 4);
	}
	*ret = data;
	*ret_size = size;
	return 0;
}

static int read_members(struct archive_index *i, const unsigned char **at, size_t count)
{
	for (size_t k = 0; k < count; k++) {
		struct archive_member *m = VEC_PUSH(&i->members);
		if (!m)
			return -ENOMEM;
		m->offset = get(at, 8);
		m->size = get(at, 8);
		memcpy(m->name, *at, ARCHIVE_NAME_MAX);
		*at += ARCHIVE_NAME_MAX;
		if (m->name[ARCHIVE_NAME_MAX - 1] || !m->name[0] || strchr(m->name, '/') || m->offset > STREAM_MAX || m->size > STREAM_MAX)
			return -EBADMSG;
	}
	return 0;
}

static int read_frames(struct archive_index *i, const unsigned char **at, size_t count)
{
	uint64_t total = 0;

	for (size_t k = 0; k < count; k++) {
		struct archive_frame *f = VEC_PUSH(&i->frames);
		if (!f)
			return -ENOMEM;
		f->place = get(at, 8);
		f->size = (uint32_t)get(at, 4);
		f->raw = (uint32_t)get(at, 4);
		uint64_t part = f->place >> ARCHIVE_PART_SHIFT, from = f->place & ((1UL << ARCHIVE_PART_SHIFT) - 1);
		if (part >= i->n_parts || from > i->parts[part] || f->size > i->parts[part] - from || !f->raw || f->raw > FRAME_RAW_MAX ||
		    f->size > FRAME_RAW_MAX + (64UL << 10))
			return -EBADMSG;
		total += f->raw;
	}
	VEC_FOREACH(&i->members, m)
		if (m->offset > total || m->size > total - m->offset)
			return -EBADMSG;
	return 0;
}

int archive_index_read(struct archive_index *i, const unsigned char *data, size_t size)
{
	const unsigned char *at = data + sizeof(index_mark);

	if (size < HEAD_SIZE || memcmp(data, index_mark, sizeof(index_mark)))
		return -EBADMSG;
	uint64_t parts = get(&at, 4), members = get(&at, 4), frames = get(&at, 8);
	if (!parts || parts > PACKING_STREAMS_MAX || members > MEMBERS_MAX || frames > size / FRAME_SIZE ||
	    size != HEAD_SIZE + 8 * parts + MEMBER_SIZE * members + FRAME_SIZE * frames)
		return -EBADMSG;
	i->n_parts = (unsigned)parts;
	for (unsigned k = 0; k < i->n_parts; k++) {
		i->parts[k] = get(&at, 8);
		if (i->parts[k] >> ARCHIVE_PART_SHIFT)
			return -EBADMSG;
	}
	int r = read_members(i, &at, members);
	return r ? r : read_frames(i, &at, frames);
}

void archive_footer_write(const struct archive_footer *f, unsigned char to[512])
{
	unsigned char *at = to + sizeof(footer_mark);

	memset(to, 0, 512);
	memcpy(to, footer_mark, sizeof(footer_mark));
	put(&at, f->kind, 8);
	put(&at, f->place, 8);
	put(&at, f->size, 8);
	memcpy(at, f->digest, sizeof(f->digest));
}

int archive_footer_read(struct archive_footer *f, const unsigned char from[512])
{
	const unsigned char *at = from + sizeof(footer_mark);

	if (memcmp(from, footer_mark, sizeof(footer_mark)))
		return -ENOENT;
	uint64_t kind = get(&at, 8);
	f->place = get(&at, 8);
	f->size = get(&at, 8);
	memcpy(f->digest, at, sizeof(f->digest));
	if (kind > PACKING_ZSTD || !f->size || f->size > (1UL << 32) || f->place >> ARCHIVE_PART_SHIFT)
		return -EBADMSG;
	f->kind = (enum packing_kind)kind;
	return 0;
}

size_t archive_end_size(enum packing_kind kind)
{
	return codec_stored_size(kind, ARCHIVE_END) + (kind == PACKING_ZLIB ? 4 : 0);
}
