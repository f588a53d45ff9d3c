/*
 * Heads of tar members (POSIX ustar; sizes from 8 GiB on as GNU tar writes them). Pure: bytes in, struct out. Of what others write,
 * files with short names are understood, and pax records of their sizes; other members are told to be skipped.
 */
#pragma once

#include "base/base.h"

#define TAR_BLOCK 512UL

enum tar_type { TAR_FILE, TAR_OTHER, TAR_PAX, TAR_END };

struct tar_member {
	enum tar_type type;
	char name[256]; /* without "./" in front */
	uint64_t size;	/* of what follows; it fills up blocks */
};

/* Any member, as it stands in its head; what does not fit there is in pax records before it. */
struct tar_entry {
	char type; /* '0' a file, '1' a hard link, '2' a symbolic link, '3' and '4' devices, '5' a directory, '6' a FIFO, 'x' pax records … */
	char name[256], link[101];
	uint32_t mode, uid, gid, major, minor;
	uint64_t size;
	int64_t mtime;
};

void tar_head_of(unsigned char to[TAR_BLOCK], const struct tar_entry *entry);
/* 1: it is there; 0: the end of the archive; -EBADMSG. */
int tar_parse_entry(const unsigned char head[TAR_BLOCK], struct tar_entry *ret);

void tar_head(unsigned char to[TAR_BLOCK], const char *name, uint64_t size, int64_t time);
/* 0, or -EBADMSG. */
int tar_parse(const unsigned char head[TAR_BLOCK], struct tar_member *ret);
/* The size that pax records give to the member behind them, or -1. */
int64_t tar_pax_size(const char *records, size_t size);

static inline uint64_t tar_filled(uint64_t size)
{
	return ALIGN_UP(size, TAR_BLOCK);
}
