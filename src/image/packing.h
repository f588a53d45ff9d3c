/*
 * How a checkpoint is packed, and what turns bytes into frames and back: each frame is a whole unit of its format (a member of gzip, a
 * frame of lz4 or zstd, a run of raw deflate blocks), so that frames one behind the other are a standard stream, are made on all
 * processors, and each can be unpacked alone. What would not get smaller is stored.
 *
 * zlib has no streams one behind the other: there the frames are the parts of one stream, each flushed with an empty window (as pigz
 * does), and head and end are written around them.
 */
#pragma once

#include "base/error.h"

enum packing_kind { PACKING_NONE, PACKING_TAR, PACKING_GZIP, PACKING_LZ4, PACKING_ZLIB, PACKING_ZSTD };

/* What a dump is asked for. PACKING_NONE with `streams` 0: a directory of images. */
struct packing {
	enum packing_kind kind;
	int level;	  /* 0: the usual one */
	unsigned streams; /* 0: one file; else so many, in a directory */
	const char *key;  /* of a store: the file that has its key, or NULL */
};

#define PACKING_STREAMS_MAX 64
#define PACKING_FRAME (256UL << 10) /* bytes that go into one frame, at most */
#define PACKING_FRAME_MAX (PACKING_FRAME + (4UL << 10)) /* that come out */

/* "none", "tar", "gzip", "lz4", "zlib", "zstd"; where there are levels, ":LEVEL" may follow. */
int packing_parse(const char *text, struct packing *ret, struct error *e);
const char *packing_name(enum packing_kind kind);
/* ".tar.lz4"; of a part of several streams ".lz4". "" where there is none. */
const char *packing_ending(enum packing_kind kind, bool part);
/* By the first bytes; PACKING_NONE: it is none of them. `size` should be 512 or more. */
enum packing_kind packing_detect(const unsigned char *data, size_t size);

/* For one thread. */
struct codec;
struct codec *codec_new(enum packing_kind kind, int level);
void codec_free(struct codec *c);
/* Up to PACKING_FRAME bytes into a frame, for which there is room for PACKING_FRAME_MAX. Gives its size, or a negative errno. */
ssize_t codec_pack(struct codec *c, unsigned char *to, const unsigned char *from, size_t size);
/* The same without an attempt to make it smaller: its size depends on nothing but `size`. `last`: ends the stream (zlib alone). */
size_t codec_store(enum packing_kind kind, unsigned char *to, const unsigned char *from, size_t size, bool last);
size_t codec_stored_size(enum packing_kind kind, size_t size);
/* A frame that must hold `size` bytes. 0 or -EBADMSG. */
int codec_unpack(struct codec *c, unsigned char *to, size_t size, const unsigned char *from, size_t packed);

/* A stream of any frames, from its beginning, of which no more is known. */
struct decoder;
struct decoder *decoder_new(enum packing_kind kind, int fd);
void decoder_free(struct decoder *d);
/* Up to `size` bytes; 0: its end; -EBADMSG: damaged or cut off. */
ssize_t decoder_read(struct decoder *d, unsigned char *to, size_t size);
