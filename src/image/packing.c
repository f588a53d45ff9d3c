/* See packing.h. The formats of stored frames: RFC 1950, 1951, 1952, 8878, and lz4_Frame_format.md of lz4. */
#include "image/packing.h"

#include <lz4.h>
#include <lz4frame.h>
#include <xxhash.h>
#include <zlib.h>
#include <zstd.h>

#define STORED_BLOCK 65535UL /* of deflate */
#define ZSTD_RAW_BLOCK (128UL << 10)
#define SAMPLE 4096UL
#define SAMPLES 3

static const struct format {
	const char *name, *ending;
	int level_max, level_usual;
} formats[] = {
	[PACKING_NONE] = { "none", "", 0, 0 },
	[PACKING_TAR] = { "tar", ".tar", 0, 0 },
	[PACKING_GZIP] = { "gzip", ".tar.gz", 9, 1 },
	[PACKING_LZ4] = { "lz4", ".tar.lz4", 12, 1 },
	[PACKING_ZLIB] = { "zlib", ".tar.zlib", 9, 1 },
	[PACKING_ZSTD] = { "zstd", ".tar.zst", 19, 1 },
};

const char *packing_name(enum packing_kind kind)
{
	return formats[kind].name;
}

const char *packing_ending(enum packing_kind kind, bool part)
{
	return part && kind > PACKING_NONE ? formats[kind].ending + strlen(".tar") : formats[kind].ending;
}

int packing_parse(const char *text, struct packing *ret, struct error *e)
{
	size_t length = strcspn(text, ":");

	for (size_t i = 0; i < ARRAY_SIZE(formats); i++) {
		const struct format *f = &formats[i];
		if (strlen(f->name) != length || strncmp(f->name, text, length))
			continue;
		ret->kind = (enum packing_kind)i;
		ret->level = 0;
		if (!text[length])
			return 0;
		char *end;
		long level = strtol(text + length + 1, &end, 10);
		if (!f->level_max)
			return error_set(e, -EINVAL, "%s has no levels; write %s alone", f->name, f->name);
		if (*end || !text[length + 1] || level < 1 || level > f->level_max)
			return error_set(e, -EINVAL, "%s is no level of %s; there are 1 to %d", text + length + 1, f->name, f->level_max);
		ret->level = (int)level;
		return 0;
	}
	return error_set(e, -EINVAL, "%s is no compression; there are none, tar, gzip, lz4, zlib and zstd, and a level behind a colon: zstd:3", text);
}

static bool is_tar(const unsigned char *data, size_t size)
{
	return size >= 512 && !memcmp(data + 257, "ustar", 5);
}

enum packing_kind packing_detect(const unsigned char *data, size_t size)
{
	static const unsigned char lz4[] = { 0x04, 0x22, 0x4d, 0x18 }, zstd[] = { 0x28, 0xb5, 0x2f, 0xfd };

	if (is_tar(data, size))
		return PACKING_TAR;
	if (size >= 4 && !memcmp(data, lz4, 4))
		return PACKING_LZ4;
	if (size >= 4 && !memcmp(data, zstd, 4))
		return PACKING_ZSTD;
	if (size >= 3 && data[0] == 0x1f && data[1] == 0x8b && data[2] == 8)
		return PACKING_GZIP;
	if (size >= 2 && data[0] == 0x78 && (data[0] << 8 | data[1]) % 31 == 0 && !(data[1] & 0x20))
		return PACKING_ZLIB;
	return PACKING_NONE;
}

/* ---- stored frames ---- */

static void put(unsigned char **to, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		*(*to)++ = (unsigned char)(value >> (8 * i));
}

static void put_bytes(unsigned char **to, const void *data, size_t size)
{
	if (size)
		memcpy(*to, data, size);
	*to += size;
}

static void store_deflate(unsigned char **to, const unsigned char *from, size_t size, bool last)
{
	do {
		size_t n = MIN(size, STORED_BLOCK);
		put(to, last && n == size, 1);
		put(to, n, 2);
		put(to, ~n, 2);
		put_bytes(to, from, n);
		from += n;
		size -= n;
	} while (size);
}

static void store_gzip(unsigned char **to, const unsigned char *from, size_t size)
{
	static const unsigned char head[10] = { 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3 };

	put_bytes(to, head, sizeof(head));
	store_deflate(to, from, size, true);
	put(to, crc32(0, from, (uInt)size), 4);
	put(to, size, 4);
}

