/* What the files of the image layer share of their structures. Nobody else includes this. */
#pragma once

#include "base/workers.h"
#include "image/archive.h"
#include "image/image.h"

#include <pthread.h>
#include <xxhash.h>

#define BUFFER_SIZE (256u << 10)

/* Part of a file that is written, whose bytes are another file's until the commit. */
struct borrowed {
	int fd;
	uint64_t at, size;
	size_t before; /* bytes of the buffer that go in front */
};

struct image_file {
	struct image_dir *dir;
	char name[64];
	int fd;
	bool writing;
	unsigned char *buffer;
	size_t used, at, room; /* of the buffer */
	int result;	       /* of a file that was written, once it is stored */
	uint64_t size; /* written so far, or the whole of one that is read */
	uint64_t position;
	XXH3_state_t *hash;
	char digest[33];
	XXH128_canonical_t *blocks; /* their digests, of a file that is written in blocks */
	size_t n_blocks;
	VEC(struct borrowed) borrowed;
	uint64_t ticket; /* of the first of them, in an archive */
	struct source_reader *reader; /* of an archive's member that is too large to be kept in the buffer */
	uint64_t offset;	      /* of the member, in the archive's stream */
	struct image_file *next;
};

/* A file that was read as a whole. */
struct kept {
	char name[64];
	unsigned char *data;
	size_t size;
};

/* Blocks that nobody has begun. */
struct pending {
	struct image_file *file;
	size_t next;
	const struct image_filler *filler;
	void *owner;
};

struct image_dir {
	int fd; /* -1: an archive */
	uint64_t device, inode; /* of what was opened for reading */
	struct image_lineage lineage;
	bool lineage_known;
	char *parent_link; /* what is written: where its parent is; or NULL */
	bool nowhere, sorted, at_once;
	struct sink *sink; /* an archive that is written, */
	struct source *source; /* or read */
	struct source_reader *reader; /* for small files */
	struct workers *workers; /* or NULL */
	VEC(struct kept) kept;
	struct image_file *files; /* written ones, newest first */
	pthread_mutex_t lock;	  /* of what follows */
	VEC(struct pending) pending;
	size_t first_pending;
	uint64_t blocks_total, blocks_done; /* bytes */
	struct meter *meter; /* of what is verified, or NULL */
};

struct image_raw {
	struct image_dir *dir;
	char name[64];
	int fd; /* its own, or -1: a member of an archive */
	uint64_t offset, size;
};

struct image_reader {
	struct source_reader *source; /* NULL: a directory */
};

/* `fd` is consumed. */
int image_dir_open_fd(int fd, struct image_dir **ret);
/* *ret 1: there is none. NULL with 0: it can't be parsed. */
struct json_t *image_manifest_read(struct image_dir *dir, int *ret);
void image_lineage_note(struct image_dir *dir, const struct json_t *manifest);
int image_link_parent(struct image_dir *dir);
void image_file_free(struct image_file *file);
/* Opens what a file that is written goes to. */
int image_file_open(struct image_file *file);
