/* The image files: round trip, damage, and that nothing shows before the commit. */
#include "image/image.h"
#include "pstree.pb-c.h"
#include "inventory.pb-c.h"

#include <fcntl.h>

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_image.c\n", name);
	failures += !good;
}

static bool write_some(const char *path, bool commit)
{
	PstreeEntry tree = PSTREE_ENTRY__INIT;
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	struct image_dir *dir;
	struct image_file *file;

	tree.pid = 7;
	inventory.img_version = 2;
	bool good = !image_dir_create(path, &dir) && !image_create(dir, "pstree.img", IMAGE_MAGIC_PSTREE, &file) &&
		    !image_write_message(file, &tree.base) && !image_close(file) &&
		    !image_create(dir, "inventory.img", IMAGE_MAGIC_INVENTORY, &file) &&
		    !image_write_message(file, &inventory.base) && !image_close(file);
	if (good && commit)
		good = !image_dir_commit(dir);
	image_dir_free(dir);
	return good;
}

static int read_tree(const char *path, uint32_t magic)
{
	struct image_dir *dir;
	struct image_file *file;
	ProtobufCMessage *m = NULL;
	int pid = -1;

	if (image_dir_open(path, &dir))
		return -1;
	int r = image_open(dir, "pstree.img", magic, &file);
	if (!r) {
		r = image_read_message(file, &pstree_entry__descriptor, &m);
		pid = r == 1 ? (int)((PstreeEntry *)m)->pid : r;
		if (m)
			protobuf_c_message_free_unpacked(m, NULL);
		image_close(file);
	} else {
		pid = r;
	}
	image_dir_free(dir);
	return pid;
}

static int verify(const char *path)
{
	struct image_dir *dir;
	struct error e = {};

	if (image_dir_open(path, &dir))
		return -1;
	int r = image_dir_verify(dir, &e);
	image_dir_free(dir);
	return r;
}

int main(void)
{
	char path[] = "/tmp/fermata-test-XXXXXX", file[64];
	struct image_dir *dir;

	if (!mkdtemp(path))
		return 1;
	snprintf(file, sizeof(file), "%s/pstree.img", path);
	check("uncommitted", write_some(path, false) && access(file, F_OK) != 0);
	check("commit", write_some(path, true) && read_tree(path, IMAGE_MAGIC_PSTREE) == 7 && verify(path) == 0);
	check("magic", read_tree(path, IMAGE_MAGIC_CORE) == -EBADMSG);
	check("occupied", image_dir_create(path, &dir) == -EEXIST);
	int fd = open(file, O_RDWR | O_CLOEXEC);
	check("altered", pwrite(fd, "\xff", 1, 13) == 1 && verify(path) == -EBADMSG);
	check("truncated", ftruncate(fd, 14) == 0 && read_tree(path, IMAGE_MAGIC_PSTREE) == -EBADMSG && verify(path) == -EBADMSG);
	close(fd);
	unlink(file);
	snprintf(file, sizeof(file), "%s/inventory.img", path);
	unlink(file);
	snprintf(file, sizeof(file), "%s/fermata.json", path);
	unlink(file);
	rmdir(path);
	return failures != 0;
}
