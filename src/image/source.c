/*
 * The reading side of archive.h. With an index any place can be reached, by several threads at once. A plain tar is walked from head to
 * head. Anything else (repacked by another program, say) is read through once, when it is opened: that tells where its members are and
 * what their checksums are, and keeps the small ones; what is wanted later is read forward again.
 */
#include "image/archive.h"
#include "image/tar.h"
#include "image/whole.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <xxhash.h>

#define MEMBERS_MAX (1UL << 20)
#define KEPT_SIZE (1UL << 20)
#define KEPT_TOTAL (64UL << 20)
#define STEP (256UL << 10)
#define BLOCK (4UL << 20) /* IMAGE_BLOCK */
#define PAX_MAX (64UL << 10)
#define CACHED 8 /* frames of which some was wanted: who reads here and there comes back to them */

struct archive {
	struct source base;
	int fds[PACKING_STREAMS_MAX];
	unsigned n_fds;
	uint64_t size; /* of the file, where there is one */
	bool indexed;
	uint64_t *starts; /* in the stream, of each frame */
	/* Without an index: one decoder for all. */
	pthread_mutex_t lock;
	struct decoder *decoder;
	uint64_t at;
};

struct reader {
	struct source_reader base;
	struct archive *s;
	struct codec *codec;
	unsigned char *packed;
	size_t packed_room;
	struct cached {
		unsigned char *raw;
		size_t room, frame;
		uint64_t used; /* 0: nothing is in it */
	} cached[CACHED];
	uint64_t clock;
};

static int archive_plain(const struct source *base)
{
	const struct archive *s = (const struct archive *)base;

	return s->base.kind == PACKING_TAR && s->n_fds == 1 ? s->fds[0] : -1;
}

static bool archive_is_sequential(const struct source *base)
{
	return !((const struct archive *)base)->indexed && archive_plain(base) < 0;
}

