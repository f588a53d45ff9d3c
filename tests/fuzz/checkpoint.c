/*
 * A whole checkpoint through everything that a restore does before it makes the first process. The input is a pack of files: for
 * each the length of its name (one byte), the name, the length of its content (four bytes, little-endian), the content.
 *
 * Mutations take one record of one file, and put the lengths right again.
 */
#include "fuzz.h"

#include "engine/arch/x86_64/fpu.h"
#include "engine/restore.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>

#define DIRECTORY SANDBOX "/images"
#define FDS_MAX 65536

struct part {
	char name[256];
	const uint8_t *data;
	uint32_t size;
};

/* The next file of a pack; a length past the end is cut. */
static bool next_part(const uint8_t **at, const uint8_t *end, struct part *ret)
{
	if (*at == end)
		return false;
	size_t length = *(*at)++;
	length = MIN(length, (size_t)(end - *at));
	memcpy(ret->name, *at, length);
	ret->name[length] = '\0';
	*at += length;
	ret->size = 0;
	if (end - *at >= 4) {
		memcpy(&ret->size, *at, 4);
		*at += 4;
	}
	ret->data = *at;
	ret->size = (uint32_t)MIN((size_t)ret->size, (size_t)(end - *at));
	*at += ret->size;
	return true;
}

/* ---- the run ---- */

/* Takes everything out of a directory of the sandbox but "file" and "fifo". */
static void empty(int parent, const char *name, bool spare)
{
	int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || (spare && (!strcmp(entry->d_name, "file") || !strcmp(entry->d_name, "fifo"))))
			continue;
		if (unlinkat(fd, entry->d_name, 0) < 0 && errno == EISDIR) {
			empty(fd, entry->d_name, false);
			unlinkat(fd, entry->d_name, AT_REMOVEDIR);
		}
	}
	if (dir)
		closedir(dir);
}

static void unpack(const uint8_t *data, size_t size)
{
	const uint8_t *at = data;
	struct part part;

	empty(AT_FDCWD, SANDBOX, true);
	if (mkdir(DIRECTORY, 0700) < 0 || (link(SANDBOX "/file", SANDBOX "/link_remap.1") < 0 && errno != EEXIST))
		abort();
	while (next_part(&at, data + size, &part)) {
		char path[300];
		if (!part.name[0] || strchr(part.name, '/') || part.name[0] == '.')
			continue;
		snprintf(path, sizeof(path), DIRECTORY "/%s", part.name);
		fuzz_write(path, part.data, part.size);
	}
}

/* Segments stay when a restore fails. */
static void remove_segments(void)
{
	struct shmid_ds ds;
	int highest = shmctl(0, SHM_INFO, &ds);

	for (int i = 0; i <= highest; i++) {
		int id = shmctl(i, SHM_STAT, &ds);
		if (id >= 0)
			shmctl(id, IPC_RMID, NULL);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct request request = { .images_dir = DIRECTORY, .detach = true, .skip_verify = true, .skip_file_rwx_check = true,
						.file_validation = "filesize", .tcp_established = true, .network_lock = NETWORK_LOCK_SKIP };
	static unsigned char area[XSAVE_MAX];
	struct rlimit limit = { FDS_MAX, FDS_MAX };
	struct error e = {};
	struct restore s = { .request = &request, .e = &e, .tty = -1 };
	size_t area_size;

	setrlimit(RLIMIT_NOFILE, &limit);
	unpack(data, size);
	int before = fuzz_count_fds();
	int r = restore_prepare(&s);
	for (size_t i = 0; !r && i < s.tasks.count; i++)
		for (size_t k = 0; !s.tasks.data[i]->dead && k < s.tasks.data[i]->threads.count; k++)
			fpu_from_image(s.tasks.data[i]->threads.data[k].core->thread_info->fpregs, area, &area_size);
	if (getenv("FUZZ_SAY"))
		fprintf(stderr, "%d %s\n", r, e.text);
	restore_finish(&s);
	remove_segments();
	fuzz_check_fds(before);
	return 0;
}

#ifdef FUZZ_MUTATE
/* ---- mutation ---- */

#define RECORDS_MAX 256
#define RECORD_GROWTH 256

static uint32_t chance;

static uint32_t pick(size_t n)
{
	chance = chance * 1103515245u + 12345u;
	return (uint32_t)((chance >> 8) % n);
}

/* A record of an image: offset and size of its length and message. */
static size_t find_records(const struct part *part, uint32_t (*records)[2])
{
	size_t count = 0;
	uint32_t at = strcmp(part->name, "inventory.img") ? 8 : 4;

	while (count < RECORDS_MAX && at <= part->size && part->size - at >= 4) {
		uint32_t length;
		memcpy(&length, part->data + at, 4);
		if (length > part->size - at - 4)
			break;
		records[count][0] = at;
		records[count++][1] = length + 4;
		at += length + 4;
	}
	return count;
}

/* One that goes: cut out, written twice, or with another message. Gives the new size of the file, in `to`. */
static size_t change_record(const struct part *part, const uint32_t record[2], uint8_t *to)
{
	const uint8_t *message = part->data + record[0];
	size_t at = record[0], rest = part->size - record[0] - record[1];

	memcpy(to, part->data, at);
	switch (pick(10)) {
	case 0:
		break;
	case 1:
		memcpy(to + at, message, record[1]);
		memcpy(to + at + record[1], message, record[1]);
		at += 2 * record[1];
		break;
	default: {
		memcpy(to + at + 4, message + 4, record[1] - 4);
		uint32_t size = (uint32_t)LLVMFuzzerMutate(to + at + 4, record[1] - 4, record[1] - 4 + RECORD_GROWTH);
		memcpy(to + at, &size, 4);
		at += size + 4;
	}
	}
	memcpy(to + at, message + record[1], rest);
	return at + rest;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	uint32_t records[RECORDS_MAX][2];
	const uint8_t *at = data, *before = data;
	struct part part;
	size_t count = 0;

	chance = seed;
	while (next_part(&at, data + size, &part))
		count++;
	if (!count || !pick(20))
		return LLVMFuzzerMutate(data, size, max_size);
	at = data;
	for (size_t chosen = pick(count);; chosen--) {
		before = at;
		next_part(&at, data + size, &part);
		if (!chosen)
			break;
	}
	size_t n = find_records(&part, records), head = (size_t)(part.data - before), rest = (size_t)(data + size - at);
	if (!n)
		return LLVMFuzzerMutate(data, size, max_size);
	uint8_t *changed = malloc(2UL * part.size + RECORD_GROWTH);
	uint8_t *behind = malloc(rest + 1);
	if (!changed || !behind)
		abort();
	uint32_t now = (uint32_t)change_record(&part, records[pick(n)], changed);
	size_t start = (size_t)(before - data);
	if (start + head + now + rest <= max_size && head >= 4) {
		memcpy(behind, at, rest);
		memcpy(data + start + head - 4, &now, 4);
		memcpy(data + start + head, changed, now);
		memcpy(data + start + head + now, behind, rest);
		size = start + head + now + rest;
	}
	free(changed);
	free(behind);
	return size;
}
#endif
