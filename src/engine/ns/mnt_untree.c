/*
 * Fills a new file system from a tar file: what mnt_tree.c has written, or tar(1) (pax, GNU's long names, sparse 1.0). It may be hostile: no name leads
 * out of the file system, over a symbolic link or to a second object of the same name; what is too long or of a kind that is not known is damage.
 *
 * Works in the current directory, which it changes, and without /proc: called in a process apart.
 */
#include "engine/ns/mnt.h"

#include "image/image.h"
#include "image/tar.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <zlib.h>

#define BUFFER (256UL << 10)
#define RECORDS_MAX (16UL << 20)
#define NAME_LIMIT (PATH_MAX - 1)
#define ATTRIBUTES_MAX 1000

struct attribute {
	const char *name, *value; /* in the records */
	size_t size;
};

/* A member, with what stood in records before it. */
struct member {
	struct tar_entry head;
	char name[PATH_MAX], link[PATH_MAX];
	uint64_t size;	   /* of what follows */
	uint64_t realsize; /* of a file with holes */
	bool sparse, socket;
	struct timespec times[2];
	char *records;
	VEC(struct attribute) attributes;
};

struct dated {
	char *path;
	struct timespec times[2];
};

struct unpacking {
	int root;
	struct image_file *from;
	struct error *e;
	z_stream z;
	bool ended;
	unsigned char in[BUFFER], out[BUFFER];
	uint64_t left; /* of the member's content */
	VEC(struct dated) dirs;
	struct member m;
};

static int damaged(struct unpacking *u, const char *what)
{
	return error_set(u->e, -EBADMSG, "the archive of a file system is damaged: %s%s%.300s", what, u->m.name[0] ? ": " : "", u->m.name);
}

static int fail(struct unpacking *u, int r)
{
	return error_errno(u->e, r, "cannot make %.300s", u->m.name);
}

/* Exactly so many bytes. */
static int get(struct unpacking *u, void *to, size_t size)
{
	u->z.next_out = to;
	u->z.avail_out = (uInt)size;
	while (u->z.avail_out) {
		if (!u->z.avail_in) {
			u->z.next_in = u->in;
			u->z.avail_in = (uInt)image_read_some(u->from, u->in, BUFFER);
		}
		const bool more = u->z.avail_in;
		int s = u->ended ? Z_STREAM_END : inflate(&u->z, Z_NO_FLUSH);
		if (s == Z_STREAM_END && u->z.avail_out && more && !u->ended) { /* another member of gzip's may follow */
			u->ended = inflateReset(&u->z) != Z_OK;
			continue;
		}
		if (s == Z_STREAM_END && !u->z.avail_out)
			break;
		if ((s != Z_OK && s != Z_BUF_ERROR) || (!more && u->z.avail_out))
			return damaged(u, "it ends too early");
	}
	return 0;
}

static int skip(struct unpacking *u, uint64_t size)
{
	int r = 0;

	for (size_t n; !r && size; size -= n) {
		n = (size_t)MIN(size, BUFFER);
		r = get(u, u->out, n);
	}
	return r;
}

/* ---- heads ---- */

static int take_text(struct unpacking *u, const char *value, size_t size, char to[PATH_MAX])
{
	if (size > NAME_LIMIT || memchr(value, '\0', size))
		return damaged(u, "a name is too long");
	memcpy(to, value, size);
	to[size] = '\0';
	return 0;
}

static bool take_number(const char *value, size_t size, uint64_t *ret)
{
	char text[32], *end;

	if (!size || size >= sizeof(text) || value[0] < '0' || value[0] > '9')
		return false;
	memcpy(text, value, size);
	text[size] = '\0';
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return !errno && !*end && *ret <= (uint64_t)1 << 62;
}

static struct timespec take_time(const char *value, size_t size)
{
	char text[48] = "", fraction[10] = "000000000";
	struct timespec t = {};

	memcpy(text, value, MIN(size, sizeof(text) - 1));
	t.tv_sec = (time_t)strtoll(text, NULL, 10);
	const char *dot = strchr(text, '.');
	if (dot)
		memcpy(fraction, dot + 1, MIN(strspn(dot + 1, "0123456789"), 9UL));
	t.tv_nsec = strtol(fraction, NULL, 10);
	return t;
}

