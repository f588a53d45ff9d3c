/* The reading side of image.h: files of a directory, or members of an archive. */
#include "image/private.h"
#include "image/whole.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

/* What the message of one record may take in memory: its parts are larger than their encoding. */
#define MESSAGE_MAX (512UL << 20)
#define WHOLE_MAX (1UL << 20) /* members of archives up to this size are read at once */

static int open_in_directory(struct image_dir *dir, const char *name, uint64_t *ret_size)
{
	int fd = openat(dir->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	int r = fd < 0 || fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? fd : -EBADMSG;

	if (r < 0 && fd >= 0)
		close(fd);
	if (r >= 0)
		*ret_size = (uint64_t)st.st_size;
	return r;
}

/* ---- raw files, at any place and from any thread ---- */

int image_raw_open(struct image_dir *dir, const char *name, struct image_raw **ret)
{
	const struct archive_member *m = dir->source ? source_find(dir->source, name) : NULL;
	uint64_t size = m ? m->size : 0;
	int fd = -1;

	if (dir->source && !m)
		return -ENOENT;
	if (!m && (fd = open_in_directory(dir, name, &size)) < 0)
		return fd;
	struct image_raw *raw = calloc(1, sizeof(*raw));
	if (!raw) {
		if (fd >= 0)
			close(fd);
		return -ENOMEM;
	}
	*raw = (struct image_raw){ .dir = dir, .fd = fd, .offset = m ? m->offset : 0, .size = size };
	snprintf(raw->name, sizeof(raw->name), "%s", name);
	*ret = raw;
	return 0;
}

void image_raw_close(struct image_raw *raw)
{
	if (!raw)
		return;
	if (raw->fd >= 0)
		close(raw->fd);
	free(raw);
}

bool image_dir_has(struct image_dir *dir, const char *name)
{
	return dir->source ? source_find(dir->source, name) != NULL : faccessat(dir->fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

const char *image_raw_name(const struct image_raw *raw)
{
	return raw->name;
}

uint64_t image_raw_size(const struct image_raw *raw)
{
	return raw->size;
}

int image_raw_fd(const struct image_raw *raw, uint64_t *ret_offset)
{
	*ret_offset = raw->offset;
	return raw->fd >= 0 ? raw->fd : source_plain(raw->dir->source);
}

bool image_is_directory(const struct image_dir *dir)
{
	return !dir->source;
}

bool image_is_packed(const struct image_dir *dir)
{
	return dir->source && source_plain(dir->source) < 0;
}

bool image_is_sequential(const struct image_dir *dir)
{
	return dir->source && source_is_sequential(dir->source);
}

const char *image_packing_name(const struct image_dir *dir)
{
	return dir->source ? packing_name(source_kind(dir->source)) : "none";
}

int image_reader_new(struct image_dir *dir, struct image_reader **ret)
{
	struct image_reader *reader = calloc(1, sizeof(*reader));

	if (!reader)
		return -ENOMEM;
	if (dir->source && !(reader->source = source_reader_new(dir->source))) {
		free(reader);
		return -ENOMEM;
	}
	*ret = reader;
	return 0;
}

int image_raw_reader_new(const struct image_raw *raw, struct image_reader **ret)
{
	return image_reader_new(raw->dir, ret);
}

bool image_raw_is_beside(const struct image_raw *a, const struct image_raw *b)
{
	return a->dir == b->dir;
}

void image_reader_free(struct image_reader *reader)
{
	if (!reader)
		return;
	source_reader_free(reader->source);
	free(reader);
}

int image_raw_read(const struct image_raw *raw, struct image_reader *reader, void *to, size_t size, uint64_t at)
{
	if (at > raw->size || size > raw->size - at)
		return -EBADMSG;
	if (raw->fd < 0)
		return source_read(reader ? reader->source : raw->dir->reader, to, size, raw->offset + at);
	return read_whole(raw->fd, to, size, raw->offset + at);
}

size_t image_raw_adopt(const struct image_raw *raw, int *fds, size_t max)
{
	return raw->fd < 0 ? raw->dir->source->ops->adopt(raw->dir->source, fds, max) : 0;
}

const unsigned char *image_raw_digest(const struct image_raw *raw, uint64_t block, size_t index)
{
	const struct archive_member *m = raw->fd < 0 ? source_find(raw->dir->source, raw->name) : NULL;

	if (!m || !m->digests || (block && block != IMAGE_BLOCK))
		return NULL;
	return m->digests + 16 * (block ? 1 + index : 0);
}

/* ---- files of messages ---- */

/* More of it into the buffer, which is empty. */
static int refill(struct image_file *file)
{
	ssize_t n = 0;

	if (file->reader) {
		n = (ssize_t)MIN((uint64_t)BUFFER_SIZE, file->size - file->position);
		int r = n ? source_read(file->reader, file->buffer, (size_t)n, file->offset + file->position) : 0;
		if (r)
			return r;
	} else if (file->fd >= 0) {
		n = read(file->fd, file->buffer, BUFFER_SIZE);
	}
	if (n <= 0)
		return n < 0 ? -errno : -EBADMSG;
	file->used = (size_t)n;
	file->at = 0;
	return 0;
}

int image_read_bytes(struct image_file *file, void *data, size_t size)
{
	char *to = data;

	while (size) {
		if (file->at == file->used) {
			int r = refill(file);
			if (r)
				return r;
		}
		size_t n = MIN(size, file->used - file->at);
		memcpy(to, file->buffer + file->at, n);
		file->at += n;
		file->position += n;
		to += n;
		size -= n;
	}
	return 0;
}

size_t image_read_some(struct image_file *file, void *data, size_t size)
{
	uint64_t left = file->size - file->position;
	size_t n = (size_t)MIN((uint64_t)size, left);

	return n && image_read_bytes(file, data, n) == 0 ? n : 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct kept *)a)->name, ((const struct kept *)b)->name);
}

