/*
 * An archive: opened, verified, and each of its members read in pieces; with an index and without. An index by itself too, since a
 * whole archive has a checksum over it; and what tar's pax records say.
 */
#include "fuzz.h"

#include "image/archive.h"
#include "image/image.h"
#include "image/tar.h"

#define ARCHIVE SANDBOX "/an.archive"
#define STEP 5000
#define READ_MAX (1UL << 20) /* of a member */

static int read_member(void *data, const char *name, uint64_t size)
{
	struct image_dir *dir = data;
	struct image_reader *reader;
	struct image_file *file;
	struct image_raw *raw;
	unsigned char buffer[STEP];

	if (image_raw_open(dir, name, &raw))
		abort(); /* it was just listed */
	if (image_reader_new(dir, &reader))
		abort();
	for (uint64_t at = 0; at < MIN(size, READ_MAX); at += STEP)
		if (image_raw_read(raw, reader, buffer, (size_t)MIN(STEP, size - at), at))
			break;
	if (image_raw_read(raw, reader, buffer, 1, size) != -EBADMSG)
		abort();
	image_reader_free(reader);
	image_raw_close(raw);
	if (image_open(dir, name, IMAGE_MAGIC_PSTREE, &file) == 0) {
		image_read_some(file, buffer, sizeof(buffer));
		image_close(file);
	}
	return 0;
}

static void read_archive(const uint8_t *data, size_t size)
{
	struct image_dir *dir;
	struct error e = {};

	fuzz_write(ARCHIVE, data, size);
	int before = fuzz_count_fds(), r = image_dir_open(ARCHIVE, &dir);
	if (!r) {
		r = image_dir_verify(dir, &e);
		if (r < 0 && (e.code != r || !e.text[0]))
			abort();
		image_dir_list(dir, read_member, dir);
		image_dir_free(dir);
	}
	fuzz_check_fds(before);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct archive_index index = {};

	if (size >= 8 && !memcmp(data, "FERMIDX1", 8)) {
		archive_index_read(&index, data, size);
		archive_index_free(&index);
	} else if (size >= 4 && !memcmp(data, "pax:", 4)) {
		tar_pax_size((const char *)data + 4, size - 4);
	} else {
		read_archive(data, size);
	}
	return 0;
}
