/* The writing side of image.h. */
#include "image/private.h"
#include "image/store/store.h"

#include <fcntl.h>
#include <jansson.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define BORROWED_MIN (256UL << 10)
#define BORROWED_MAX 1000 /* descriptors */

static struct image_dir *dir_new(int fd)
{
	struct image_dir *dir = calloc(1, sizeof(*dir));

	if (!dir)
		return NULL;
	dir->fd = fd;
	pthread_mutex_init(&dir->lock, NULL);
	return dir;
}

static int dir_new_at(const char *path, struct image_dir **ret)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret = dir_new(fd);
	if (*ret)
		return 0;
	close(fd);
	return -ENOMEM;
}

int image_dir_create(const char *path, struct image_dir **ret)
{
	struct image_dir *dir = NULL;
	int r = dir_new_at(path, &dir);

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

int image_archive_create(const char *path, const struct packing *packing, struct image_dir **ret)
{
	struct image_dir *dir = dir_new(-1);
	int r = dir ? sink_new(path, packing, &dir->sink) : -ENOMEM;

	if (r)
		image_dir_free(dir);
	else
		*ret = dir;
	return r;
}

int image_store_create(const char *path, const struct packing *packing, struct image_dir **ret)
{
	struct image_dir *dir = dir_new(-1);
	int r = dir ? store_sink_new(path, packing, &dir->sink) : -ENOMEM;

	if (r)
		image_dir_free(dir);
	else
		*ret = dir;
	return r;
}

static int open_stored(const char *path, const char *key, struct image_dir **ret)
{
	struct image_dir *dir = dir_new(-1);
	int r = dir ? store_source_open(path, key, &dir->source) : -ENOMEM;

	if (!r && !(dir->reader = source_reader_new(dir->source)))
		r = -ENOMEM;
	if (r)
		image_dir_free(dir);
	else
		*ret = dir;
	return r;
}

const char *image_dir_damage(const struct image_dir *dir)
{
	return dir->source && dir->source->damage[0] ? dir->source->damage : NULL;
}

/* A directory, or an archive in parts that it holds; a file is an archive. */
int image_dir_open(const char *path, struct image_dir **ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	return fd < 0 ? -errno : image_dir_open_fd(fd, ret);
}

int image_dir_open_fd(int fd, struct image_dir **ret)
{
	struct stat st;
	struct image_dir *dir = dir_new(fd);
	int r = dir && fstat(fd, &st) == 0 ? 0 : dir ? -errno : -ENOMEM;
	if (!r) {
		dir->device = st.st_dev;
		dir->inode = st.st_ino;
	}
	if (!r && S_ISDIR(st.st_mode)) {
		r = source_open_parts(fd, &dir->source);
		r = r == -ENOENT ? 0 : r;
	} else if (!r) {
		r = S_ISREG(st.st_mode) ? source_open(fd, &dir->source) : -EMEDIUMTYPE;
		if (!r)
			dir->fd = -1;
	}
	if (!r && dir->source && !(dir->reader = source_reader_new(dir->source)))
		r = -ENOMEM;
	if (!r) {
		*ret = dir;
		return 0;
	}
	if (dir)
		image_dir_free(dir);
	else
		close(fd);
	return r;
}

int image_dir_open_with(const char *path, const char *key, struct image_dir **ret)
{
	return store_is_path(path) ? open_stored(path, key, ret) : image_dir_open(path, ret);
}

int image_dir_create_nowhere(struct image_dir **ret)
{
	int r = dir_new_at("/", ret);

	if (!r)
		(*ret)->nowhere = true;
	return r;
}

void image_file_free(struct image_file *file)
{
	if (file->fd >= 0)
		close(file->fd);
	if (file->hash)
		XXH3_freeState(file->hash);
	source_reader_free(file->reader);
	VEC_FOREACH(&file->borrowed, b)
		close(b->fd);
	VEC_FREE(&file->borrowed);
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
		image_file_free(dir->files);
		dir->files = next;
	}
	VEC_FREE(&dir->pending);
	free(dir->parent_link);
	sink_free(dir->sink);
	source_reader_free(dir->reader);
	source_free(dir->source);
	if (dir->fd >= 0)
		close(dir->fd);
	pthread_mutex_destroy(&dir->lock);
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

int image_file_open(struct image_file *file)
{
	struct image_dir *dir = file->dir;

	if (file->fd >= 0)
		return 0;
	file->fd = dir->nowhere ? open("/dev/null", O_WRONLY | O_CLOEXEC) :
				  openat(dir->sink ? sink_directory(dir->sink) : dir->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	/* It is copied at the commit, so it may be anywhere. */
	if (file->fd < 0 && dir->sink)
		file->fd = memfd_create("image", MFD_CLOEXEC);
	return file->fd < 0 ? -errno : 0;
}

int image_scratch(struct image_dir *dir)
{
	int fd = dir->nowhere ? -1 : openat(dir->sink ? sink_directory(dir->sink) : dir->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	return fd >= 0 ? fd : dir->nowhere ? -EOPNOTSUPP : -errno;
}

int image_take_fd(struct image_file *file, int fd)
{
	if (file->dir->nowhere || file->dir->sink || file->fd >= 0)
		return -EOPNOTSUPP;
	file->fd = fd;
	return 0;
}

void image_dir_read_at_once(struct image_dir *dir)
{
	dir->at_once = true;
}

static int file_flush(struct image_file *file)
{
	int r = image_file_open(file);

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

	if (!size)
		return 0;
	/* What has borrowed parts stays together, in memory. */
	if (file->used + size > BUFFER_SIZE && !file->borrowed.count) { /* too large to be written as one */
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
	if (size > BUFFER_SIZE && !file->borrowed.count) {
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

static int copy_from(struct image_file *file, int fd, uint64_t at, uint64_t size)
{
	_cleanup_free_ char *buffer = malloc(BUFFER_SIZE);
	int r = buffer ? 0 : -ENOMEM;

	while (!r && size) {
		ssize_t n = pread(fd, buffer, (size_t)MIN((uint64_t)BUFFER_SIZE, size), (off_t)at);
		if (n <= 0)
			return n ? -errno : -EIO;
		r = image_write_bytes(file, buffer, (size_t)n);
		at += (uint64_t)n;
		size -= (uint64_t)n;
	}
	return r;
}

/* Much of it into an archive need not be kept anywhere until it is there. */
int image_write_from(struct image_file *file, int fd, uint64_t at, uint64_t size)
{
	struct borrowed *b;

	if (!file->dir->sink || file->dir->at_once || file->fd >= 0 || size < BORROWED_MIN || file->borrowed.count == BORROWED_MAX)
		return copy_from(file, fd, at, size);
	int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0 || !(b = VEC_PUSH(&file->borrowed))) {
		if (own >= 0)
			close(own);
		return copy_from(file, fd, at, size);
	}
	*b = (struct borrowed){ own, at, size, file->used };
	file->size += size;
	return 0;
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

static void set_digest(struct image_file *file, XXH128_hash_t digest)
{
	snprintf(file->digest, sizeof(file->digest), "%016llx%016llx", (unsigned long long)digest.high64, (unsigned long long)digest.low64);
}

/* The end of a file: what is in the buffer goes out, the checksum is known. Runs in a worker. */
static void store(void *argument)
{
	struct image_file *file = argument;

	if (file->hash)
		XXH3_128bits_update(file->hash, file->buffer, file->used);
	set_digest(file, digest_of(file));
	/* A small one of an archive stays in memory until the commit. */
	if (file->dir->sink && file->fd < 0)
		return;
	file->result = file_flush(file);
	free(file->buffer);
	file->buffer = NULL;
}

int image_close(struct image_file *file)
{
	if (!file->writing) {
		image_file_free(file);
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
	if (!dir->lineage.id[0] && image_id_make(dir->lineage.id)) {
		json_decref(list);
		return -EIO;
	}
	json_t *root = json_pack("{s:i, s:s, s:o}", "format", 1, "id", dir->lineage.id, "files", list);
	if (root && dir->lineage.dropped)
		json_object_set_new(root, "dropped", json_true());
	if (root && dir->lineage.parent[0])
		json_object_set_new(root, "parent", json_string(dir->lineage.parent));
	_cleanup_free_ char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
	json_decref(root);
	if (!text)
		return -ENOMEM;
	int r = image_create_raw(dir, IMAGE_MANIFEST, &manifest);
	if (!r)
		r = image_write_bytes(manifest, text, strlen(text));
	return r ? r : image_close(manifest);
}

static int append_borrowed_part(struct image_file *file, const struct borrowed *b, char *buffer)
{
	int r = 0;

	for (uint64_t done = 0; !r && done < b->size;) {
		ssize_t n = pread(b->fd, buffer, (size_t)MIN((uint64_t)BUFFER_SIZE, b->size - done), (off_t)(b->at + done));
		if (n <= 0)
			return n ? -errno : -EIO;
		XXH3_128bits_update(file->hash, buffer, (size_t)n);
		r = sink_append(file->dir->sink, buffer, (size_t)n);
		done += (uint64_t)n;
	}
	return r;
}

/* The checksum is taken on the way: it is needed only by the manifest, which follows. */
static int append_borrowed(struct image_dir *dir, struct image_file *file)
{
	_cleanup_free_ char *buffer = malloc(BUFFER_SIZE);
	size_t done = 0;
	int r = buffer && (file->hash = XXH3_createState()) ? sink_member(dir->sink, file->name, file->size) : -ENOMEM;

	if (!r)
		XXH3_128bits_reset(file->hash);
	for (size_t i = 0; !r && i <= file->borrowed.count; i++) {
		const struct borrowed *b = i < file->borrowed.count ? &file->borrowed.data[i] : NULL;
		size_t until = b ? b->before : file->used;
		XXH3_128bits_update(file->hash, file->buffer + done, until - done);
		r = sink_append(dir->sink, file->buffer + done, until - done);
		done = until;
		if (!r && b)
			r = append_borrowed_part(file, b, buffer);
	}
	if (!r)
		set_digest(file, XXH3_128bits_digest(file->hash));
	return r;
}

/* What was kept until the end: in memory, or in a file without a name. */
static int append_file(struct image_dir *dir, struct image_file *file)
{
	_cleanup_free_ char *buffer = NULL;

	if (file->borrowed.count)
		return append_borrowed(dir, file);
	buffer = file->fd >= 0 ? malloc(BUFFER_SIZE) : NULL;
	int r = sink_member(dir->sink, file->name, file->size);

	if (!r && file->fd < 0)
		return sink_append(dir->sink, file->buffer, file->size);
	if (!r && !buffer)
		r = -ENOMEM;
	for (uint64_t at = 0; !r && at < file->size;) {
		ssize_t n = pread(file->fd, buffer, (size_t)MIN((uint64_t)BUFFER_SIZE, file->size - at), (off_t)at);
		r = n > 0 ? sink_append(dir->sink, buffer, (size_t)n) : n ? -errno : -EIO;
		at += (uint64_t)MAX(n, 0);
	}
	return r;
}

static int store_manifest(struct image_dir *dir)
{
	int r = write_manifest(dir);

	if (dir->workers)
		workers_wait(dir->workers);
	return r ? r : dir->files->result; /* the manifest's */
}

/* The manifest last: some checksums are known only when their files are written. */
static int commit_archive(struct image_dir *dir)
{
	int r = 0;

	for (struct image_file *f = dir->files; f && !r; f = f->next)
		if (!f->blocks)
			r = append_file(dir, f);
	if (!r)
		r = store_manifest(dir);
	if (!r)
		r = append_file(dir, dir->files);
	return r ? r : sink_commit(dir->sink);
}

struct making {
	struct image_dir *dir;
	int result;
};

static void make_manifest(void *argument)
{
	struct making *m = argument;

	m->result = write_manifest(m->dir);
}

/* Names all but the two files that make it a checkpoint, while a worker writes the manifest, which comes before them in the list. */
static int link_parts(struct image_dir *dir, struct image_file *parts)
{
	int r = 0;

	for (struct image_file *f = parts; f && !r; f = f->next)
		if (strcmp(f->name, "inventory.img") != 0)
			r = file_link(dir, f);
	return r;
}

static int link_inventory(struct image_dir *dir)
{
	int r = 0;

	for (struct image_file *f = dir->files; f && !r; f = f->next)
		if (strcmp(f->name, "inventory.img") == 0)
			r = file_link(dir, f);
	return r;
}

static int commit_directory(struct image_dir *dir)
{
	struct image_file *parts = dir->files;
	struct making m = { dir, 0 };

	if (dir->workers)
		workers_submit_large(dir->workers, make_manifest, &m);
	else
		make_manifest(&m);
	int r = image_link_parent(dir);
	if (!r)
		r = link_parts(dir, parts);
	if (dir->workers)
		workers_wait(dir->workers);
	if (!r)
		r = m.result ? m.result : dir->files->result;
	if (!r)
		r = file_link(dir, dir->files); /* the manifest */
	return r ? r : link_inventory(dir);
}

int image_dir_commit(struct image_dir *dir)
{
	int r = 0;

	if (dir->workers)
		workers_wait(dir->workers);
	for (struct image_file *f = dir->files; f && !r; f = f->next)
		r = f->result;
	if (dir->sink)
		return r ? r : commit_archive(dir);
	if (!r)
		r = commit_directory(dir);
	if (r)
		image_dir_withdraw(dir);
	return r;
}

uint64_t image_dir_written(const struct image_dir *dir)
{
	uint64_t total = dir->sink ? sink_written(dir->sink) : 0;

	for (const struct image_file *f = dir->files; f && !dir->sink; f = f->next)
		total += f->size;
	return total;
}

void image_dir_withdraw(struct image_dir *dir)
{
	if (dir->sink) {
		sink_withdraw(dir->sink);
		return;
	}
	unlinkat(dir->fd, "inventory.img", 0);
	if (dir->parent_link)
		unlinkat(dir->fd, "parent", 0);
	for (struct image_file *f = dir->files; f; f = f->next)
		unlinkat(dir->fd, f->name, 0);
}

