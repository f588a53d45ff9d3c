/* See image.h. */
#include "image/image.h"

#include "base/workers.h"

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>
#include <xxhash.h>

#define BUFFER_SIZE (256u << 10)
/* What the message of one record may take in memory: its parts are larger than their encoding. */
#define MESSAGE_MAX (512UL << 20)

struct image_file {
	struct image_dir *dir;
	char name[64];
	int fd;
	bool writing;
	unsigned char *buffer;
	size_t used, at, room; /* of the buffer */
	int result;	       /* of a file that was written, once it is stored */
	uint64_t size; /* written so far, or the whole of one that is read */
	uint64_t position;
	XXH3_state_t *hash;
	char digest[33];
	XXH128_canonical_t *blocks; /* their digests, of a file that is written in blocks */
	size_t n_blocks;
	struct image_file *next;
};

/* A file that was read as a whole. */
struct kept {
	char name[64];
	unsigned char *data;
	size_t size;
};

struct image_dir {
	int fd;
	bool nowhere, sorted;
	struct workers *workers; /* or NULL */
	VEC(struct kept) kept;
	struct image_file *files; /* written ones, newest first */
};

static int dir_new(const char *path, struct image_dir **ret)
{
	struct image_dir *dir = calloc(1, sizeof(*dir));

	if (!dir)
		return -ENOMEM;
	dir->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir->fd < 0) {
		int r = -errno;
		free(dir);
		return r;
	}
	*ret = dir;
	return 0;
}

