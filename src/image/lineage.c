/*
 * How checkpoints hang together: each has an id in its manifest, and one that has only what changed since another has that one's id too, and a
 * symbolic link `parent` to it, as CRIU's format has it.
 */
#include "image/private.h"

#include <fcntl.h>
#include <jansson.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

int image_id_make(char ret[IMAGE_ID_SIZE])
{
	unsigned char bytes[(IMAGE_ID_SIZE - 1) / 2];

	if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		return -EIO;
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(ret + 2 * i, 3, "%02x", bytes[i]);
	return 0;
}

static void take_id(const json_t *value, char ret[IMAGE_ID_SIZE])
{
	const char *text = json_string_value(value);

	if (text && strlen(text) == IMAGE_ID_SIZE - 1)
		memcpy(ret, text, IMAGE_ID_SIZE);
}

void image_lineage_note(struct image_dir *dir, const json_t *manifest)
{
	dir->lineage = (struct image_lineage){ .dropped = json_is_true(json_object_get(manifest, "dropped")) };
	take_id(json_object_get(manifest, "id"), dir->lineage.id);
	take_id(json_object_get(manifest, "parent"), dir->lineage.parent);
	dir->lineage_known = true;
}

int image_dir_lineage(struct image_dir *dir, struct image_lineage *ret)
{
	json_t *manifest = NULL;
	int r = 0;

	if (!dir->lineage_known) {
		manifest = image_manifest_read(dir, &r);
		if (!r && !manifest)
			r = -EBADMSG;
		if (!r || r == 1)
			image_lineage_note(dir, manifest);
		json_decref(manifest);
	}
	*ret = dir->lineage;
	return r == 1 ? 0 : r;
}

void image_dir_set_lineage(struct image_dir *dir, const struct image_lineage *lineage, const char *link)
{
	dir->lineage = *lineage;
	dir->lineage_known = true;
	free(dir->parent_link);
	dir->parent_link = link ? strdup(link) : NULL;
}

int image_dir_open_parent(struct image_dir *dir, struct image_dir **ret)
{
	int fd = dir->fd < 0 ? -1 : openat(dir->fd, "parent", O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return dir->fd < 0 ? -ENOENT : -errno;
	int r = image_dir_open_fd(fd, ret);
	if (!r)
		image_dir_set_meter(*ret, dir->meter);
	return r;
}

bool image_dir_is(const struct image_dir *a, const struct image_dir *b)
{
	return a->device == b->device && a->inode == b->inode;
}

/* Before the checkpoint is one. */
int image_link_parent(struct image_dir *dir)
{
	if (unlinkat(dir->fd, "parent", 0) < 0 && errno != ENOENT)
		return -errno;
	if (!dir->parent_link || symlinkat(dir->parent_link, dir->fd, "parent") == 0)
		return 0;
	return -errno;
}