bool image_dir_keep(struct image_dir *dir, const char *name, unsigned char *data, size_t size)
{
	struct kept *k = strlen(name) < sizeof(k->name) ? VEC_PUSH(&dir->kept) : NULL;

	if (!k)
		return false;
	snprintf(k->name, sizeof(k->name), "%s", name);
	k->data = data;
	k->size = size;
	dir->sorted = false;
	return true;
}

/* The first time it is opened: it is seldom opened again. */
static bool take_kept(struct image_dir *dir, struct image_file *file)
{
	struct kept key, *k;

	if (!dir->kept.count)
		return false;
	if (!dir->sorted)
		qsort(dir->kept.data, dir->kept.count, sizeof(*dir->kept.data), by_name);
	dir->sorted = true;
	memcpy(key.name, file->name, sizeof(key.name));
	k = bsearch(&key, dir->kept.data, dir->kept.count, sizeof(*dir->kept.data), by_name);
	if (!k || !k->data)
		return false;
	file->buffer = TAKE_PTR(k->data);
	file->size = file->used = k->size;
	return true;
}

static int open_member(struct image_dir *dir, struct image_file *file)
{
	const struct archive_member *m = source_find(dir->source, file->name);

	if (!m)
		return -ENOENT;
	file->size = m->size;
	file->offset = m->offset;
	bool whole = m->size <= WHOLE_MAX;
	file->buffer = malloc(whole ? m->size + 1 : BUFFER_SIZE);
	if (!file->buffer || (!whole && !(file->reader = source_reader_new(dir->source))))
		return -ENOMEM;
	if (!whole)
		return 0;
	file->used = m->size;
	if (!m->data)
		return source_read(dir->reader, file->buffer, m->size, m->offset);
	memcpy(file->buffer, m->data, m->size);
	return 0;
}

static int open_for_reading(struct image_dir *dir, const char *name, struct image_file **ret)
{
	struct image_file *file = calloc(1, sizeof(*file));

	if (!file)
		return -ENOMEM;
	*file = (struct image_file){ .dir = dir, .fd = -1 };
	snprintf(file->name, sizeof(file->name), "%s", name);
	*ret = file;
	if (take_kept(dir, file))
		return 0;
	int r;
	if (dir->source) {
		r = open_member(dir, file);
	} else {
		file->fd = open_in_directory(dir, name, &file->size);
		r = file->fd < 0 ? file->fd : 0;
	}
	if (!r && !dir->source) {
		file->buffer = malloc(BUFFER_SIZE);
		r = file->buffer ? 0 : -ENOMEM;
	}
	if (r)
		image_file_free(file);
	return r;
}

int image_open_raw(struct image_dir *dir, const char *name, struct image_file **ret)
{
	return open_for_reading(dir, name, ret);
}

int image_open(struct image_dir *dir, const char *name, uint32_t magic, struct image_file **ret)
{
	struct image_file *file;
	uint32_t word = 0;
	int r = open_for_reading(dir, name, &file);

	if (r)
		return r;
	r = image_read_bytes(file, &word, 4);
	if (!r && magic != IMAGE_MAGIC_INVENTORY) {
		if (word != IMAGE_MAGIC_COMMON)
			r = -EBADMSG;
		else
			r = image_read_bytes(file, &word, 4);
	}
	if (!r && word != magic)
		r = -EBADMSG;
	if (r) {
		image_file_free(file);
		return r;
	}
	*ret = file;
	return 0;
}

/* Memory as malloc gives it, so that messages are freed as any other. */
static void *take_of_budget(void *budget, size_t size)
{
	size_t *left = budget;

	if (size > *left)
		return NULL;
	*left -= size;
	return malloc(size);
}

static void give_back(void *budget, void *p)
{
	free(p);
}

int image_read_message(struct image_file *file, const ProtobufCMessageDescriptor *descriptor, ProtobufCMessage **ret)
{
	uint32_t size;

	if (file->position == file->size)
		return 0;
	int r = image_read_bytes(file, &size, 4);
	if (r)
		return r;
	if (size > IMAGE_RECORD_MAX || size > file->size - file->position)
		return -EBADMSG;
	_cleanup_free_ unsigned char *packed = malloc(size + 1UL);
	if (!packed)
		return -ENOMEM;
	r = image_read_bytes(file, packed, size);
	if (r)
		return r;
	size_t budget = MESSAGE_MAX;
	ProtobufCAllocator allocator = { take_of_budget, give_back, &budget };
	*ret = protobuf_c_message_unpack(descriptor, &allocator, size, packed);
	return *ret ? 1 : -EBADMSG;
}

int image_dir_list(struct image_dir *dir, int (*found)(void *data, const char *name, uint64_t size), void *data)
{
	const struct archive_member *m;
	struct dirent *entry;
	struct stat st;
	int r = 0;

	for (size_t i = 0; dir->source && !r && (m = source_member(dir->source, i)); i++)
		r = found(data, m->name, m->size);
	if (dir->source)
		return r;
	int fd = openat(dir->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *stream = fd < 0 ? NULL : fdopendir(fd);
	if (!stream) {
		r = -errno;
		if (fd >= 0)
			close(fd);
		return r;
	}
	while (!r && (entry = readdir(stream)))
		if (fstatat(dir->fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
			r = found(data, entry->d_name, (uint64_t)st.st_size);
	closedir(stream);
	return r;
}