int image_dir_create(const char *path, struct image_dir **ret)
{
	struct image_dir *dir = NULL;
	int r = dir_new(path, &dir);

	if (r)
		return r;
	r = faccessat(dir->fd, "inventory.img", F_OK, 0) == 0 ? -EEXIST : 0;
	int fd = r ? -1 : openat(dir->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (!r && fd < 0)
		r = -errno;
	if (fd >= 0)
		close(fd);
	if (r)
		image_dir_free(dir);
	else
		*ret = dir;
	return r;
}

int image_dir_open(const char *path, struct image_dir **ret)
{
	return dir_new(path, ret);
}

int image_dir_create_nowhere(struct image_dir **ret)
{
	int r = dir_new("/", ret);

	if (!r)
		(*ret)->nowhere = true;
	return r;
}

static void file_free(struct image_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	if (file->hash)
		XXH3_freeState(file->hash);
	free(file->buffer);
	free(file->blocks);
	free(file);
}

void image_dir_free(struct image_dir *dir)
{
	if (!dir)
		return;
	VEC_FOREACH(&dir->kept, k)
		free(k->data);
	VEC_FREE(&dir->kept);
	while (dir->files) {
		struct image_file *next = dir->files->next;
		file_free(dir->files);
		dir->files = next;
	}
	close(dir->fd);
	free(dir);
}

static struct image_file *file_new(struct image_dir *dir, const char *name)
{
	struct image_file *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	*file = (struct image_file){ .dir = dir, .fd = -1 };
	snprintf(file->name, sizeof(file->name), "%s", name);
	return file;
}

static int write_all(int fd, const void *data, size_t size)
{
	const char *at = data;

	while (size) {
		ssize_t n = write(fd, at, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		size -= (size_t)n;
	}
	return 0;
}

static int file_open(struct image_file *file)
{
	if (file->fd >= 0)
		return 0;
	file->fd = file->dir->nowhere ? open("/dev/null", O_WRONLY | O_CLOEXEC) :
					openat(file->dir->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	return file->fd < 0 ? -errno : 0;
}

int image_scratch(struct image_dir *dir)
{
	int fd = dir->nowhere ? -1 : openat(dir->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	return fd >= 0 ? fd : dir->nowhere ? -EOPNOTSUPP : -errno;
}

int image_take_fd(struct image_file *file, int fd)
{
	if (file->dir->nowhere || file->fd >= 0)
		return -EOPNOTSUPP;
	file->fd = fd;
	return 0;
}

static int file_flush(struct image_file *file)
{
	int r = file_open(file);

	if (!r)
		r = write_all(file->fd, file->buffer, file->used);
	file->used = 0;
	return r;
}

/* Room for `size` more bytes in the buffer, which grows up to BUFFER_SIZE. */
static int buffer_reserve(struct image_file *file, size_t size)
{
	size_t need = file->used + size, room = MAX(file->room, 1024UL);

	if (need <= file->room)
		return 0;
	while (room < need)
		room *= 2;
	unsigned char *buffer = realloc(file->buffer, room);
	if (!buffer)
		return -ENOMEM;
	file->buffer = buffer;
	file->room = room;
	return 0;
}

int image_write_bytes(struct image_file *file, const void *data, size_t size)
{
	int r = 0;

	if (file->used + size > BUFFER_SIZE) { /* too large to be written as one */
		if (!file->hash) {
			if (!(file->hash = XXH3_createState()))
				return -ENOMEM;
			XXH3_128bits_reset(file->hash);
		}
		XXH3_128bits_update(file->hash, file->buffer, file->used);
		r = file_flush(file);
	}
	file->size += size;
	if (r)
		return r;
	if (size > BUFFER_SIZE) {
		XXH3_128bits_update(file->hash, data, size);
		return write_all(file->fd, data, size);
	}
	r = buffer_reserve(file, size);
	if (r)
		return r;
	memcpy(file->buffer + file->used, data, size);
	file->used += size;
	return 0;
}

int image_blocks_begin(struct image_file *file, uint64_t size)
{
	file->n_blocks = (size_t)MAX((size + IMAGE_BLOCK - 1) / IMAGE_BLOCK, 1UL);
	file->blocks = calloc(file->n_blocks, sizeof(*file->blocks));
	file->size = size;
	if (!file->blocks)
		return -ENOMEM;
	int r = file_open(file);
	if (r)
		return r;
	XXH128_canonicalFromHash(&file->blocks[0], XXH3_128bits(NULL, 0));
	return 0;
}

int image_block_begin(struct image_block *b, struct image_file *file, size_t index)
{
	*b = (struct image_block){ .file = file, .index = index, .position = index * IMAGE_BLOCK, .hash = XXH3_createState() };
	if (!b->hash)
		return -ENOMEM;
	XXH3_128bits_reset(b->hash);
	return 0;
}

int image_block_write(struct image_block *b, const void *data, size_t size)
{
	const char *at = data;

	XXH3_128bits_update(b->hash, data, size);
	while (size) {
		ssize_t n = pwrite(b->file->fd, at, size, (off_t)b->position);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			at += n;
			size -= (size_t)n;
			b->position += (uint64_t)n;
		}
	}
	return 0;
}

void image_block_known(struct image_block *b, const void *data, size_t size)
{
	XXH3_128bits_update(b->hash, data, size);
	b->position += size;
}

void image_block_end(struct image_block *b)
{
	XXH128_canonicalFromHash(&b->file->blocks[b->index], XXH3_128bits_digest(b->hash));
	XXH3_freeState(b->hash);
}

static XXH128_hash_t digest_of(const struct image_file *file)
{
	if (!file->blocks)
		return file->hash ? XXH3_128bits_digest(file->hash) : XXH3_128bits(file->buffer, file->used);
	if (file->n_blocks == 1)
		return XXH128_hashFromCanonical(&file->blocks[0]);
	return XXH3_128bits(file->blocks, file->n_blocks * sizeof(*file->blocks));
}

int image_create_raw(struct image_dir *dir, const char *name, struct image_file **ret)
{
	struct image_file *file = file_new(dir, name);

	if (!file)
		return -ENOMEM;
	file->writing = true;
	file->next = dir->files;
	dir->files = file;
	*ret = file;
	return 0;
}

int image_create(struct image_dir *dir, const char *name, uint32_t magic, struct image_file **ret)
{
	uint32_t head[2] = { IMAGE_MAGIC_COMMON, magic };
	bool alone = magic == IMAGE_MAGIC_INVENTORY;
	int r = image_create_raw(dir, name, ret);

	return r ? r : image_write_bytes(*ret, head + alone, alone ? 4 : 8);
}

int image_write_message(struct image_file *file, const ProtobufCMessage *message)
{
	uint32_t size = (uint32_t)protobuf_c_message_get_packed_size(message);
	_cleanup_free_ unsigned char *packed = malloc(size + 4UL);

	if (!packed)
		return -ENOMEM;
	memcpy(packed, &size, 4);
	protobuf_c_message_pack(message, packed + 4);
	return image_write_bytes(file, packed, size + 4UL);
}

/* The end of a file: what is in the buffer goes out, the checksum is known. Runs in a worker. */
static void store(void *argument)
{
	struct image_file *file = argument;

	if (file->hash)
		XXH3_128bits_update(file->hash, file->buffer, file->used);
	XXH128_hash_t digest = digest_of(file);
	snprintf(file->digest, sizeof(file->digest), "%016llx%016llx", (unsigned long long)digest.high64,
		 (unsigned long long)digest.low64);
	file->result = file_flush(file);
	free(file->buffer);
	file->buffer = NULL;
}

int image_close(struct image_file *file)
{
	if (!file->writing) {
		file_free(file);
		return 0;
	}
	/* Small files by a worker, which tells at the commit. */
	if (file->dir->workers && file->fd < 0) {
		workers_submit(file->dir->workers, store, file);
		return 0;
	}
	store(file);
	return file->result;
}

void image_dir_set_workers(struct image_dir *dir, struct workers *workers)
{
	dir->workers = workers;
}

static int file_link(struct image_dir *dir, const struct image_file *file)
{
	char path[64];

	/* The short way needs CAP_DAC_READ_SEARCH. */
	if (linkat(file->fd, "", dir->fd, file->name, AT_EMPTY_PATH) == 0)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file->fd);
	if (linkat(AT_FDCWD, path, dir->fd, file->name, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	/* Left by a commit that was cut off: without inventory.img it belongs to no checkpoint. */
	if (errno == EEXIST && unlinkat(dir->fd, file->name, 0) == 0 &&
	    linkat(AT_FDCWD, path, dir->fd, file->name, AT_SYMLINK_FOLLOW) == 0)
		return 0;
	return -errno;
}

static int write_manifest(struct image_dir *dir)
{
	json_t *list = json_array();
	struct image_file *manifest;

	for (struct image_file *f = dir->files; f; f = f->next) {
		json_t *item = json_pack("{s:s, s:I, s:s}", "name", f->name, "size", (json_int_t)f->size, "xxh128", f->digest);
		if (item && f->n_blocks > 1)
			json_object_set_new(item, "block", json_integer(IMAGE_BLOCK));
		json_array_append_new(list, item);
	}
	json_t *root = json_pack("{s:i, s:o}", "format", 1, "files", list);
	_cleanup_free_ char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
	json_decref(root);
	if (!text)
		return -ENOMEM;
	int r = image_create_raw(dir, IMAGE_MANIFEST, &manifest);
	if (!r)
		r = image_write_bytes(manifest, text, strlen(text));
	return r ? r : image_close(manifest);
}

int image_dir_commit(struct image_dir *dir)
{
	int r = 0;

	if (dir->workers)
		workers_wait(dir->workers);
	for (struct image_file *f = dir->files; f && !r; f = f->next)
		r = f->result;
	if (!r)
		r = write_manifest(dir);
	if (dir->workers)
		workers_wait(dir->workers);
	if (!r)
		r = dir->files->result; /* the manifest's */

	for (int last = 0; last < 2; last++)
		for (struct image_file *f = dir->files; f && !r; f = f->next)
			if ((strcmp(f->name, "inventory.img") == 0) == last)
				r = file_link(dir, f);
	if (r)
		image_dir_withdraw(dir);
	return r;
}

void image_dir_withdraw(struct image_dir *dir)
{
	unlinkat(dir->fd, "inventory.img", 0);
	for (struct image_file *f = dir->files; f; f = f->next)
		unlinkat(dir->fd, f->name, 0);
}

int image_open_raw(struct image_dir *dir, const char *name)
{
	int fd = openat(dir->fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	int r = fd < 0 || fstat(fd, &st) < 0 ? -errno : S_ISREG(st.st_mode) ? fd : -EBADMSG;

	if (r < 0 && fd >= 0)
		close(fd);
	return r;
}

int image_read_bytes(struct image_file *file, void *data, size_t size)
{
	char *to = data;

	while (size) {
		if (file->at == file->used) {
			ssize_t n = file->fd < 0 ? 0 : read(file->fd, file->buffer, BUFFER_SIZE);
			if (n <= 0)
				return n < 0 ? -errno : -EBADMSG;
			file->used = (size_t)n;
			file->at = 0;
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

static int open_for_reading(struct image_dir *dir, const char *name, struct image_file **ret)
{
	struct image_file *file = calloc(1, sizeof(*file));
	struct stat st;

	if (!file)
		return -ENOMEM;
	*file = (struct image_file){ .dir = dir, .fd = -1 };
	snprintf(file->name, sizeof(file->name), "%s", name);
	*ret = file;
	if (take_kept(dir, file))
		return 0;
	file->fd = image_open_raw(dir, name);
	int r = file->fd < 0 ? file->fd : fstat(file->fd, &st) < 0 ? -errno : 0;
	if (!r) {
		file->size = (uint64_t)st.st_size;
		file->buffer = malloc(BUFFER_SIZE);
		r = file->buffer ? 0 : -ENOMEM;
	}
	if (r)
		file_free(file);
	return r;
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
		file_free(file);
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