static void archive_free(struct source *base)
{
	struct archive *s = (struct archive *)base;

	for (unsigned i = 0; i < s->n_fds; i++)
		close(s->fds[i]);
	decoder_free(s->decoder);
	free(s->starts);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* ---- with an index ---- */

static int read_index_frames(struct archive *s, const struct archive_footer *f, unsigned char *data, struct codec *codec, unsigned char *packed)
{
	uint64_t place = f->place;

	for (uint64_t at = 0; at < f->size; at += PACKING_FRAME) {
		size_t raw = (size_t)MIN(f->size - at, PACKING_FRAME), stored = codec_stored_size(s->base.kind, raw);
		int r = read_whole(s->fds[0], packed, stored, place);
		if (!r)
			r = codec_unpack(codec, data + at, raw, packed, stored);
		if (r)
			return r;
		place += stored;
	}
	return 0;
}

static int load_index(struct archive *s, const struct archive_footer *f)
{
	XXH128_canonical_t digest;
	struct codec *codec = codec_new(s->base.kind, 0);
	_cleanup_free_ unsigned char *packed = malloc(PACKING_FRAME_MAX);
	_cleanup_free_ unsigned char *data = NULL;
	int r = f->place > s->size || f->size > s->size - f->place ? -EBADMSG : 0;

	if (!r && (!codec || !packed || !(data = malloc(f->size))))
		r = -ENOMEM;
	if (!r)
		r = read_index_frames(s, f, data, codec, packed);
	codec_free(codec);
	if (r)
		return r;
	XXH128_canonicalFromHash(&digest, XXH3_128bits(data, f->size));
	return memcmp(digest.digest, f->digest, sizeof(f->digest)) ? -EBADMSG : archive_index_read(&s->base.index, data, f->size);
}

static int find_starts(struct archive *s)
{
	uint64_t at = 0;

	s->starts = calloc(s->base.index.frames.count + 1, sizeof(*s->starts));
	if (!s->starts)
		return -ENOMEM;
	for (size_t i = 0; i < s->base.index.frames.count; i++) {
		s->starts[i] = at;
		at += s->base.index.frames.data[i].raw;
	}
	s->starts[s->base.index.frames.count] = at;
	return 0;
}

/* -ENOENT: there is none. */
static int open_index(struct archive *s)
{
	unsigned char end[ARCHIVE_END + 64], raw[ARCHIVE_END];
	size_t size = archive_end_size(s->base.kind), stored = codec_stored_size(s->base.kind, ARCHIVE_END);
	struct archive_footer footer;

	if (s->size < size || read_whole(s->fds[0], end, size, s->size - size))
		return -ENOENT;
	struct codec *codec = codec_new(s->base.kind, 0);
	int r = !codec ? -ENOMEM : codec_unpack(codec, raw, sizeof(raw), end, stored) ? -ENOENT : archive_footer_read(&footer, raw);
	codec_free(codec);
	if (!r && footer.kind != s->base.kind)
		r = -EBADMSG;
	if (!r)
		r = load_index(s, &footer);
	if (!r && s->base.index.parts[0] > s->size)
		r = -EBADMSG;
	if (!r)
		r = find_starts(s);
	s->indexed = !r;
	return r;
}

/* ---- a plain tar ---- */

static int add_member(struct archive *s, const struct tar_member *t, uint64_t offset, struct archive_member **ret)
{
	if (t->type != TAR_FILE || !t->name[0] || strchr(t->name, '/') || strlen(t->name) >= ARCHIVE_NAME_MAX)
		return 0;
	struct archive_member *m = s->base.index.members.count < MEMBERS_MAX ? VEC_PUSH(&s->base.index.members) : NULL;
	if (!m)
		return s->base.index.members.count < MEMBERS_MAX ? -ENOMEM : -EBADMSG;
	snprintf(m->name, sizeof(m->name), "%s", t->name);
	m->offset = offset;
	m->size = t->size;
	*ret = m;
	return 0;
}

/* Gives the size of the next member, from the records in front of it; -1: they say nothing. */
static int read_pax(struct archive *s, const struct tar_member *t, uint64_t at, int64_t *ret)
{
	_cleanup_free_ char *records = t->size <= PAX_MAX ? malloc(t->size + 1) : NULL;
	int r = records ? read_whole(s->fds[0], records, t->size, at) : -EBADMSG;

	if (!r)
		*ret = tar_pax_size(records, t->size);
	return r;
}

static int walk_tar(struct archive *s)
{
	unsigned char head[TAR_BLOCK];
	struct archive_member *m;
	int64_t size = -1;

	for (uint64_t at = 0;;) {
		struct tar_member t;
		int r = read_whole(s->fds[0], head, TAR_BLOCK, at);
		if (!r)
			r = tar_parse(head, &t);
		if (!r && t.type == TAR_END) /* of two blocks */
			return s->size - at < 2 * TAR_BLOCK ? -EBADMSG : 0;
		if (r)
			return r;
		at += TAR_BLOCK;
		if (size >= 0 && t.type != TAR_PAX) {
			t.size = (uint64_t)size;
			size = -1;
		}
		if (at > s->size || t.size > s->size - at)
			return -EBADMSG;
		r = t.type == TAR_PAX ? read_pax(s, &t, at, &size) : add_member(s, &t, at, &m);
		if (r)
			return r;
		at += tar_filled(t.size);
	}
}

/* ---- read through from its beginning ---- */

static int decode(struct archive *s, void *to, size_t size)
{
	ssize_t n = decoder_read(s->decoder, to, size);

	if (n > 0)
		s->at += (uint64_t)n;
	return n < 0 ? (int)n : (size_t)n == size ? 0 : -EBADMSG;
}

/* With the lock held. */
static int go_to(struct archive *s, uint64_t offset)
{
	_cleanup_free_ unsigned char *buffer = malloc(STEP);
	int r = buffer ? 0 : -ENOMEM;

	if (!s->decoder || offset < s->at) {
		decoder_free(s->decoder);
		s->decoder = decoder_new(s->base.kind, s->fds[0]);
		s->at = 0;
		if (!s->decoder)
			r = -ENOMEM;
	}
	while (!r && s->at < offset)
		r = decode(s, buffer, (size_t)MIN(STEP, offset - s->at));
	return r;
}

struct digesting {
	XXH3_state_t *whole, *block;
	uint64_t done;
	XXH128_canonical_t *at;
};

static void digest_some(struct digesting *d, const unsigned char *data, size_t size)
{
	XXH3_128bits_update(d->whole, data, size);
	while (size) {
		size_t n = (size_t)MIN((uint64_t)size, BLOCK - d->done % BLOCK);
		XXH3_128bits_update(d->block, data, n);
		d->done += n;
		data += n;
		size -= n;
		if (d->done % BLOCK == 0) {
			XXH128_canonicalFromHash(d->at++, XXH3_128bits_digest(d->block));
			XXH3_128bits_reset(d->block);
		}
	}
}

static int take_content(struct archive *s, struct archive_member *m, struct digesting *d, unsigned char *buffer, size_t *kept)
{
	bool keep = m->size <= KEPT_SIZE && m->size <= KEPT_TOTAL - *kept;
	size_t blocks = (size_t)((m->size + BLOCK - 1) / BLOCK);
	XXH128_canonical_t *digests = NULL;
	int r = 0;

	/* The digests grow with what there really is, not with what a head says. */
	if (keep && !(m->data = malloc(m->size + 1)))
		return -ENOMEM;
	*kept += keep ? m->size : 0;
	XXH3_128bits_reset(d->whole);
	XXH3_128bits_reset(d->block);
	d->done = 0;
	size_t room = 0, count = 0;
	for (uint64_t at = 0; !r && at < m->size;) {
		size_t n = (size_t)MIN(STEP, m->size - at);
		if (at / BLOCK + 2 > room) {
			room = MIN(blocks + 2, room * 2 + 16);
			XXH128_canonical_t *larger = realloc(digests, room * sizeof(*digests));
			if (!larger) {
				r = -ENOMEM;
				break;
			}
			digests = larger;
		}
		d->at = &digests[1 + at / BLOCK];
		r = decode(s, keep ? m->data + at : buffer, n);
		if (!r)
			digest_some(d, keep ? m->data + at : buffer, n);
		at += n;
		count = (size_t)(at / BLOCK);
	}
	if (!digests && !(digests = malloc(sizeof(*digests))))
		r = r ? r : -ENOMEM;
	m->digests = (unsigned char *)digests;
	if (r)
		return r;
	XXH128_canonicalFromHash(&digests[0], XXH3_128bits_digest(d->whole));
	if (d->done % BLOCK)
		XXH128_canonicalFromHash(&digests[1 + count], XXH3_128bits_digest(d->block));
	return 0;
}

static int skip(struct archive *s, uint64_t size, unsigned char *buffer)
{
	int r = 0;

	for (uint64_t done = 0; !r && done < size; done += STEP)
		r = decode(s, buffer, (size_t)MIN(STEP, size - done));
	return r;
}

/* Behind the first of the two blocks that end a tar: all of the file must be there. */
static int read_end(struct archive *s, unsigned char *buffer)
{
	ssize_t n;
	int r = decode(s, buffer, TAR_BLOCK);

	while (!r && (n = decoder_read(s->decoder, buffer, STEP)) != 0)
		r = n < 0 ? (int)n : 0;
	/* Whoever reads on begins anew. */
	s->at = UINT64_MAX;
	return r;
}

static int read_through(struct archive *s, struct digesting *d, unsigned char *buffer)
{
	unsigned char head[TAR_BLOCK];
	int64_t size = -1;
	size_t kept = 0;

	for (;;) {
		struct tar_member t;
		struct archive_member *m = NULL;
		int r = decode(s, head, TAR_BLOCK);
		if (!r)
			r = tar_parse(head, &t);
		if (!r && t.type == TAR_END)
			return read_end(s, buffer);
		if (r)
			return r;
		if (size >= 0 && t.type != TAR_PAX) {
			t.size = (uint64_t)size;
			size = -1;
		}
		if (t.type == TAR_PAX) {
			if (t.size > STEP)
				return -EBADMSG;
			r = decode(s, buffer, t.size);
			size = r ? -1 : tar_pax_size((char *)buffer, t.size);
		} else {
			r = add_member(s, &t, s->at, &m);
			if (!r)
				r = m ? take_content(s, m, d, buffer, &kept) : skip(s, t.size, buffer);
		}
		if (!r)
			r = skip(s, tar_filled(t.size) - t.size, buffer);
		if (r)
			return r;
	}
}

static int open_sequential(struct archive *s)
{
	_cleanup_free_ unsigned char *buffer = malloc(STEP);
	struct digesting d = { .whole = XXH3_createState(), .block = XXH3_createState() };
	int r = buffer && d.whole && d.block ? go_to(s, 0) : -ENOMEM;

	if (!r)
		r = read_through(s, &d, buffer);
	XXH3_freeState(d.whole);
	XXH3_freeState(d.block);
	return r;
}

/* ---- opening ---- */

static const struct source_ops archive_ops;

static struct archive *new_source(enum packing_kind kind, int fd, uint64_t size)
{
	struct archive *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	*s = (struct archive){ .base = { .ops = &archive_ops, .kind = kind }, .fds = { fd }, .n_fds = 1, .size = size };
	pthread_mutex_init(&s->lock, NULL);
	return s;
}

static int finish_opening(struct archive *s, int r, struct source **ret)
{
	if (!r)
		r = source_sort(&s->base);
	if (!r) {
		*ret = &s->base;
		return 0;
	}
	source_free(&s->base);
	return r;
}

int source_open(int fd, struct source **ret)
{
	unsigned char start[TAR_BLOCK];
	struct stat st;
	ssize_t n = pread(fd, start, sizeof(start), 0);

	if (n < 0 || fstat(fd, &st) < 0)
		return -errno;
	enum packing_kind kind = packing_detect(start, (size_t)n);
	if (kind == PACKING_NONE)
		return -EMEDIUMTYPE;
	struct archive *s = new_source(kind, dup(fd), (uint64_t)st.st_size);
	if (!s)
		return -ENOMEM;
	fcntl(s->fds[0], F_SETFD, FD_CLOEXEC);
	int r = kind == PACKING_TAR ? walk_tar(s) : open_index(s);
	if (kind != PACKING_TAR && r == -ENOENT)
		r = open_sequential(s);
	r = finish_opening(s, r, ret);
	if (!r)
		close(fd);
	return r;
}

/* The name of part i: img-I with any ending. */
static int find_part(int dirfd, unsigned i)
{
	for (int kind = PACKING_TAR; kind <= PACKING_ZSTD; kind++) {
		char name[64];
		snprintf(name, sizeof(name), "img-%u%s", i, packing_ending((enum packing_kind)kind, true));
		int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
		if (fd >= 0 || errno != ENOENT)
			return fd < 0 ? -errno : fd;
	}
	return -ENOENT;
}

/* What the parts begin with tells of all but of plain ones, which begin with anything. */
static int open_first(int fd, struct archive **ret)
{
	unsigned char start[TAR_BLOCK];
	struct stat st;
	ssize_t n = pread(fd, start, sizeof(start), 0);

	if (n < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return n < 0 ? -errno : -EBADMSG;
	enum packing_kind kind = packing_detect(start, (size_t)n);
	*ret = new_source(kind == PACKING_NONE ? PACKING_TAR : kind, fd, (uint64_t)st.st_size);
	return *ret ? 0 : -ENOMEM;
}

int source_open_parts(int dirfd, struct source **ret)
{
	struct archive *s = NULL;
	struct stat st;
	int fd = find_part(dirfd, 0);

	if (fd < 0)
		return fd;
	int r = open_first(fd, &s);
	if (r) {
		close(fd);
		return r;
	}
	r = open_index(s);
	if (r == -ENOENT) /* cut off, or not its beginning */
		r = -EBADMSG;
	while (!r && s->n_fds < s->base.index.n_parts) {
		fd = find_part(dirfd, s->n_fds);
		if (fd < 0) {
			r = fd == -ENOENT ? -EBADMSG : fd;
			break;
		}
		s->fds[s->n_fds++] = fd;
		if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size < s->base.index.parts[s->n_fds - 1])
			r = -EBADMSG;
	}
	if (!r && s->base.index.n_parts == 1 && s->base.kind == PACKING_TAR)
		r = -EBADMSG;
	if (!r)
		r = source_sort(&s->base);
	if (r)
		source_free(&s->base);
	else
		*ret = &s->base;
	return r;
}

/* ---- reading ---- */

static struct source_reader *archive_reader_new(struct source *base)
{
	struct archive *s = (struct archive *)base;
	struct reader *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->s = s;
	r->base.source = base;
	r->codec = codec_new(s->base.kind, 0);
	if (r->codec)
		return &r->base;
	free(r);
	return NULL;
}

static void archive_reader_free(struct source_reader *base)
{
	struct reader *r = (struct reader *)base;

	codec_free(r->codec);
	free(r->packed);
	for (size_t i = 0; i < CACHED; i++)
		free(r->cached[i].raw);
	free(r);
}

static int make_room(unsigned char **buffer, size_t *room, size_t need)
{
	if (need <= *room)
		return 0;
	unsigned char *larger = realloc(*buffer, need);
	if (!larger)
		return -ENOMEM;
	*buffer = larger;
	*room = need;
	return 0;
}

static size_t find_frame(const struct archive *s, uint64_t offset)
{
	size_t low = 0, high = s->base.index.frames.count;

	while (low + 1 < high) {
		size_t middle = (low + high) / 2;
		if (s->starts[middle] <= offset)
			low = middle;
		else
			high = middle;
	}
	return low;
}

static int unpack_frame(struct reader *r, size_t frame, unsigned char *to)
{
	const struct archive_frame *f = &r->s->base.index.frames.data[frame];
	int failed = make_room(&r->packed, &r->packed_room, f->size);

	if (!failed)
		failed = read_whole(r->s->fds[f->place >> ARCHIVE_PART_SHIFT], r->packed, f->size, f->place & ((1UL << ARCHIVE_PART_SHIFT) - 1));
	return failed ? failed : codec_unpack(r->codec, to, f->raw, r->packed, f->size);
}

/* The one that it is in, or that has waited longest. */
static struct cached *find_cached(struct reader *r, size_t frame)
{
	struct cached *oldest = &r->cached[0];

	for (size_t i = 0; i < CACHED; i++) {
		if (r->cached[i].used && r->cached[i].frame == frame)
			return &r->cached[i];
		if (r->cached[i].used < oldest->used)
			oldest = &r->cached[i];
	}
	return oldest;
}

/* Some of a frame: straight from the file where it is plain; through the reader's own memory where it is not all wanted. */
static int read_frame(struct reader *r, size_t frame, unsigned char *to, size_t within, size_t size)
{
	const struct archive_frame *f = &r->s->base.index.frames.data[frame];
	int failed = 0;

	if (r->s->base.kind == PACKING_TAR)
		return f->size == f->raw ? read_whole(r->s->fds[f->place >> ARCHIVE_PART_SHIFT], to, size,
						     (f->place & ((1UL << ARCHIVE_PART_SHIFT) - 1)) + within) :
					   -EBADMSG;
	if (!within && size == f->raw)
		return unpack_frame(r, frame, to);
	struct cached *c = find_cached(r, frame);
	if (!c->used || c->frame != frame) {
		c->used = 0;
		failed = make_room(&c->raw, &c->room, f->raw);
		if (!failed)
			failed = unpack_frame(r, frame, c->raw);
		c->frame = frame;
	}
	if (failed)
		return failed;
	c->used = ++r->clock;
	memcpy(to, c->raw + within, size);
	return 0;
}

static int read_sequential(struct archive *s, void *to, size_t size, uint64_t offset)
{
	pthread_mutex_lock(&s->lock);
	int r = go_to(s, offset);
	if (!r)
		r = decode(s, to, size);
	pthread_mutex_unlock(&s->lock);
	return r;
}

static int archive_read(struct source_reader *base, void *to, size_t size, uint64_t offset)
{
	struct reader *r = (struct reader *)base;
	struct archive *s = r->s;
	unsigned char *into = to;
	int failed = 0;

	if (!s->indexed)
		return archive_plain(&s->base) >= 0 ? read_whole(s->fds[0], to, size, offset) : read_sequential(s, to, size, offset);
	if (!size)
		return 0;
	if (!s->base.index.frames.count || offset + size > s->starts[s->base.index.frames.count])
		return -EBADMSG;
	for (size_t frame = find_frame(s, offset); !failed && size; frame++) {
		size_t within = (size_t)(offset - s->starts[frame]);
		size_t n = MIN(size, s->base.index.frames.data[frame].raw - within);
		failed = read_frame(r, frame, into, within, n);
		into += n;
		offset += n;
		size -= n;
	}
	return failed;
}

static size_t archive_adopt(struct source *base, int *fds, size_t max)
{
	struct archive *s = (struct archive *)base;

	pthread_mutex_init(&s->lock, NULL);
	for (size_t i = 0; i < MIN(max, s->n_fds); i++)
		fds[i] = s->fds[i];
	return s->n_fds;
}

static const struct source_ops archive_ops = {
	.adopt = archive_adopt,
	.free = archive_free,
	.plain = archive_plain,
	.is_sequential = archive_is_sequential,
	.reader_new = archive_reader_new,
	.reader_free = archive_reader_free,
	.read = archive_read,
};