static int take_record(struct unpacking *u, const char *name, const char *value, size_t size)
{
	struct member *m = &u->m;
	uint64_t number;

	if (!strcmp(name, "path") || !strcmp(name, "GNU.sparse.name"))
		return take_text(u, value, size, m->name);
	if (!strcmp(name, "linkpath"))
		return take_text(u, value, size, m->link);
	if (!strcmp(name, "mtime") || !strcmp(name, "atime")) {
		m->times[name[0] == 'm'] = take_time(value, size);
		return 0;
	}
	if (!strncmp(name, "SCHILY.xattr.", 13)) {
		struct attribute *slot = m->attributes.count < ATTRIBUTES_MAX ? VEC_PUSH(&m->attributes) : NULL;
		if (slot)
			*slot = (struct attribute){ name + 13, value, size };
		return slot ? 0 : damaged(u, "too many attributes");
	}
	if (!strcmp(name, "FERMATA.socket")) {
		m->socket = true;
		return 0;
	}
	static const char *const numbers[] = { "size", "uid", "gid", "GNU.sparse.major", "GNU.sparse.realsize" };
	size_t i = 0;
	while (i < ARRAY_SIZE(numbers) && strcmp(name, numbers[i]))
		i++;
	if (i == ARRAY_SIZE(numbers))
		return !strncmp(name, "GNU.sparse.", 11) && strcmp(name, "GNU.sparse.minor") ? damaged(u, "holes that are told in an old way") : 0;
	if (!take_number(value, size, &number) || ((i == 1 || i == 2) && number > UINT32_MAX) || (i == 3 && number != 1))
		return damaged(u, "a number");
	if (!i)
		m->size = number;
	else if (i == 1)
		m->head.uid = (uint32_t)number;
	else if (i == 2)
		m->head.gid = (uint32_t)number;
	else if (i == 4)
		m->realsize = number;
	m->sparse |= i == 3;
	return 0;
}

/* Once the head is known, since they take precedence. */
static int take_records(struct unpacking *u, size_t size)
{
	char *at = u->m.records, *end = at + size;
	int r = 0;

	while (!r && at < end && *at) {
		char *space = memchr(at, ' ', (size_t)(end - at)), *rest = NULL;
		unsigned long length = space ? strtoul(at, &rest, 10) : 0;
		if (!space || rest != space || length > (size_t)(end - at) || at + length <= space + 1 || at[length - 1] != '\n')
			return damaged(u, "records");
		char *name = space + 1, *equals = memchr(name, '=', (size_t)(at + length - name));
		if (!equals)
			return damaged(u, "records");
		*equals = '\0';
		r = take_record(u, name, equals + 1, (size_t)(at + length - 1 - (equals + 1)));
		at += length;
	}
	return r;
}

static void member_reset(struct member *m)
{
	free(m->records);
	VEC_FREE(&m->attributes);
	*m = (struct member){ .times = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } } };
}

/* The content of a member that tells of the next one. */
static int read_all(struct unpacking *u, uint64_t size, char **ret)
{
	if (size > RECORDS_MAX)
		return damaged(u, "records are too long");
	char *text = malloc((size_t)size + 1);
	int r = text ? get(u, text, (size_t)size) : error_set(u->e, -ENOMEM, "out of memory");
	if (!r)
		r = skip(u, tar_filled(size) - size);
	if (r) {
		free(text);
		return r;
	}
	text[size] = '\0';
	*ret = text;
	return 0;
}

/* A name that GNU tar could not fit into the head. */
static int read_long(struct unpacking *u, uint64_t size, char to[PATH_MAX])
{
	char *text = NULL;
	int r = read_all(u, size, &text);

	if (!r)
		r = take_text(u, text, strnlen(text, (size_t)size), to);
	free(text);
	return r;
}

/* 1: a member is there; 0: the end. */
static int next_member(struct unpacking *u)
{
	unsigned char head[TAR_BLOCK];
	struct member *m = &u->m;
	size_t records = 0;

	member_reset(m);
	for (;;) {
		struct tar_entry e;
		int r = get(u, head, sizeof(head));
		if (r)
			return r;
		r = tar_parse_entry(head, &e);
		if (r <= 0)
			return r ? damaged(u, "a head") : 0;
		if (e.type == 'x' && !m->records) {
			r = read_all(u, e.size, &m->records);
			records = (size_t)e.size;
		} else if (e.type == 'L' || e.type == 'K') {
			r = read_long(u, e.size, e.type == 'L' ? m->name : m->link);
		} else if (e.type == 'g') {
			r = skip(u, tar_filled(e.size));
		} else {
			m->head = e;
			m->size = e.size;
			m->times[1] = (struct timespec){ e.mtime, 0 };
			if (!m->name[0])
				memcpy(m->name, e.name, strlen(e.name) + 1);
			if (!m->link[0])
				memcpy(m->link, e.link, strlen(e.link) + 1);
			r = m->records ? take_records(u, records) : 0;
			u->left = m->size;
			return r ? r : 1;
		}
		if (r)
			return r;
	}
}

