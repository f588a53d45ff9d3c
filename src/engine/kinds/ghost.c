/*
 * Deleted files: what they were and their content, in ghost-file-N.img. Regular files (holes stay holes), directories, FIFOs, the memory
 * devices, symbolic links and sockets that are open with O_PATH.
 *
 * Restore makes each where its name was, so that /proc shows the same, and takes the name away at once. Directories on the way that were
 * deleted as well are there for that moment only. Left out: extended attributes; that one deleted directory lay in another.
 */
#include "engine/kinds/ghost.h"

#include "engine/path.h"
#include "engine/task/task.h"
#include "ghost_file.pb-c.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/sysmacros.h>

#define COPY_SIZE (256UL << 10)
#define MISSING_MAX 64 /* directories on the way to one */

/* ---- dump ---- */

static int write_data(int fd, uint64_t size, struct image_file *file)
{
	int r = 0;

	for (off_t at = 0; !r && (uint64_t)at < size;) {
		off_t data = lseek(fd, at, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		off_t hole = lseek(fd, data, SEEK_HOLE);
		GhostChunkEntry chunk = GHOST_CHUNK_ENTRY__INIT;
		chunk.off = (uint64_t)data;
		chunk.len = (uint64_t)(MIN(hole < 0 ? (off_t)size : hole, (off_t)size) - data);
		r = image_write_message(file, &chunk.base);
		if (!r)
			r = image_write_from(file, fd, chunk.off, chunk.len);
		at = data + (off_t)chunk.len;
	}
	return r;
}

/* What counts is what would be stored: holes are not. */
static int check_limit(struct dump *d, struct descriptor *f)
{
	uint64_t stored = MIN((uint64_t)f->st.st_size, (uint64_t)f->st.st_blocks * 512);

	if (!S_ISREG(f->st.st_mode) || !d->request->ghost_limit || stored <= d->request->ghost_limit)
		return 0;
	return fd_error(d, f, -EFBIG, "was deleted and has %llu KiB of content, more than the limit of %llu KiB; use --ghost-limit to have it saved",
			(unsigned long long)(stored + 1023) / 1024, (unsigned long long)d->request->ghost_limit / 1024);
}

static int write_image(struct dump *d, struct descriptor *f, GhostFileEntry *ghost, uint32_t id)
{
	struct image_file *file;
	char name[40], path[64];

	snprintf(name, sizeof(name), "ghost-file-%u.img", id);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->own_fd);
	/* The description may be write-only, and its position is not ours to move. */
	_cleanup_close_ int fd = S_ISREG(f->st.st_mode) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (S_ISREG(f->st.st_mode) && fd < 0)
		return fd_errno(d, f, -errno, "was deleted, and its content can't be read");
	int r = image_create(d->dir, name, IMAGE_MAGIC_GHOST_FILE, &file);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	r = image_write_message(file, &ghost->base);
	if (!r && fd >= 0 && !d->obstacles)
		r = write_data(fd, ghost->size, file);
	int s = image_close(file);
	r = r ? r : s;
	return r ? fd_errno(d, f, r, "was deleted, and its content can't be saved") : 0;
}

static bool can_be_made(mode_t mode)
{
	return S_ISREG(mode) || S_ISDIR(mode) || S_ISFIFO(mode) || S_ISCHR(mode) || S_ISLNK(mode) || S_ISSOCK(mode);
}

int ghost_write(struct dump *d, struct descriptor *f, uint32_t id)
{
	GhostFileEntry ghost = GHOST_FILE_ENTRY__INIT;
	Timeval atime = TIMEVAL__INIT, mtime = TIMEVAL__INIT;
	char target[PATH_MAX];

	if (!can_be_made(f->st.st_mode))
		return fd_error(d, f, -ENOTSUP, "was deleted, and such a thing has no way to be saved; close it first");
	int r = check_limit(d, f);
	if (r)
		return r;
	ghost.uid = f->st.st_uid;
	ghost.gid = f->st.st_gid;
	ghost.mode = f->st.st_mode;
	ghost.has_dev = ghost.has_ino = ghost.has_chunks = ghost.has_size = 1;
	ghost.dev = (uint32_t)f->st.st_dev;
	ghost.ino = f->st.st_ino;
	ghost.chunks = S_ISREG(f->st.st_mode);
	ghost.size = (uint64_t)f->st.st_size;
	ghost.has_rdev = S_ISCHR(f->st.st_mode);
	ghost.rdev = (uint32_t)f->st.st_rdev;
	atime.tv_sec = (uint64_t)f->st.st_atim.tv_sec;
	atime.tv_usec = (uint64_t)f->st.st_atim.tv_nsec / 1000;
	mtime.tv_sec = (uint64_t)f->st.st_mtim.tv_sec;
	mtime.tv_usec = (uint64_t)f->st.st_mtim.tv_nsec / 1000;
	ghost.atim = &atime;
	ghost.mtim = &mtime;
	if (S_ISLNK(f->st.st_mode)) {
		ssize_t n = readlinkat(f->own_fd, "", target, sizeof(target) - 1);
		if (n < 0)
			return fd_errno(d, f, -errno, "was deleted, and where it leads can't be read");
		target[n] = '\0';
		ghost.symlnk_target = target;
	}
	return write_image(d, f, &ghost, id);
}