static void store_lz4(unsigned char **to, const unsigned char *from, size_t size)
{
	const unsigned char about[2] = { 0x60, 0x50 }; /* version 1, independent blocks; of 256 KiB */

	put(to, 0x184d2204, 4);
	put_bytes(to, about, 2);
	put(to, XXH32(about, 2, 0) >> 8, 1);
	if (size)
		put(to, size | 0x80000000u, 4);
	put_bytes(to, from, size);
	put(to, 0, 4);
}

static void store_zstd(unsigned char **to, const unsigned char *from, size_t size)
{
	put(to, 0xfd2fb528, 4);
	put(to, 0xa0, 1); /* one segment, four bytes of size */
	put(to, size, 4);
	do {
		size_t n = MIN(size, ZSTD_RAW_BLOCK);
		put(to, n << 3 | (n == size), 3);
		put_bytes(to, from, n);
		from += n;
		size -= n;
	} while (size);
}

size_t codec_store(enum packing_kind kind, unsigned char *to, const unsigned char *from, size_t size, bool last)
{
	unsigned char *at = to;

	if (kind == PACKING_GZIP)
		store_gzip(&at, from, size);
	else if (kind == PACKING_ZLIB)
		store_deflate(&at, from, size, last);
	else if (kind == PACKING_LZ4)
		store_lz4(&at, from, size);
	else if (kind == PACKING_ZSTD)
		store_zstd(&at, from, size);
	else
		put_bytes(&at, from, size);
	return (size_t)(at - to);
}

size_t codec_stored_size(enum packing_kind kind, size_t size)
{
	size_t deflate = size + 5 * MAX((size + STORED_BLOCK - 1) / STORED_BLOCK, 1UL);

	if (kind == PACKING_GZIP)
		return deflate + 18;
	if (kind == PACKING_ZLIB)
		return deflate;
	if (kind == PACKING_LZ4)
		return size + 11 + (size ? 4 : 0);
	if (kind == PACKING_ZSTD)
		return size + 9 + 3 * MAX((size + ZSTD_RAW_BLOCK - 1) / ZSTD_RAW_BLOCK, 1UL);
	return size;
}

/* ---- frames ---- */

struct codec {
	enum packing_kind kind;
	int level;
	ZSTD_CCtx *zstd;
	ZSTD_DCtx *unzstd;
	LZ4F_dctx *unlz4;
	z_stream deflate, inflate;
	bool deflating, inflating;
};

struct codec *codec_new(enum packing_kind kind, int level)
{
	struct codec *c = calloc(1, sizeof(*c));

	if (c)
		*c = (struct codec){ .kind = kind, .level = level ? level : formats[kind].level_usual };
	return c;
}

void codec_free(struct codec *c)
{
	if (!c)
		return;
	ZSTD_freeCCtx(c->zstd);
	ZSTD_freeDCtx(c->unzstd);
	LZ4F_freeDecompressionContext(c->unlz4);
	if (c->deflating)
		deflateEnd(&c->deflate);
	if (c->inflating)
		inflateEnd(&c->inflate);
	free(c);
}

/*
 * A few samples tell whether an attempt is worth its time: bytes that are all equally frequent, and among which nothing is found
 * again. Of 4096 random bytes each value comes 16 times and the sum of squares is 256 · (16² + 16); what is not random has more.
 */
static bool is_random(const unsigned char *data)
{
	uint32_t counts[256] = {}, squares = 0;
	char packed[LZ4_COMPRESSBOUND(SAMPLE)];

	for (size_t i = 0; i < SAMPLE; i++)
		counts[data[i]]++;
	for (size_t i = 0; i < 256; i++)
		squares += counts[i] * counts[i];
	if (squares > 256 * (16 * 16 + 16) * 5 / 4)
		return false;
	return LZ4_compress_fast((const char *)data, packed, SAMPLE, sizeof(packed), 4) > (int)(SAMPLE - SAMPLE / 32);
}

static bool is_worthless(const unsigned char *data, size_t size)
{
	if (size < SAMPLES * SAMPLE)
		return false;
	for (size_t i = 0; i < SAMPLES; i++)
		if (!is_random(data + i * ((size - SAMPLE) / (SAMPLES - 1))))
			return false;
	return true;
}

