/* Helpers for live test programs: bytes that depend on a seed and on their place. */
#ifndef DATA_H
#define DATA_H
#include "live.h"
#include <stdint.h>

static inline uint64_t data_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* size is rounded down to words of 8 bytes, the rest is the seed. */
static inline void data_fill(void *at, size_t size, unsigned seed)
{
	uint64_t state = 0x9e3779b97f4a7c15ULL * (seed + 1);
	for (size_t i = 0; i < size / 8; i++) {
		uint64_t word = data_next(&state);
		memcpy((char *)at + i * 8, &word, 8);
	}
	memset((char *)at + size / 8 * 8, seed, size % 8);
}

static inline int data_holds(const void *at, size_t size, unsigned seed)
{
	uint64_t state = 0x9e3779b97f4a7c15ULL * (seed + 1);
	for (size_t i = 0; i < size / 8; i++) {
		uint64_t word = data_next(&state);
		if (memcmp((const char *)at + i * 8, &word, 8)) return 0;
	}
	for (size_t i = size / 8 * 8; i < size; i++)
		if (((const unsigned char *)at)[i] != (unsigned char)seed) return 0;
	return 1;
}

/* A regular file with size bytes of a seed's data, opened for reading and writing, at its start. */
static inline int data_file(const char *path, size_t size, unsigned seed)
{
	char *buffer = malloc(size + 1);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	CHECK(buffer && fd >= 0);
	data_fill(buffer, size, seed);
	CHECK(write(fd, buffer, size) == (ssize_t)size && lseek(fd, 0, SEEK_SET) == 0);
	free(buffer);
	return fd;
}
#endif
