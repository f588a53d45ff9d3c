/* The writing side of archive.h. */
#include "image/archive.h"
#include "image/tar.h"
#include "image/whole.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <xxhash.h>
#include <zlib.h>

#define APPENDED_MAX (2UL << 20) /* what is packed before it is written, of members at the end */

struct part {
	int fd;
	char name[NAME_MAX + 1]; /* to be */
	char temporary[NAME_MAX + 1]; /* where there are no files without a name; else "" */
	bool named;
	uint64_t end;
	uint32_t adler; /* zlib: of what is in it */
};

/* The place that a piece of a plain tar has from the beginning. */
struct place {
	unsigned part;
	uint64_t at;
};

struct piece {
	struct sink_piece base;
	struct archive *sink;
	uint64_t ticket;
	struct codec *codec;
	bool direct; /* plain tar: at its place, which is known */
	uint64_t position;
	unsigned char head[TAR_BLOCK];
	bool has_head;
	size_t padding;
	unsigned char *in, *out;
	size_t used, packed, room;
	VEC(struct archive_frame) frames; /* their place: in `out` */
	uint32_t adler;
	uint64_t raw;
	int failed;
	struct piece *next; /* of those at rest */
};

struct reservation {
	uint64_t ticket, count;
	uint64_t size, step;
	char name[ARCHIVE_NAME_MAX];
	struct place *places; /* plain tar alone */
};

struct archive {
	struct sink base;
	struct packing packing;
	int dirfd;
	time_t time;
	struct part parts[PACKING_STREAMS_MAX];
	unsigned n_parts;
	pthread_mutex_t lock;
	pthread_cond_t turned;
	uint64_t tickets, turn; /* given out; whose turn it is */
	bool failed;
	VEC(struct reservation) reservations;
	struct archive_index index;
	uint64_t stream;
	struct piece *resting;
	struct piece *appended;
};

/* ---- files ---- */