static ssize_t pack_deflate(struct codec *c, unsigned char *to, const unsigned char *from, size_t size)
{
	z_stream *z = &c->deflate;
	bool gzip = c->kind == PACKING_GZIP;

	if (!c->deflating && deflateInit2(z, c->level, Z_DEFLATED, gzip ? 15 + 16 : -15, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		return -ENOMEM;
	c->deflating = true;
	deflateReset(z);
	z->next_in = (unsigned char *)from;
	z->avail_in = (uInt)size;
	z->next_out = to;
	z->avail_out = (uInt)PACKING_FRAME_MAX;
	int r = deflate(z, gzip ? Z_FINISH : Z_FULL_FLUSH);
	/* No room: it got larger. */
	return r == (gzip ? Z_STREAM_END : Z_OK) && !z->avail_in && z->avail_out ? (ssize_t)z->total_out : -ENOSPC;
}

static ssize_t pack_lz4(struct codec *c, unsigned char *to, const unsigned char *from, size_t size)
{
	LZ4F_preferences_t how = { .frameInfo = { .blockSizeID = LZ4F_max256KB, .blockMode = LZ4F_blockIndependent, .contentSize = size },
				   .compressionLevel = c->level };
	size_t n = LZ4F_compressFrame(to, PACKING_FRAME_MAX, from, size, &how);

	return LZ4F_isError(n) ? -ENOSPC : (ssize_t)n;
}

static ssize_t pack_zstd(struct codec *c, unsigned char *to, const unsigned char *from, size_t size)
{
	if (!c->zstd && !(c->zstd = ZSTD_createCCtx()))
		return -ENOMEM;
	size_t n = ZSTD_compressCCtx(c->zstd, to, PACKING_FRAME_MAX, from, size, c->level);
	return ZSTD_isError(n) ? -ENOSPC : (ssize_t)n;
}

ssize_t codec_pack(struct codec *c, unsigned char *to, const unsigned char *from, size_t size)
{
	ssize_t n = -ENOSPC;

	if (c->kind > PACKING_TAR && size && !is_worthless(from, size))
		n = c->kind == PACKING_LZ4 ? pack_lz4(c, to, from, size) :
		    c->kind == PACKING_ZSTD ? pack_zstd(c, to, from, size) :
					      pack_deflate(c, to, from, size);
	if (n == -ENOSPC || n > (ssize_t)codec_stored_size(c->kind, size))
		n = (ssize_t)codec_store(c->kind, to, from, size, false);
	return n;
}

static int unpack_inflate(struct codec *c, unsigned char *to, size_t size, const unsigned char *from, size_t packed)
{
	z_stream *z = &c->inflate;
	bool gzip = c->kind == PACKING_GZIP;

	if (!c->inflating && inflateInit2(z, gzip ? 15 + 16 : -15) != Z_OK)
		return -ENOMEM;
	c->inflating = true;
	inflateReset(z);
	z->next_in = (unsigned char *)from;
	z->avail_in = (uInt)packed;
	z->next_out = to;
	z->avail_out = (uInt)size;
	int r = inflate(z, Z_SYNC_FLUSH);
	if (gzip)
		return r == Z_STREAM_END && !z->avail_out && !z->avail_in ? 0 : -EBADMSG;
	return (r == Z_OK || r == Z_STREAM_END || r == Z_BUF_ERROR) && !z->avail_out ? 0 : -EBADMSG;
}

static int unpack_lz4(struct codec *c, unsigned char *to, size_t size, const unsigned char *from, size_t packed)
{
	size_t made = size, used = packed;

	if (!c->unlz4 && LZ4F_isError(LZ4F_createDecompressionContext(&c->unlz4, LZ4F_VERSION)))
		return -ENOMEM;
	LZ4F_resetDecompressionContext(c->unlz4);
	size_t left = LZ4F_decompress(c->unlz4, to, &made, from, &used, NULL);
	return left == 0 && made == size && used == packed ? 0 : -EBADMSG;
}

int codec_unpack(struct codec *c, unsigned char *to, size_t size, const unsigned char *from, size_t packed)
{
	switch (c->kind) {
	case PACKING_GZIP:
	case PACKING_ZLIB:
		return unpack_inflate(c, to, size, from, packed);
	case PACKING_LZ4:
		return unpack_lz4(c, to, size, from, packed);
	case PACKING_ZSTD:
		if (!c->unzstd && !(c->unzstd = ZSTD_createDCtx()))
			return -ENOMEM;
		return ZSTD_decompressDCtx(c->unzstd, to, size, from, packed) == size ? 0 : -EBADMSG;
	default:
		if (packed != size)
			return -EBADMSG;
		memcpy(to, from, size);
		return 0;
	}
}
