/*
 * gpu-PID.img: device memory that the helper moves (gpu/storage.h), a region a GPU, each at a round block, with nothing but zeroes between them.
 *
 * Dump: in a plain directory the helper writes the very file that becomes the image, and no host memory is needed. Where the program is to go on before all is
 * written, or what is written is packed, it goes to memory first (a memfd) and is written from there by the workers. Either is kept until the
 * end, by the helper too, as the only place that the process can be given its memory back from.
 * Restore: the helper reads the image's file, or what was unpacked of it to memory, and takes the checksums on the way.
 */
#pragma once

#include "engine/dump.h"
#include "gpu/gpu.h"

struct restore;

/* ---- dump ---- */

struct cuda_image {
	int fd, digests; /* the second: not where it lies in memory; -1: none */
	bool in_memory;
	uint64_t size;
	struct dump *d;
	pid_t pid;
	struct image_file *file;
	unsigned char *map; /* of either */
	size_t map_size, blocks_left;
	bool sparse; /* what is not written reads as zeroes */
	int result;
};

/* Whether it goes to memory first. */
bool cuda_image_in_memory(const struct dump *d);
/* The file, before there is anything in it. */
int cuda_image_open(struct dump *d, struct cuda_image *x, pid_t pid);
/* Has the image written of what the helper has put there: the workers do, from now on. `x` must stay where it is. */
int cuda_image_write(struct dump *d, struct cuda_image *x);
/* What has become of it; waits. Once. */
int cuda_image_finish(struct dump *d, struct cuda_image *x);
void cuda_image_close(struct cuda_image *x);

/* ---- restore ---- */

struct cuda_source {
	int fd; /* the image's or, in memory, its own */
	uint64_t offset, size;
	bool in_memory;
	int digests; /* for the helper */
	struct image_raw *raw;
	struct image_digest digest; /* size 0: nobody asks */
};

/* Before any process is made: it is there and of this size; what is packed is unpacked to memory. */
int cuda_source_open(struct restore *s, struct cuda_source *x, pid_t pid, uint64_t size);
/* All was read: it is what was written. */
int cuda_source_check(struct restore *s, const struct cuda_source *x);
void cuda_source_close(struct cuda_source *x);