static int open_part(struct archive *s, struct part *p)
{
	uint64_t chance;

	if (faccessat(s->dirfd, p->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return -EEXIST;
	p->fd = openat(s->dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (p->fd >= 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != EISDIR)
		return -errno;
	if (getrandom(&chance, sizeof(chance), 0) != sizeof(chance))
		return -EIO;
	snprintf(p->temporary, sizeof(p->temporary), ".fermata-%016llx.part", (unsigned long long)chance);
	p->fd = openat(s->dirfd, p->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (p->fd >= 0)
		return 0;
	p->temporary[0] = '\0';
	return -errno;
}

static int name_part(struct archive *s, struct part *p)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", p->fd);
	int r = p->temporary[0] ? linkat(s->dirfd, p->temporary, s->dirfd, p->name, 0) :
				  linkat(AT_FDCWD, path, s->dirfd, p->name, AT_SYMLINK_FOLLOW);
	if (r < 0)
		return -errno;
	p->named = true;
	return 0;
}

/* With streams: `path` is the directory of the parts. */
static int open_parts(struct archive *s, const char *path)
{
	char copy[PATH_MAX], other[PATH_MAX];
	int r = 0;

	if (snprintf(copy, sizeof(copy), "%s", path) >= PATH_MAX)
		return -ENAMETOOLONG;
	memcpy(other, copy, sizeof(copy));
	s->dirfd = open(s->packing.streams ? path : dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->dirfd < 0)
		return -errno;
	while (!r && s->n_parts < MAX(s->packing.streams, 1U)) {
		struct part *p = &s->parts[s->n_parts++];
		*p = (struct part){ .fd = -1, .adler = 1 };
		int n = s->packing.streams ?
				snprintf(p->name, sizeof(p->name), "img-%u%s", s->n_parts - 1, packing_ending(s->packing.kind, true)) :
				snprintf(p->name, sizeof(p->name), "%s", basename(other));
		r = n >= (int)sizeof(p->name) ? -ENAMETOOLONG : open_part(s, p);
		if (!r && s->packing.kind == PACKING_ZLIB) {
			r = write_whole(p->fd, "\x78\x01", 2, 0);
			p->end = 2;
		}
	}
	return r;
}

static void piece_free(struct piece *p)
{
	if (!p)
		return;
	codec_free(p->codec);
	VEC_FREE(&p->frames);
	free(p->in);
	free(p->out);
	free(p);
}

static void archive_free(struct sink *base)
{
	struct archive *s = (struct archive *)base;
	if (!s)
		return;
	while (s->resting) {
		struct piece *next = s->resting->next;
		piece_free(s->resting);
		s->resting = next;
	}
	piece_free(s->appended);
	for (unsigned i = 0; i < s->n_parts; i++) {
		if (s->parts[i].fd >= 0)
			close(s->parts[i].fd);
		if (s->parts[i].temporary[0])
			unlinkat(s->dirfd, s->parts[i].temporary, 0);
	}
	VEC_FOREACH(&s->reservations, r)
		free(r->places);
	VEC_FREE(&s->reservations);
	archive_index_free(&s->index);
	if (s->dirfd >= 0)
		close(s->dirfd);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->turned);
	free(s);
}

static void archive_fail(struct sink *base)
{
	struct archive *s = (struct archive *)base;
	pthread_mutex_lock(&s->lock);
	s->failed = true;
	pthread_cond_broadcast(&s->turned);
	pthread_mutex_unlock(&s->lock);
}

static int archive_directory(const struct sink *base)
{
	return ((const struct archive *)base)->dirfd;
}

static uint64_t archive_written(const struct sink *base)
{
	const struct archive *s = (const struct archive *)base;
	uint64_t total = 0;

	for (unsigned i = 0; i < s->n_parts; i++)
		total += s->parts[i].end;
	return total;
}

/* ---- pieces ---- */

static bool is_direct(const struct archive *s)
{
	return s->packing.kind == PACKING_TAR;
}

/* With the lock held. */
static int add_member(struct archive *s, const char *name, uint64_t size)
{
	struct archive_member *m = strlen(name) < ARCHIVE_NAME_MAX ? VEC_PUSH(&s->index.members) : NULL;

	if (!m)
		return -ENOMEM;
	snprintf(m->name, sizeof(m->name), "%s", name);
	m->offset = s->stream + TAR_BLOCK;
	m->size = size;
	s->stream += TAR_BLOCK + tar_filled(size);
	return 0;
}

static int add_frame(struct archive *s, unsigned part, uint64_t at, size_t size, size_t raw)
{
	struct archive_frame *f = VEC_PUSH(&s->index.frames);

	if (!f)
		return -ENOMEM;
	*f = (struct archive_frame){ (uint64_t)part << ARCHIVE_PART_SHIFT | at, (uint32_t)size, (uint32_t)raw };
	return 0;
}

static unsigned part_of(const struct archive *s, uint64_t ticket)
{
	return (unsigned)(ticket % s->n_parts);
}

/* Bytes of a piece, with head and padding. */
static uint64_t piece_size(const struct reservation *r, uint64_t index)
{
	uint64_t from = index * r->step, size = MIN(r->step, r->size - from);

	return size + (index ? 0 : TAR_BLOCK) + (index + 1 == r->count ? tar_filled(r->size) - r->size : 0);
}

/* All pieces of a plain tar get their places at once. */
static int place_pieces(struct archive *s, struct reservation *r)
{
	r->places = calloc(r->count, sizeof(*r->places));
	int failed = r->places ? 0 : -ENOMEM;

	for (uint64_t i = 0; !failed && i < r->count; i++) {
		unsigned part = part_of(s, r->ticket + i);
		uint64_t size = piece_size(r, i);
		r->places[i] = (struct place){ part, s->parts[part].end };
		failed = add_frame(s, part, s->parts[part].end, size, size);
		s->parts[part].end += size;
	}
	s->turn = r->ticket + r->count;
	return failed;
}

static int archive_reserve(struct sink *base, const char *name, uint64_t size, uint64_t step, uint64_t *ret_ticket)
{
	struct archive *s = (struct archive *)base;
	pthread_mutex_lock(&s->lock);
	struct reservation *r = s->failed ? NULL : VEC_PUSH(&s->reservations);
	int failed = r ? add_member(s, name, size) : s->failed ? -ECANCELED : -ENOMEM;
	if (!failed) {
		*r = (struct reservation){ .ticket = s->tickets, .count = MAX((size + step - 1) / step, 1UL), .size = size, .step = step };
		snprintf(r->name, sizeof(r->name), "%s", name);
		*ret_ticket = s->tickets;
		s->tickets += r->count;
		if (is_direct(s))
			failed = place_pieces(s, r);
	}
	pthread_mutex_unlock(&s->lock);
	if (failed)
		archive_fail(&s->base);
	return failed;
}

/* With the lock held: reservations are in the order of their tickets. */
static const struct reservation *find_reservation(const struct archive *s, uint64_t ticket)
{
	size_t low = 0, high = s->reservations.count;

	while (low + 1 < high) {
		size_t middle = (low + high) / 2;
		if (s->reservations.data[middle].ticket <= ticket)
			low = middle;
		else
			high = middle;
	}
	return &s->reservations.data[low];
}

/* One at rest, or a new one; for packing there are buffers and a codec. */
static struct piece *take_piece(struct archive *s, bool direct)
{
	pthread_mutex_lock(&s->lock);
	struct piece *p = s->resting;
	if (p)
		s->resting = p->next;
	pthread_mutex_unlock(&s->lock);
	if (!p) {
		p = calloc(1, sizeof(*p));
		if (!p)
			return NULL;
		p->sink = s;
		p->base.sink = &s->base;
	}
	if (!direct && !p->codec) {
		p->codec = codec_new(s->packing.kind, s->packing.level);
		p->in = malloc(PACKING_FRAME);
		if (!p->codec || !p->in) {
			piece_free(p);
			return NULL;
		}
	}
	p->direct = direct;
	p->used = p->packed = p->padding = 0;
	p->raw = 0;
	p->adler = 1;
	p->failed = 0;
	p->has_head = false;
	p->frames.count = 0;
	return p;
}

static int reserve_out(struct piece *p)
{
	size_t need = p->packed + PACKING_FRAME_MAX;

	if (need <= p->room)
		return 0;
	size_t room = MAX(need, p->room + p->room / 2);
	unsigned char *out = realloc(p->out, room);
	if (!out)
		return -ENOMEM;
	p->out = out;
	p->room = room;
	return 0;
}

/* Up to PACKING_FRAME bytes become a frame of the piece. `stored`: as they are, in a size that is known. */
static int add_packed(struct piece *p, const unsigned char *data, size_t size, bool stored, bool last)
{
	int r = size || last ? reserve_out(p) : 0;

	if (r || (!size && !last))
		return r;
	struct archive_frame *f = VEC_PUSH(&p->frames);
	ssize_t n = !f ? -ENOMEM :
		    stored ? (ssize_t)codec_store(p->sink->packing.kind, p->out + p->packed, data, size, last) :
			     codec_pack(p->codec, p->out + p->packed, data, size);
	if (n < 0)
		return (int)n;
	*f = (struct archive_frame){ p->packed, (uint32_t)n, (uint32_t)size };
	if (p->sink->packing.kind == PACKING_ZLIB)
		p->adler = (uint32_t)adler32(p->adler, data, (uInt)size);
	p->packed += (size_t)n;
	p->raw += size;
	return 0;
}

static int flush(struct piece *p)
{
	int r = add_packed(p, p->in, p->used, false, false);

	p->used = 0;
	return r;
}

static int add_bytes(struct piece *p, const void *data, size_t size)
{
	const unsigned char *from = data;
	int r = 0;

	while (!r && size) {
		size_t n = MIN(size, PACKING_FRAME - p->used);
		if (n == PACKING_FRAME) {
			r = add_packed(p, from, n, false, false);
		} else {
			memcpy(p->in + p->used, from, n);
			p->used += n;
			if (p->used == PACKING_FRAME)
				r = flush(p);
		}
		from += n;
		size -= n;
	}
	return r;
}

static int archive_piece_write(struct sink_piece *base, const void *data, size_t size);

static int archive_piece_begin(struct sink *base, uint64_t ticket, struct sink_piece **ret)
{
	struct archive *s = (struct archive *)base;
	struct piece *p = take_piece(s, is_direct(s));

	if (!p) {
		archive_fail(&s->base);
		return -ENOMEM;
	}
	pthread_mutex_lock(&s->lock);
	const struct reservation *r = find_reservation(s, ticket);
	uint64_t index = ticket - r->ticket;
	p->ticket = ticket;
	p->padding = index + 1 == r->count ? (size_t)(tar_filled(r->size) - r->size) : 0;
	p->has_head = !index;
	if (p->has_head)
		tar_head(p->head, r->name, r->size, s->time);
	if (p->direct)
		p->position = r->places[index].at;
	pthread_mutex_unlock(&s->lock);
	/* In a frame of its own: those behind it then hold what begins at round places of the member. */
	if (p->has_head)
		p->failed = p->direct ? archive_piece_write(&p->base, p->head, TAR_BLOCK) : add_packed(p, p->head, TAR_BLOCK, true, false);
	*ret = &p->base;
	return 0;
}

static int archive_piece_write(struct sink_piece *base, const void *data, size_t size)
{
	struct piece *p = (struct piece *)base;

	if (p->failed)
		return p->failed;
	if (p->direct) {
		p->failed = write_whole(p->sink->parts[part_of(p->sink, p->ticket)].fd, data, size, p->position);
		p->position += size;
	} else {
		p->failed = add_bytes(p, data, size);
	}
	return p->failed;
}

/* It is the piece's turn, or nobody's any more: its place is known, and others may go on while it is written. */
static int emit(struct piece *p, unsigned part)
{
	struct archive *s = p->sink;
	struct part *to = &s->parts[part];

	pthread_mutex_lock(&s->lock);
	if (p->failed)
		s->failed = true;
	while (!s->failed && s->turn != p->ticket)
		pthread_cond_wait(&s->turned, &s->lock);
	int r = p->failed ? p->failed : s->failed ? -ECANCELED : 0;
	uint64_t at = to->end;
	VEC_FOREACH(&p->frames, f)
		if (!r)
			r = add_frame(s, part, at + f->place, f->size, f->raw);
	if (!r) {
		to->end += p->packed;
		if (s->packing.kind == PACKING_ZLIB)
			to->adler = (uint32_t)adler32_combine(to->adler, p->adler, (z_off_t)p->raw);
		s->turn++;
	} else {
		s->failed = true;
	}
	pthread_cond_broadcast(&s->turned);
	pthread_mutex_unlock(&s->lock);
	return r ? r : write_whole(to->fd, p->out, p->packed, at);
}

static int archive_piece_end(struct sink_piece *base)
{
	struct piece *p = (struct piece *)base;
	static const unsigned char zeros[TAR_BLOCK];
	struct archive *s = p->sink;
	int r = archive_piece_write(&p->base, zeros, p->padding);

	if (!p->direct) {
		if (!p->failed)
			p->failed = flush(p);
		r = emit(p, part_of(s, p->ticket));
	}
	if (r)
		archive_fail(&s->base);
	pthread_mutex_lock(&s->lock);
	p->next = s->resting;
	s->resting = p;
	pthread_mutex_unlock(&s->lock);
	return r;
}

/* ---- the end ---- */

static int emit_appended(struct archive *s, unsigned part)
{
	struct piece *p = s->appended;

	if (!p->frames.count)
		return 0;
	p->ticket = s->tickets++;
	int r = emit(p, part);
	p->packed = 0;
	p->raw = 0;
	p->adler = 1;
	p->frames.count = 0;
	return r;
}

static int archive_append(struct sink *base, const void *data, size_t size)
{
	struct archive *s = (struct archive *)base;
	const unsigned char *from = data;
	int r = s->appended || (s->appended = take_piece(s, false)) ? 0 : -ENOMEM;

	while (!r && size) {
		size_t n = MIN(size, PACKING_FRAME);
		r = add_bytes(s->appended, from, n);
		if (!r && s->appended->packed > APPENDED_MAX)
			r = emit_appended(s, part_of(s, s->tickets));
		from += n;
		size -= n;
	}
	return r;
}

static int pad(struct archive *s)
{
	static const unsigned char zeros[TAR_BLOCK];
	uint64_t at = s->appended ? s->appended->raw + s->appended->used : 0;

	/* Pieces hold whole blocks: what is not yet out is all that counts. */
	return at % TAR_BLOCK ? archive_append(&s->base, zeros, TAR_BLOCK - at % TAR_BLOCK) : 0;
}

static int archive_member_begin(struct sink *base, const char *name, uint64_t size)
{
	struct archive *s = (struct archive *)base;
	unsigned char head[TAR_BLOCK];
	int r = pad(s);

	if (!r)
		r = add_member(s, name, size);
	tar_head(head, name, size, s->time);
	return r ? r : archive_append(&s->base, head, sizeof(head));
}

/* The index in frames whose sizes follow from its size. */
static int append_index(struct archive *s, struct archive_footer *footer)
{
	static const unsigned char zeros[TAR_BLOCK];
	unsigned char head[TAR_BLOCK], *data = NULL;
	size_t size;

	for (unsigned i = 0; i < s->n_parts; i++)
		s->index.parts[i] = s->parts[i].end;
	s->index.n_parts = s->n_parts;
	int r = archive_index_write(&s->index, &data, &size);
	if (r)
		return r;
	XXH128_canonicalFromHash((XXH128_canonical_t *)footer->digest, XXH3_128bits(data, size));
	tar_head(head, ARCHIVE_INDEX, tar_filled(size) + ARCHIVE_FOOTER, s->time);
	r = add_packed(s->appended, head, sizeof(head), true, false);
	if (!r)
		r = emit_appended(s, 0);
	footer->kind = s->packing.kind;
	footer->place = s->parts[0].end;
	footer->size = size;
	for (size_t at = 0; !r && at < size; at += PACKING_FRAME) {
		r = add_packed(s->appended, data + at, MIN(size - at, PACKING_FRAME), true, false);
		if (!r && s->appended->packed > APPENDED_MAX)
			r = emit_appended(s, 0);
	}
	if (!r)
		r = add_packed(s->appended, zeros, tar_filled(size) - size, true, false);
	free(data);
	return r;
}

/* zlib: what ends the stream of a part. Part 0 has its last frame already. */
static int end_zlib(struct archive *s, unsigned i)
{
	unsigned char end[16];
	struct part *p = &s->parts[i];
	size_t n = i ? codec_store(PACKING_ZLIB, end, end, 0, true) : 0;

	for (int k = 0; k < 4; k++)
		end[n++] = (unsigned char)(p->adler >> (24 - 8 * k));
	int r = write_whole(p->fd, end, n, p->end);
	p->end += n;
	return r;
}

/* A plain tar in one file needs no index: heads lead from one to the next. */
static int write_end(struct archive *s)
{
	unsigned char end[ARCHIVE_END] = {};
	struct archive_footer footer;
	int r = pad(s);

	if (!r)
		r = flush(s->appended);
	if (!r)
		r = emit_appended(s, part_of(s, s->tickets));
	if (is_direct(s) && s->n_parts == 1)
		return r ? r : write_whole(s->parts[0].fd, end, 1024, s->parts[0].end);
	if (!r)
		r = append_index(s, &footer);
	if (!r) {
		archive_footer_write(&footer, end);
		r = add_packed(s->appended, end, sizeof(end), true, s->packing.kind == PACKING_ZLIB);
	}
	if (!r)
		r = emit_appended(s, 0);
	for (unsigned i = 0; !r && i < s->n_parts && s->packing.kind == PACKING_ZLIB; i++)
		r = end_zlib(s, i);
	return r;
}

static void archive_withdraw(struct sink *base);

static int archive_commit(struct sink *base)
{
	struct archive *s = (struct archive *)base;
	int r = s->failed ? -ECANCELED : write_end(s);

	/* The first holds the index: without it there is no checkpoint. */
	for (unsigned i = s->n_parts; !r && i-- > 0;)
		r = name_part(s, &s->parts[i]);
	if (r)
		archive_withdraw(&s->base);
	return r;
}

static void archive_withdraw(struct sink *base)
{
	struct archive *s = (struct archive *)base;
	for (unsigned i = 0; i < s->n_parts; i++)
		if (s->parts[i].named) {
			unlinkat(s->dirfd, s->parts[i].name, 0);
			s->parts[i].named = false;
		}
}

static const struct sink_ops archive_ops = {
	.free = archive_free,
	.fail = archive_fail,
	.reserve = archive_reserve,
	.piece_begin = archive_piece_begin,
	.piece_write = archive_piece_write,
	.piece_end = archive_piece_end,
	.member = archive_member_begin,
	.append = archive_append,
	.commit = archive_commit,
	.withdraw = archive_withdraw,
	.directory = archive_directory,
	.written = archive_written,
};

int sink_new(const char *path, const struct packing *packing, struct sink **ret)
{
	struct archive *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->base.ops = &archive_ops;
	s->packing = *packing;
	if (s->packing.kind == PACKING_NONE)
		s->packing.kind = PACKING_TAR;
	s->time = time(NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->turned, NULL);
	int r = open_parts(s, path);
	if (r)
		archive_free(&s->base);
	else
		*ret = &s->base;
	return r;
}
