/* Where the order of a lazy restore's pages is noted: in the directory of images, beside an archive, in a folder of a store. */
#include "image/image.h"
#include "image/store/store.h"

#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>

int image_order_place(const char *path, char name[256])
{
	char dir[PATH_MAX], copy[PATH_MAX], own[NAME_MAX + 1];
	struct stat st;

	if (store_is_path(path)) {
		if (store_split(path, dir, own) || strlen(dir) > PATH_MAX - 16)
			return -1;
		strcat(dir, "/orders");
		if (mkdir(dir, 0700) < 0 && errno != EEXIST)
			return -1;
		snprintf(name, 256, "%s", own);
		return open(dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	}
	snprintf(name, 256, IMAGE_ORDER);
	int fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || S_ISDIR(st.st_mode))
		return fd;
	close(fd);
	if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
		return -1;
	snprintf(dir, sizeof(dir), "%s", copy);
	if (snprintf(name, 256, "%.200s.%s", basename(copy), IMAGE_ORDER) >= 256)
		return -1;
	return open(dirname(dir), O_PATH | O_DIRECTORY | O_CLOEXEC);
}
