/* The archive of a file system's content (engine/ns/mnt_untree.c): the input is a tar file, whose heads get right checksums. Whatever is in it, all that is made lies
 * in the directory that it is unpacked to. */
#include "fuzz.h"

#include "engine/ns/mnt.h"
#include "image/image.h"
#include "image/tar.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <zlib.h>

#define TREE SANDBOX "/tree"
#define SUM_AT 148 /* tar(5) */

static void put_sum(uint8_t *head)
{
	unsigned int sum = 8 * ' ';

	for (size_t i = 0; i < TAR_BLOCK; i++)
		sum += i >= SUM_AT && i < SUM_AT + 8 ? 0 : head[i];
	snprintf((char *)head + SUM_AT, 8, "%06o", sum);
	head[SUM_AT + 7] = ' ';
}

static void put_sums(uint8_t *tar, size_t size)
{
	for (size_t at = 0; at + TAR_BLOCK <= size;) {
		struct tar_entry e;
		put_sum(tar + at);
		uint64_t content = tar_parse_entry(tar + at, &e) == 1 ? tar_filled(e.size) : 0;
		at += content < size ? TAR_BLOCK + (size_t)content : size;
	}
}

static size_t pack(const uint8_t *tar, size_t size, uint8_t *to, size_t room)
{
	z_stream z = { .next_in = (uint8_t *)(uintptr_t)tar, .avail_in = (uInt)size, .next_out = to, .avail_out = (uInt)room };

	if (deflateInit2(&z, 0, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK || deflate(&z, Z_FINISH) != Z_STREAM_END)
		abort();
	deflateEnd(&z);
	return room - z.avail_out;
}

static int take_away(const char *path, const struct stat *st, int type, struct FTW *where)
{
	return remove(path);
}

static int count_names(void)
{
	DIR *dir = opendir(SANDBOX);
	int n = 0;

	while (dir && readdir(dir))
		n++;
	if (!dir)
		abort();
	closedir(dir);
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const size_t room = size + 1000 + size / 100;
	uint8_t *tar = malloc(size + 1), *packed = malloc(room);
	struct image_dir *dir;
	struct image_file *file;
	struct error e = {};

	if (!tar || !packed)
		abort();
	memcpy(tar, data, size);
	put_sums(tar, size);
	fuzz_write(SANDBOX "/an.img", packed, pack(tar, size, packed, room));
	int before = fuzz_count_fds(), names = count_names();
	if (mkdir(TREE, 0755) < 0 || image_dir_open(SANDBOX, &dir) || image_open_raw(dir, "an.img", &file))
		abort();
	int tree = open(TREE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (tree_unpack(tree, file, &e) && !e.text[0])
		abort();
	image_close(file);
	image_dir_free(dir);
	close(tree);
	if (chdir("/") < 0 || nftw(TREE, take_away, 16, FTW_DEPTH | FTW_PHYS) < 0)
		abort();
	if (count_names() != names)
		abort();
	fuzz_check_fds(before);
	free(tar);
	free(packed);
	return 0;
}
