/*
 * The content of a file system in memory as a tar file (POSIX pax, gzip): what tar(1) reads, and CRIU with it. Owners, times, extended attributes, hard
 * links, devices, and files with holes as GNU tar has them (sparse 1.0). A socket, which tar files can't hold, is an empty file with a record of ours.
 *
 * Files that have no name any more are not here: kinds/ghost.c.
 */
#include "engine/ns/mnt.h"

#include "image/image.h"
#include "image/tar.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <zlib.h>

#define BUFFER (256UL << 10)
#define DEPTH_MAX 1000
#define FASTEST 1

struct link {
	ino_t ino;
	char *path;
};

struct packing_tree {
	struct image_file *to;
	struct error *e;
	z_stream z;
	unsigned char out[BUFFER], in[BUFFER];
	VEC(struct link) links; /* files with several names, by the first */
	dev_t dev;
	char path[PATH_MAX]; /* of what is looked at */
};

/* Records of the member that comes next. */
struct records {
	char *data;
	size_t count, capacity;
};

static int fail(struct packing_tree *p, int r, const char *what)
{
	return error_errno(p->e, r, "%s (%.300s) %s", "a file in memory that only the tree has", p->path, what);
}

static int put(struct packing_tree *p, const void *data, size_t size, int flush)
{
	p->z.next_in = (unsigned char *)(uintptr_t)data;
	p->z.avail_in = (uInt)size;
	do {
		p->z.next_out = p->out;
		p->z.avail_out = BUFFER;
		int s = deflate(&p->z, flush);
		if (s != Z_OK && s != Z_STREAM_END && s != Z_BUF_ERROR)
			return error_set(p->e, -EIO, "cannot compress");
		int r = image_write_bytes(p->to, p->out, BUFFER - p->z.avail_out);
		if (r)
			return error_errno(p->e, r, "cannot write the content of a file system");
	} while (!p->z.avail_out);
	return 0;
}

static int put_filler(struct packing_tree *p, uint64_t size)
{
	static const unsigned char zeros[TAR_BLOCK];

	return put(p, zeros, (size_t)(tar_filled(size) - size), Z_NO_FLUSH);
}

/* "LENGTH NAME=VALUE\n", where the length counts itself. */
static int add_record(struct records *all, const char *name, const void *value, size_t size)
{
	const size_t rest = 1 + strlen(name) + 1 + size + 1;
	size_t length = rest + 1;

	for (char digits[24]; (size_t)snprintf(digits, sizeof(digits), "%zu", length) + rest != length;)
		length = (size_t)snprintf(digits, sizeof(digits), "%zu", length) + rest;
	if (!vec_reserve((void **)&all->data, &all->capacity, all->count + length + 1, 1))
		return -ENOMEM;
	all->count += (size_t)sprintf(all->data + all->count, "%zu %s=", length, name);
	memcpy(all->data + all->count, value, size);
	all->count += size;
	all->data[all->count++] = '\n';
	return 0;
}

static int add_text(struct records *all, const char *name, const char *text)
{
	return add_record(all, name, text, strlen(text));
}

static int add_number(struct records *all, const char *name, uint64_t number)
{
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)number);
	return add_text(all, name, text);
}

/* `at`: an O_PATH descriptor of the file. */
static int add_attributes(struct records *all, int at)
{
	_cleanup_free_ char *names = NULL, *value = NULL;
	char path[64], record[XATTR_NAME_MAX + 32];
	int r = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", at);
	ssize_t size = listxattr(path, NULL, 0);
	if (size <= 0)
		return size < 0 && errno != ENOTSUP && errno != ENOSYS ? -errno : 0;
	names = malloc((size_t)size);
	value = malloc(XATTR_SIZE_MAX);
	if (!names || !value)
		return -ENOMEM;
	size = listxattr(path, names, (size_t)size);
	for (char *name = names; !r && name < names + size; name += strlen(name) + 1) {
		ssize_t n = getxattr(path, name, value, XATTR_SIZE_MAX);
		if (n < 0)
			return -errno;
		snprintf(record, sizeof(record), "SCHILY.xattr.%s", name);
		r = add_record(all, record, value, (size_t)n);
	}
	return size < 0 ? -errno : r;
}

static int write_head(struct packing_tree *p, struct records *records, const struct tar_entry *entry)
{
	unsigned char head[TAR_BLOCK];
	struct tar_entry x = { .type = 'x', .name = "PaxHeaders/x", .mode = 0600, .size = records->count };

	tar_head_of(head, &x);
	int r = put(p, head, sizeof(head), Z_NO_FLUSH);
	if (!r)
		r = put(p, records->data, records->count, Z_NO_FLUSH);
	if (!r)
		r = put_filler(p, records->count);
	tar_head_of(head, entry);
	return r ? r : put(p, head, sizeof(head), Z_NO_FLUSH);
}

