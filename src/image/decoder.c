/* A stream of frames that is read from its beginning: for archives that have no index. See packing.h. */
#include "image/packing.h"

#include <lz4frame.h>
#include <zlib.h>
#include <zstd.h>

#define INPUT (256UL << 10)

struct decoder {
	enum packing_kind kind;
	int fd;
	off_t at; /* in the file */
	unsigned char *input;
	size_t used, taken;
	bool within; /* a frame that has not ended */
	bool over;
	ZSTD_DCtx *zstd;
	LZ4F_dctx *lz4;
	z_stream inflate;
	bool inflating;
};

struct decoder *decoder_new(enum packing_kind kind, int fd)
{
	struct decoder *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	*d = (struct decoder){ .kind = kind, .fd = fd, .input = malloc(INPUT) };
	bool good = d->input;
	if (kind == PACKING_ZSTD)
		good &= (d->zstd = ZSTD_createDCtx()) != NULL;
	else if (kind == PACKING_LZ4)
		good &= !LZ4F_isError(LZ4F_createDecompressionContext(&d->lz4, LZ4F_VERSION));
	else if (kind == PACKING_GZIP || kind == PACKING_ZLIB)
		good &= d->inflating = inflateInit2(&d->inflate, kind == PACKING_GZIP ? 15 + 16 : 15) == Z_OK;
	if (good)
		return d;
	decoder_free(d);
	return NULL;
}

void decoder_free(struct decoder *d)
{
	if (!d)
		return;
	ZSTD_freeDCtx(d->zstd);
	LZ4F_freeDecompressionContext(d->lz4);
	if (d->inflating)
		inflateEnd(&d->inflate);
	free(d->input);
	free(d);
}

/* 0: the end of the file. */
static ssize_t refill(struct decoder *d)
{
	ssize_t n;

	do
		n = pread(d->fd, d->input, INPUT, d->at);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	d->used = (size_t)n;
	d->taken = 0;
	d->at += n;
	return n;
}

static ssize_t step_inflate(struct decoder *d, unsigned char *to, size_t size)
{
	z_stream *z = &d->inflate;

	if (!d->within && d->kind == PACKING_GZIP)
		inflateReset(z);
	d->within = true;
	z->next_in = d->input + d->taken;
	z->avail_in = (uInt)(d->used - d->taken);
	z->next_out = to;
	z->avail_out = (uInt)MIN(size, 1UL << 30);
	uInt room = z->avail_out;
	int r = inflate(z, Z_NO_FLUSH);
	if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
		return -EBADMSG;
	d->taken = d->used - z->avail_in;
	if (r == Z_STREAM_END) {
		d->within = false;
		d->over = d->kind == PACKING_ZLIB;
	}
	return (ssize_t)(room - z->avail_out);
}

static ssize_t step_lz4(struct decoder *d, unsigned char *to, size_t size)
{
	size_t made = size, used = d->used - d->taken;
	size_t left = LZ4F_decompress(d->lz4, to, &made, d->input + d->taken, &used, NULL);

	if (LZ4F_isError(left))
		return -EBADMSG;
	d->taken += used;
	d->within = left != 0;
	return (ssize_t)made;
}

static ssize_t step_zstd(struct decoder *d, unsigned char *to, size_t size)
{
	ZSTD_outBuffer out = { to, size, 0 };
	ZSTD_inBuffer in = { d->input, d->used, d->taken };
	size_t left = ZSTD_decompressStream(d->zstd, &out, &in);

	if (ZSTD_isError(left))
		return -EBADMSG;
	d->taken = in.pos;
	d->within = left != 0;
	return (ssize_t)out.pos;
}

ssize_t decoder_read(struct decoder *d, unsigned char *to, size_t size)
{
	size_t done = 0;

	while (done < size && !d->over) {
		if (d->taken == d->used) {
			ssize_t n = refill(d);
			if (n < 0)
				return n;
			/* What a decoder still holds comes out without more input; then it must be between two frames. */
			if (!n && !d->within)
				break;
		}
		size_t before = d->taken;
		ssize_t n = d->kind == PACKING_LZ4 ? step_lz4(d, to + done, size - done) :
			    d->kind == PACKING_ZSTD ? step_zstd(d, to + done, size - done) :
						      step_inflate(d, to + done, size - done);
		if (n < 0)
			return n;
		done += (size_t)n;
		if (!n && before == d->taken && d->taken == d->used && d->within && !refill(d))
			return -EBADMSG;
	}
	return (ssize_t)done;
}