/* ---- what is made ---- */

/* Beneath the root, over no link. */
static int open_beneath(struct unpacking *u, const char *name, int flags)
{
	struct open_how how = { .flags = (uint64_t)(flags | O_CLOEXEC), .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV };
	int fd = (int)syscall(__NR_openat2, u->root, name[0] ? name : ".", &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

/* Takes "./" and slashes at the end away; true: nothing else is odd with it. */
static bool make_plain(char *name)
{
	char *at = name;

	while (at[0] == '.' && at[1] == '/')
		at += 2 + strspn(at + 2, "/");
	if (!strcmp(at, "."))
		at++;
	memmove(name, at, strlen(at) + 1);
	size_t n = strlen(name);
	while (n && name[n - 1] == '/')
		name[--n] = '\0';
	if (name[0] == '/')
		return false;
	for (const char *part = name; *part; part += strcspn(part, "/"), part += *part == '/') {
		const size_t length = strcspn(part, "/");
		if (!length || (length == 1 && part[0] == '.') || (length == 2 && part[0] == '.' && part[1] == '.'))
			return false;
	}
	return true;
}

/* The directory that it belongs into becomes the current one. */
static int enter_parent(struct unpacking *u, const char *name, const char **ret_base)
{
	const char *slash = strrchr(name, '/');
	char dir[PATH_MAX] = "";

	if (slash)
		memcpy(dir, name, (size_t)(slash - name));
	_cleanup_close_ int fd = open_beneath(u, dir, O_RDONLY | O_DIRECTORY);
	if (fd < 0 || fchdir(fd) < 0)
		return fd < 0 ? fd : -errno;
	*ret_base = slash ? slash + 1 : name;
	return 0;
}

static int fill(struct unpacking *u, int fd, uint64_t at, uint64_t size)
{
	int r = size <= u->left ? 0 : damaged(u, "more content than there is");

	while (!r && size) {
		const size_t n = (size_t)MIN(size, BUFFER);
		r = get(u, u->out, n);
		if (!r && pwrite(fd, u->out, n, (off_t)at) != (ssize_t)n)
			r = fail(u, errno ? -errno : -ENOSPC);
		at += n;
		size -= n;
		u->left -= n;
	}
	return r;
}

/* The next line of the map of a file with holes, of which `block` is what was read. */
static int map_number(struct unpacking *u, char block[TAR_BLOCK], size_t *at, uint64_t *ret)
{
	char text[24];
	size_t n = 0;

	for (;;) {
		if (*at == TAR_BLOCK) {
			int r = u->left < TAR_BLOCK ? damaged(u, "holes") : get(u, block, TAR_BLOCK);
			if (r)
				return r;
			u->left -= TAR_BLOCK;
			*at = 0;
		}
		const char c = block[(*at)++];
		if (c == '\n')
			break;
		if (n == sizeof(text) - 1)
			return damaged(u, "holes");
		text[n++] = c;
	}
	return take_number(text, n, ret) ? 0 : damaged(u, "holes");
}

static int fill_sparse(struct unpacking *u, int fd)
{
	struct pieces {
		VEC(uint64_t) list;
	} pieces = {};
	char block[TAR_BLOCK];
	size_t at = TAR_BLOCK;
	uint64_t count = 0;
	int r = map_number(u, block, &at, &count);

	for (uint64_t i = 0; !r && i < 2 * count; i++) {
		uint64_t number = 0, *slot;
		r = map_number(u, block, &at, &number);
		slot = r ? NULL : VEC_PUSH(&pieces.list);
		if (!r && !slot)
			r = error_set(u->e, -ENOMEM, "out of memory");
		if (slot)
			*slot = number;
	}
	for (size_t i = 0; !r && i + 1 < pieces.list.count; i += 2)
		r = fill(u, fd, pieces.list.data[i], pieces.list.data[i + 1]);
	if (!r && ftruncate(fd, (off_t)u->m.realsize) < 0)
		r = fail(u, -errno);
	VEC_FREE(&pieces.list);
	return r;
}

static int make_file(struct unpacking *u, const char *base)
{
	_cleanup_close_ int fd = open(base, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return fail(u, -errno);
	return u->m.sparse ? fill_sparse(u, fd) : fill(u, fd, 0, u->m.size);
}

static int make_link(struct unpacking *u, const char *base)
{
	if (!make_plain(u->m.link) || !u->m.link[0])
		return damaged(u, "a link to nowhere");
	_cleanup_close_ int to = open_beneath(u, u->m.link, O_PATH | O_NOFOLLOW);
	if (to < 0 || linkat(to, "", AT_FDCWD, base, AT_EMPTY_PATH) < 0)
		return fail(u, to < 0 ? to : -errno);
	return 0;
}

static int make_object(struct unpacking *u, const char *base)
{
	const struct member *m = &u->m;
	const dev_t device = makedev(m->head.major, m->head.minor);
	int r;

	if (m->socket) {
		r = mknod(base, S_IFSOCK | 0600, 0);
	} else {
		switch (m->head.type) {
		case '0':
		case '7':
			return make_file(u, base);
		case '1':
			return make_link(u, base);
		case '2':
			r = symlink(m->link, base);
			break;
		case '3':
			r = mknod(base, S_IFCHR | 0600, device);
			break;
		case '4':
			r = mknod(base, S_IFBLK | 0600, device);
			break;
		case '5':
			r = mkdir(base, 0700);
			break;
		case '6':
			r = mknod(base, S_IFIFO | 0600, 0);
			break;
		default:
			return damaged(u, "a member of a kind that is not known");
		}
	}
	return r < 0 ? fail(u, -errno) : 0;
}

/* The owner first: to change it takes set-uid bits and capabilities away. */
static int dress(struct unpacking *u, const char *base)
{
	struct member *m = &u->m;

	if (fchownat(AT_FDCWD, base, m->head.uid, m->head.gid, AT_SYMLINK_NOFOLLOW) < 0)
		return fail(u, -errno);
	if (m->head.type != '2' && fchmodat(AT_FDCWD, base, m->head.mode & 07777, 0) < 0)
		return fail(u, -errno);
	VEC_FOREACH(&m->attributes, a)
		if (lsetxattr(base, a->name, a->value, a->size, 0) < 0)
			return error_errno(u->e, -errno, "cannot give %.300s its attribute %.100s", m->name, a->name);
	if (m->head.type != '5')
		return utimensat(AT_FDCWD, base, m->times, AT_SYMLINK_NOFOLLOW) < 0 ? fail(u, -errno) : 0;
	struct dated *slot = VEC_PUSH(&u->dirs);
	if (slot)
		*slot = (struct dated){ strdup(m->name), { m->times[0], m->times[1] } };
	return slot && slot->path ? 0 : error_set(u->e, -ENOMEM, "out of memory");
}

static int unpack_member(struct unpacking *u)
{
	const char *base;
	int r = 0;

	if (!make_plain(u->m.name) || (!u->m.name[0] && u->m.head.type != '5'))
		return damaged(u, "a name that can't be");
	if (u->m.head.type == '1' && u->m.size)
		return damaged(u, "a link with content");
	if (!u->m.name[0]) {
		r = fchdir(u->root) < 0 ? fail(u, -errno) : dress(u, ".");
	} else {
		r = enter_parent(u, u->m.name, &base);
		r = r ? fail(u, r) : make_object(u, base);
		if (!r && u->m.head.type != '1')
			r = dress(u, base);
	}
	return r ? r : skip(u, u->left + tar_filled(u->m.size) - u->m.size);
}

/* What is made in a directory changes its time. */
static int set_dates(struct unpacking *u)
{
	for (size_t i = u->dirs.count; i-- > 0;) {
		const struct dated *d = &u->dirs.data[i];
		_cleanup_close_ int fd = open_beneath(u, d->path, O_RDONLY | O_DIRECTORY);
		if (fd < 0 || futimens(fd, d->times) < 0)
			return error_errno(u->e, fd < 0 ? fd : -errno, "cannot set the time of %.300s", d->path);
	}
	return 0;
}

int tree_unpack(int fd, struct image_file *from, struct error *e)
{
	struct unpacking *u = calloc(1, sizeof(*u));
	int r = 0;

	if (!u)
		return error_set(e, -ENOMEM, "out of memory");
	u->root = fd;
	u->from = from;
	u->e = e;
	if (inflateInit2(&u->z, MAX_WBITS + 16) != Z_OK)
		r = error_set(e, -ENOMEM, "out of memory");
	while (!r && (r = next_member(u)) == 1)
		r = unpack_member(u);
	if (!r)
		r = set_dates(u);
	inflateEnd(&u->z);
	member_reset(&u->m);
	VEC_FOREACH(&u->dirs, d)
		free(d->path);
	VEC_FREE(&u->dirs);
	free(u);
	return r;
}