/* ---- restore ---- */

/* Where one is made: its directory, and those above it that had to be made for it. */
struct place {
	int dir;
	char base[NAME_MAX + 1];
	struct {
		int parent;
		char name[NAME_MAX + 1];
	} *made;
	size_t n_made;
};

static void place_leave(struct place *p)
{
	if (p->dir >= 0)
		close(p->dir);
	while (p->n_made--) {
		unlinkat(p->made[p->n_made].parent, p->made[p->n_made].name, AT_REMOVEDIR);
		close(p->made[p->n_made].parent);
	}
	free(p->made);
}

/* One more directory on the way: gone into, made where it is missing. */
static int place_enter(struct place *p, const char *name)
{
	int next = openat(p->dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (next < 0 && errno == ENOENT && p->n_made < MISSING_MAX) {
		if (!p->made && !(p->made = calloc(MISSING_MAX, sizeof(*p->made))))
			return -ENOMEM;
		if (mkdirat(p->dir, name, 0700) < 0)
			return -errno;
		p->made[p->n_made].parent = p->dir;
		memcpy(p->made[p->n_made++].name, name, strlen(name) + 1);
		next = openat(p->dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		p->dir = next;
		return next < 0 ? -errno : 0;
	}
	int r = next < 0 ? (errno == ENOTDIR ? -ELOOP : -errno) : 0;
	close(p->dir);
	p->dir = next;
	return r;
}

static int place_walk(struct place *p, int root, const char *name, const char *base)
{
	char part[NAME_MAX + 1];
	int r = 0;

	p->dir = root ? fcntl(root, F_DUPFD_CLOEXEC, 0) : open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (p->dir < 0)
		return -errno;
	for (const char *at = name; !r && (at += strspn(at, "/")) < base;) {
		size_t n = strcspn(at, "/");
		if (n > NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(part, at, n);
		part[n] = '\0';
		r = place_enter(p, part);
		at += n;
	}
	return r;
}

static int place_find(struct place *p, int root, const char *name)
{
	const char *base;

	*p = (struct place){ .dir = path_open_parent(root, name, &base) };
	if (p->dir < 0 && p->dir != -ENOENT)
		return p->dir;
	if (strlen(base) > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(p->base, base, strlen(base) + 1);
	return p->dir < 0 ? place_walk(p, root, name, base) : 0;
}

/* Files of O_TMPFILE have their inode's number for a name. */
static bool is_tmpfile(const char *base)
{
	return base[0] == '#' && strspn(base + 1, "0123456789") == strlen(base + 1);
}

static int make_at(const struct place *p, const char *base, const GhostFileEntry *g)
{
	const mode_t type = g->mode & S_IFMT;
	char path[64];
	int r = 0, fd;

	if (type == S_IFREG && is_tmpfile(base)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", p->dir);
		fd = open(path, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		return fd < 0 ? -errno : fd;
	}
	if (type == S_IFREG) {
		fd = openat(p->dir, base, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
		r = fd < 0 ? -errno : fd;
	} else if ((type == S_IFDIR	? mkdirat(p->dir, base, 0700) :
		    type == S_IFLNK	? symlinkat(g->symlnk_target, p->dir, base) :
					  mknodat(p->dir, base, type | 0600, g->rdev)) < 0) {
		r = -errno;
	} else {
		/* A FIFO stays open for both, so that those who open it next need not wait for each other. Opening a device may do something. */
		int flags = type == S_IFDIR ? O_RDONLY | O_DIRECTORY : type == S_IFIFO ? O_RDWR | O_NONBLOCK : O_PATH;
		fd = openat(p->dir, base, flags | O_NOFOLLOW | O_CLOEXEC);
		r = fd < 0 ? -errno : fd;
	}
	if (r != -EEXIST)
		unlinkat(p->dir, base, type == S_IFDIR ? AT_REMOVEDIR : 0);
	return r;
}

/* A new file, open and without a name: under the one that it had, or where that is taken one beside it. */
static int make(int root, const char *name, uint32_t id, const GhostFileEntry *g)
{
	struct place p;
	char other[NAME_MAX + 1];
	int r = place_find(&p, root, name);

	if (!r)
		r = make_at(&p, p.base, g);
	if (r == -EEXIST) {
		snprintf(other, sizeof(other), "%.200s.ghost-%u", p.base, id);
		r = make_at(&p, other, g);
	}
	place_leave(&p);
	return r;
}

static int check(const GhostFileEntry *g)
{
	const mode_t type = g->mode & S_IFMT;
	/* Of devices those that a kind saves: memory and terminals. */
	const unsigned int device = major(g->rdev);

	if (!can_be_made(type) || (type == S_IFLNK && !g->symlnk_target))
		return -EBADMSG;
	return type != S_IFCHR || device == 1 || device == 4 || device == 5 || (device >= 136 && device < 144) ? 0 : -EBADMSG;
}

static int read_data(struct image_file *image, int fd, const GhostFileEntry *ghost)
{
	_cleanup_free_ char *buffer = malloc(COPY_SIZE);
	GhostChunkEntry *chunk;
	int r = buffer ? 0 : -ENOMEM;

	while (!r && ghost->chunks && (r = image_read_message(image, &ghost_chunk_entry__descriptor, (ProtobufCMessage **)&chunk)) == 1) {
		uint64_t left = chunk->len, at = chunk->off;
		ghost_chunk_entry__free_unpacked(chunk, NULL);
		for (r = 0; !r && left;) {
			size_t n = MIN(COPY_SIZE, left);
			r = image_read_bytes(image, buffer, n);
			if (!r && pwrite(fd, buffer, n, (off_t)at) != (ssize_t)n)
				r = errno ? -errno : -EIO;
			left -= n;
			at += n;
		}
	}
	/* As one piece, as others write it. */
	for (uint64_t at = 0; !r && !ghost->chunks;) {
		size_t n = image_read_some(image, buffer, COPY_SIZE);
		if (!n)
			break;
		r = pwrite(fd, buffer, n, (off_t)at) == (ssize_t)n ? 0 : -errno;
		at += n;
	}
	if (!r && ghost->has_size && ftruncate(fd, (off_t)ghost->size) < 0)
		r = -errno;
	return r;
}

static int dress(int fd, const GhostFileEntry *g)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (fchownat(fd, "", g->uid, g->gid, AT_EMPTY_PATH) < 0)
		return -errno;
	if (!S_ISLNK(g->mode) && chmod(path, g->mode & 07777) < 0)
		return -errno;
	return 0;
}

static void set_times(int fd, const GhostFileEntry *g)
{
	if (!g->atim || !g->mtim)
		return;
	struct timespec times[2] = { { (time_t)g->atim->tv_sec, (long)g->atim->tv_usec * 1000 },
				     { (time_t)g->mtim->tv_sec, (long)g->mtim->tv_usec * 1000 } };
	utimensat(fd, "", times, AT_EMPTY_PATH);
}

/* Not for writing, which would forbid to run it. */
static int for_reading(int fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int reading = open(path, O_RDONLY | O_CLOEXEC), r = reading < 0 ? -errno : reading;
	close(fd);
	return r;
}

/* The file of an image that is open behind its head. */
static int build(int root, const char *name, uint32_t id, struct image_file *image, const GhostFileEntry *g)
{
	int fd = make(root, name, id, g);

	if (fd < 0)
		return fd;
	int r = dress(fd, g);
	if (!r && S_ISREG(g->mode))
		r = read_data(image, fd, g);
	if (r) {
		close(fd);
		return r;
	}
	set_times(fd, g);
	return S_ISREG(g->mode) ? for_reading(fd) : fd;
}

int ghost_fd(struct restore *s, uint32_t id, const char *name)
{
	struct image_file *image;
	GhostFileEntry *ghost;
	char image_name[40];

	VEC_FOREACH(&s->ghosts, g)
		if (g->id == id)
			return g->fd;
	snprintf(image_name, sizeof(image_name), "ghost-file-%u.img", id);
	int r = image_open(s->dir, image_name, IMAGE_MAGIC_GHOST_FILE, &image);
	if (r)
		return error_errno(s->e, r, "cannot read %s", image_name);
	r = image_read_message(image, &ghost_file_entry__descriptor, (ProtobufCMessage **)&ghost);
	if (r != 1 || check(ghost)) {
		if (r == 1)
			ghost_file_entry__free_unpacked(ghost, NULL);
		image_close(image);
		return error_set(s->e, -EBADMSG, "%s is damaged", image_name);
	}
	int fd = build(s->root_fd, name, id, image, ghost);
	ghost_file_entry__free_unpacked(ghost, NULL);
	image_close(image);
	if (fd >= 0)
		fd = restore_hold(s, fd);
	if (fd == -ELOOP || (fd == -EBADMSG && !path_is_canonical(name)))
		return path_error(s->e, fd, name);
	struct held *slot = fd < 0 ? NULL : VEC_PUSH(&s->ghosts);
	if (!slot) {
		if (fd >= 0)
			close(fd);
		return error_errno(s->e, fd < 0 ? fd : -ENOMEM, "cannot make the deleted file %s again", name);
	}
	*slot = (struct held){ id, fd, 0 };
	return fd;
}

void ghosts_release(struct restore *s)
{
	VEC_FOREACH(&s->ghosts, g)
		close(g->fd);
	VEC_FREE(&s->ghosts);
}