/* What every member has. */
static int describe(struct packing_tree *p, int at, const struct stat *st, struct records *all, struct tar_entry *entry)
{
	char time[48];

	snprintf(time, sizeof(time), "%lld.%09ld", (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
	snprintf(entry->name, sizeof(entry->name), "%.100s", p->path);
	entry->mode = st->st_mode & 07777;
	entry->uid = st->st_uid;
	entry->gid = st->st_gid;
	entry->mtime = st->st_mtim.tv_sec;
	int r = add_text(all, "path", p->path);
	if (!r)
		r = add_text(all, "mtime", time);
	snprintf(time, sizeof(time), "%lld.%09ld", (long long)st->st_atim.tv_sec, st->st_atim.tv_nsec);
	if (!r)
		r = add_text(all, "atime", time);
	if (!r)
		r = add_number(all, "uid", st->st_uid);
	if (!r)
		r = add_number(all, "gid", st->st_gid);
	return r ? r : add_attributes(all, at);
}

/* ---- content ---- */

struct extent {
	uint64_t at, size;
};
struct extents {
	VEC(struct extent) list;
	uint64_t bytes;
};

static int find_extents(int fd, uint64_t size, struct extents *x)
{
	for (off_t at = 0; (uint64_t)at < size;) {
		off_t from = lseek(fd, at, SEEK_DATA), to = from < 0 ? from : lseek(fd, from, SEEK_HOLE);
		if (from < 0 && errno == ENXIO)
			break;
		if (from < 0 || to < 0)
			return -errno;
		to = (off_t)MIN((uint64_t)to, size);
		if (from >= to)
			break;
		struct extent *slot = VEC_PUSH(&x->list);
		if (!slot)
			return -ENOMEM;
		slot->at = (uint64_t)from;
		slot->size = (uint64_t)(to - from);
		x->bytes += slot->size;
		at = to;
	}
	return 0;
}

/* The places of what follows, each in a line, after their number; a block is filled up. */
static int make_map(const struct extents *x, uint64_t size, struct records *ret)
{
	if (!vec_reserve((void **)&ret->data, &ret->capacity, 44 * (x->list.count + 2) + TAR_BLOCK, 1))
		return -ENOMEM;
	char *to = ret->data;
	to += sprintf(to, "%zu\n", x->list.count + 1);
	VEC_FOREACH(&x->list, e)
		to += sprintf(to, "%llu\n%llu\n", (unsigned long long)e->at, (unsigned long long)e->size);
	to += sprintf(to, "%llu\n0\n", (unsigned long long)size);
	ret->count = tar_filled((uint64_t)(to - ret->data));
	memset(to, 0, ret->count - (size_t)(to - ret->data));
	return 0;
}

static int put_content(struct packing_tree *p, int fd, const struct extents *x)
{
	int r = 0;

	VEC_FOREACH(&x->list, e)
		for (uint64_t done = 0; !r && done < e->size;) {
			ssize_t n = pread(fd, p->in, (size_t)MIN(e->size - done, BUFFER), (off_t)(e->at + done));
			if (n <= 0)
				return fail(p, n < 0 ? -errno : -EIO, "can't be read");
			r = put(p, p->in, (size_t)n, Z_NO_FLUSH);
			done += (uint64_t)n;
		}
	return r ? r : put_filler(p, x->bytes);
}

static int pack_file(struct packing_tree *p, int at, const struct stat *st, struct records *all, struct tar_entry *entry)
{
	char path[64];
	struct extents x = {};
	struct records map = {};
	const uint64_t size = (uint64_t)st->st_size;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", at);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOATIME);
	int r = fd < 0 ? -errno : find_extents(fd, size, &x);
	const bool sparse = !r && x.bytes < size;
	if (!r && sparse)
		r = make_map(&x, size, &map);
	if (!r && sparse)
		r = add_text(all, "GNU.sparse.major", "1");
	if (!r && sparse)
		r = add_text(all, "GNU.sparse.minor", "0");
	if (!r && sparse)
		r = add_text(all, "GNU.sparse.name", p->path);
	if (!r && sparse)
		r = add_number(all, "GNU.sparse.realsize", size);
	entry->type = '0';
	entry->size = x.bytes + map.count;
	if (!r)
		r = add_number(all, "size", entry->size);
	if (r)
		r = fail(p, r, "can't be read");
	if (!r)
		r = write_head(p, all, entry);
	if (!r)
		r = put(p, map.data, map.count, Z_NO_FLUSH);
	if (!r)
		r = put_content(p, fd, &x);
	VEC_FREE(&x.list);
	free(map.data);
	return r;
}

/* ---- the tree ---- */

/* The path that a file was written under already, or NULL; then it is noted. */
static const char *other_name(struct packing_tree *p, const struct stat *st, int *ret)
{
	if (st->st_nlink < 2)
		return NULL;
	VEC_FOREACH(&p->links, l)
		if (l->ino == st->st_ino)
			return l->path;
	struct link *slot = VEC_PUSH(&p->links);
	if (slot)
		*slot = (struct link){ st->st_ino, strdup(p->path) };
	if (!slot || !slot->path)
		*ret = -ENOMEM;
	return NULL;
}

/* Whose content is where it leads, or nowhere. */
static int pack_plain(struct packing_tree *p, int at, const struct stat *st, struct records *all, struct tar_entry *entry)
{
	char target[PATH_MAX];
	int r = 0;

	if (S_ISLNK(st->st_mode)) {
		ssize_t n = readlinkat(at, "", target, sizeof(target) - 1);
		if (n < 0)
			return fail(p, -errno, "can't be read");
		target[n] = '\0';
		entry->type = '2';
		snprintf(entry->link, sizeof(entry->link), "%.100s", target);
		r = add_text(all, "linkpath", target);
	} else if (S_ISSOCK(st->st_mode)) {
		entry->type = '0';
		r = add_text(all, "FERMATA.socket", "1");
	} else {
		entry->type = S_ISDIR(st->st_mode) ? '5' : S_ISCHR(st->st_mode) ? '3' : S_ISBLK(st->st_mode) ? '4' : '6';
		entry->major = major(st->st_rdev);
		entry->minor = minor(st->st_rdev);
	}
	return r ? fail(p, r, "can't be described") : write_head(p, all, entry);
}

static int pack_one(struct packing_tree *p, int at, const struct stat *st)
{
	struct records all = {};
	struct tar_entry entry = {};
	int r = describe(p, at, st, &all, &entry);
	const char *linked = r || S_ISDIR(st->st_mode) ? NULL : other_name(p, st, &r);

	if (r) {
		r = fail(p, r, "can't be described");
	} else if (linked) {
		entry.type = '1';
		snprintf(entry.link, sizeof(entry.link), "%.100s", linked);
		r = add_text(&all, "linkpath", linked) ? error_set(p->e, -ENOMEM, "out of memory") : write_head(p, &all, &entry);
	} else {
		r = S_ISREG(st->st_mode) ? pack_file(p, at, st, &all, &entry) : pack_plain(p, at, st, &all, &entry);
	}
	free(all.data);
	return r;
}

static int pack_dir(struct packing_tree *p, int at, int depth);

static int pack_name(struct packing_tree *p, int dir, const char *name, int depth)
{
	const size_t length = strlen(p->path);
	struct stat st;
	_cleanup_close_ int at = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (at < 0 || fstat(at, &st) < 0)
		return fail(p, -errno, "can't be looked at");
	if (length + strlen(name) + 3 > sizeof(p->path) || depth == DEPTH_MAX)
		return fail(p, -ENAMETOOLONG, "lies too deep");
	if (st.st_dev != p->dev)
		return 0;
	strcpy(p->path + length, name);
	if (S_ISDIR(st.st_mode))
		strcat(p->path, "/");
	int r = pack_one(p, at, &st);
	if (!r && S_ISDIR(st.st_mode))
		r = pack_dir(p, at, depth + 1);
	p->path[length] = '\0';
	return r;
}

static int pack_dir(struct packing_tree *p, int at, int depth)
{
	int fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME), r = 0;
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir)
		return fail(p, -errno, "can't be listed");
	for (const struct dirent *d; !r && (errno = 0, d = readdir(dir));)
		if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
			r = pack_name(p, fd, d->d_name, depth);
	if (!r && errno)
		r = fail(p, -errno, "can't be listed");
	closedir(dir);
	return r;
}

int tree_pack(int fd, struct image_file *to, struct error *e)
{
	static const unsigned char end[2 * TAR_BLOCK];
	struct packing_tree *p = calloc(1, sizeof(*p));
	struct stat st;
	int r = 0;

	if (!p)
		return error_set(e, -ENOMEM, "out of memory");
	p->to = to;
	p->e = e;
	strcpy(p->path, "./");
	if (fstat(fd, &st) < 0)
		r = error_errno(e, -errno, "cannot look at a file system");
	p->dev = st.st_dev;
	if (!r && deflateInit2(&p->z, FASTEST, Z_DEFLATED, MAX_WBITS + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
		r = error_set(e, -ENOMEM, "out of memory");
	if (!r)
		r = pack_one(p, fd, &st);
	if (!r)
		r = pack_dir(p, fd, 0);
	if (!r)
		r = put(p, end, sizeof(end), Z_FINISH);
	deflateEnd(&p->z);
	VEC_FOREACH(&p->links, l)
		free(l->path);
	VEC_FREE(&p->links);
	free(p);
	return r;
}
