/* fermata.json, the manifest of a directory that has one small file beside it. */
#include "fuzz.h"

#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct image_dir *dir;
	struct error e = {};

	fuzz_write(SANDBOX "/inventory.img", "abc", 3);
	fuzz_write(SANDBOX "/fermata.json", data, size);
	int before = fuzz_count_fds();
	if (image_dir_open(SANDBOX, &dir))
		abort();
	int r = image_dir_verify(dir, &e);
	if (r < 0 && (e.code != r || !e.text[0]))
		abort();
	image_dir_free(dir);
	fuzz_check_fds(before);
	return 0;
}
