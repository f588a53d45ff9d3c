/*
 * Regular files, directories, symbolic links and devices without state, opened by name.
 *
 * A file that was deleted is saved with its content (a ghost), once however many descriptions and mappings refer to it. One that
 * still has another name is given a new one next to the old with --link-remap, as linkat(2) allows for an open file.
 */
#include "engine/kinds/regfile.h"

#include "engine/task/task.h"
#include "ghost_file.pb-c.h"
#include "regfile.pb-c.h"
#include "remap_file_path.pb-c.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <utime.h>

#define MEM_MAJOR 1
#define COPY_SIZE (256UL << 10)
/* Flags of open(2) that have done their work once the file is open. */
#define TMPFILE_ONLY (uint32_t)(O_TMPFILE & ~O_DIRECTORY)
#define PAST_FLAGS ((uint32_t)(O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY) | TMPFILE_ONLY)

struct ghost {
	dev_t dev;
	ino_t ino;
	uint32_t id;
};

struct state {
	VEC(struct ghost) ghosts;
	struct image_file *remap; /* remap-fpath.img */
	uint32_t next_ghost;
	VEC(char *) links; /* made by --link-remap, to be removed should the dump fail */
};

static bool recognise(const struct descriptor *f)
{
	if (f->flags & O_PATH)
		return f->target[0] == '/';
	return (S_ISREG(f->st.st_mode) && f->target[0] == '/') || S_ISDIR(f->st.st_mode) || S_ISLNK(f->st.st_mode) ||
	       (S_ISCHR(f->st.st_mode) && major(f->st.st_rdev) == MEM_MAJOR && f->target[0] == '/');
}

static struct state *state_of(struct dump *d)
{
	extern const struct kind kind_regfile;
	void **at = kind_state(d, &kind_regfile);

	if (!*at)
		*at = calloc(1, sizeof(struct state));
	return *at;
}

/* The name without the mark that the kernel puts behind that of a deleted file; false: there is none. */
static bool strip_deleted(char *name)
{
	static const char mark[] = " (deleted)";
	size_t size = strlen(name), n = sizeof(mark) - 1;

	if (size <= n || strcmp(name + size - n, mark))
		return false;
	name[size - n] = '\0';
	return true;
}

static int write_ghost_data(struct dump *d, int fd, uint64_t size, struct image_file *file)
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

/* ghost-file-ID.img: what the file was, then its data in chunks. */
static int write_ghost(struct dump *d, struct descriptor *f, uint32_t id)
{
	GhostFileEntry ghost = GHOST_FILE_ENTRY__INIT;
	Timeval atime = TIMEVAL__INIT, mtime = TIMEVAL__INIT;
	struct image_file *file;
	char name[40], path[64];

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
	snprintf(name, sizeof(name), "ghost-file-%u.img", id);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->own_fd);
	/* The description may be write-only, and its position is not ours to move. */
	_cleanup_close_ int fd = S_ISREG(f->st.st_mode) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (S_ISREG(f->st.st_mode) && fd < 0)
		return fd_errno(d, f, -errno, "was deleted, and its content can't be read");
	int r = image_create(d->dir, name, IMAGE_MAGIC_GHOST_FILE, &file);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	r = image_write_message(file, &ghost.base);
	if (!r && fd >= 0 && !d->obstacles)
		r = write_ghost_data(d, fd, ghost.size, file);
	int s = image_close(file);
	r = r ? r : s;
	return r ? fd_errno(d, f, r, "was deleted, and its content can't be saved") : 0;
}

static int write_remap(struct dump *d, struct state *s, uint32_t from, uint32_t to, RemapType type)
{
	RemapFilePathEntry entry = REMAP_FILE_PATH_ENTRY__INIT;
	int r = s->remap ? 0 : image_create(d->dir, "remap-fpath.img", IMAGE_MAGIC_REMAP_FPATH, &s->remap);

	entry.orig_id = from;
	entry.remap_id = to;
	entry.has_remap_type = 1;
	entry.remap_type = type;
	if (!r)
		r = image_write_message(s->remap, &entry.base);
	return r ? error_errno(d->e, r, "cannot write remap-fpath.img") : 0;
}

static int capture_ghost(struct dump *d, struct state *s, struct descriptor *f)
{
	uint32_t id = 0;
	int r;

	VEC_FOREACH(&s->ghosts, g)
		if (g->dev == f->st.st_dev && g->ino == f->st.st_ino)
			id = g->id;
	if (!id) {
		struct ghost *g = VEC_PUSH(&s->ghosts);
		if (!g)
			return error_set(d->e, -ENOMEM, "out of memory");
		*g = (struct ghost){ f->st.st_dev, f->st.st_ino, id = ++s->next_ghost };
		if ((r = write_ghost(d, f, id)))
			return r;
	}
	return write_remap(d, s, f->id, id, REMAP_TYPE__GHOST);
}

/* Gives a file that lost the name it was opened by, but not all, a name beside it. */
static int capture_linked(struct dump *d, struct state *s, struct descriptor *f)
{
	char path[64], *link = NULL;
	const char *slash = strrchr(f->target, '/');

	if (!d->request->link_remap)
		return fd_error(d, f, -ENOTSUP, "was deleted under this name and has others; use --link-remap to save it");
	if (d->obstacles)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->own_fd);
	if (asprintf(&link, "%.*s/link_remap.%u", (int)(slash - f->target), f->target, f->id) < 0)
		return error_set(d->e, -ENOMEM, "out of memory");
	if (linkat(AT_FDCWD, path, AT_FDCWD, link, AT_SYMLINK_FOLLOW) < 0) {
		int r = fd_errno(d, f, -errno, "was deleted, and can't be linked as %s", link);
		free(link);
		return r;
	}
	char **slot = VEC_PUSH(&s->links);
	if (!slot) {
		unlink(link);
		free(link);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	*slot = link;
	FileEntry entry = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry fown = FOWN_ENTRY__INIT;
	reg.id = entry.id = ++d->next_file_id;
	reg.fown = &fown;
	reg.name = link;
	entry.type = FD_TYPES__REG;
	entry.reg = &reg;
	int r = image_write_message(d->files, &entry.base);
	if (r)
		return error_errno(d->e, r, "cannot write files.img");
	return write_remap(d, s, f->id, entry.id, REMAP_TYPE__LINKED);
}

int regfile_capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	struct state *s = state_of(d);
	struct stat there;
	int r = 0;

	if (!s)
		return error_set(d->e, -ENOMEM, "out of memory");
	bool deleted = f->st.st_nlink == 0 && strip_deleted(f->target);
	bool same = lstat(f->target, &there) == 0 && there.st_ino == f->st.st_ino && there.st_dev == f->st.st_dev;
	if (!same && !(f->flags & O_NOFOLLOW))
		same = stat(f->target, &there) == 0 && there.st_ino == f->st.st_ino && there.st_dev == f->st.st_dev;
	reg.has_size = S_ISREG(f->st.st_mode);
	reg.size = (uint64_t)f->st.st_size;
	reg.has_mode = 1;
	reg.mode = f->st.st_mode;
	if (deleted && S_ISDIR(f->st.st_mode))
		return fd_error(d, f, -ENOTSUP, "is a directory that was deleted, which has no way to be saved; let the program leave it first");
	if (deleted) {
		r = capture_ghost(d, s, f);
		reg.has_size = 0;
	} else if (!same) {
		if (!strip_deleted(f->target))
			return fd_error(d, f, -ENOTSUP, "can't be found under that name any more (a mount hides it, or it is in another mount namespace); unmount what hides it");
		r = capture_linked(d, s, f);
	}
	reg.id = f->id;
	reg.flags = f->flags;
	reg.pos = f->pos;
	reg.fown = f->fown;
	reg.name = f->target;
	entry.reg = &reg;
	return r ? r : file_entry_write(d, &entry, f, FD_TYPES__REG);
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;
	int r = 0;

	if (!s)
		return 0;
	if (s->remap && (r = image_close(s->remap)))
		r = error_errno(d->e, r, "cannot write remap-fpath.img");
	for (size_t i = 0; i < s->links.count; i++) {
		if (!success)
			unlink(s->links.data[i]);
		free(s->links.data[i]);
	}
	VEC_FREE(&s->links);
	VEC_FREE(&s->ghosts);
	free(s);
	*at = NULL;
	return r;
}

/* ---- restore ---- */

/* What remap-fpath.img says of a file: the other id, or 0. */
static int find_remap(struct restore *s, uint32_t id, RemapType *ret_type, uint32_t *ret_id)
{
	*ret_id = 0;
	for (size_t i = 0; i < s->remaps.count; i++)
		if (s->remaps.data[i]->orig_id == id) {
			*ret_id = s->remaps.data[i]->remap_id;
			*ret_type = s->remaps.data[i]->has_remap_type ? s->remaps.data[i]->remap_type : REMAP_TYPE__LINKED;
		}
	return 0;
}

static int read_ghost_data(struct image_file *image, int fd, const GhostFileEntry *ghost)
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
				r = -errno;
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
	if (!r && ghost->has_size && S_ISREG(ghost->mode) && ftruncate(fd, (off_t)ghost->size) < 0)
		r = -errno;
	return r;
}

/* A new file, open and without a name. */
static int make_ghost(const char *name, uint32_t mode, uint32_t rdev)
{
	_cleanup_free_ char *dir = strdup(name);

	char *slash = dir ? strrchr(dir, '/') : NULL;

	/* Files of O_TMPFILE have their inode's number for a name. */
	if (S_ISREG(mode) && slash && slash[1] == '#' && strspn(slash + 2, "0123456789") == strlen(slash + 2)) {
		*(slash == dir ? slash + 1 : slash) = '\0';
		int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		return fd < 0 ? -errno : fd;
	}
	bool node = S_ISFIFO(mode) || S_ISCHR(mode);
	if (node && mknod(name, (mode & S_IFMT) | 0600, rdev) < 0)
		return -errno;
	int fd = node ? open(name, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) :
			open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	int r = fd < 0 ? -errno : fd;
	if (fd >= 0 || node)
		unlink(name);
	return r;
}

/* The file of a ghost, without a name; held in the coordinator until the end, once for all that refer to it. */
static int ghost_fd(struct restore *s, uint32_t id, const char *name)
{
	struct image_file *image;
	GhostFileEntry *ghost;
	char image_name[40], *path = NULL;

	VEC_FOREACH(&s->ghosts, g)
		if (g->id == id)
			return g->fd;
	snprintf(image_name, sizeof(image_name), "ghost-file-%u.img", id);
	int r = image_open(s->dir, image_name, IMAGE_MAGIC_GHOST_FILE, &image);
	if (r)
		return error_errno(s->e, r, "cannot read %s", image_name);
	r = image_read_message(image, &ghost_file_entry__descriptor, (ProtobufCMessage **)&ghost);
	if (r != 1) {
		image_close(image);
		return error_set(s->e, -EBADMSG, "%s is damaged", image_name);
	}
	/* Under the name it had where that is free, so that /proc shows the same. */
	int fd = make_ghost(name, ghost->mode, ghost->rdev);
	if (fd == -EEXIST && asprintf(&path, "%s.ghost-%u", name, id) >= 0)
		fd = make_ghost(path, ghost->mode, ghost->rdev);
	r = fd < 0 ? fd : 0;
	if (!r) {
		if (fchown(fd, ghost->uid, ghost->gid) < 0 || fchmod(fd, ghost->mode & 07777) < 0)
			r = -errno;
	}
	free(path);
	if (!r)
		r = read_ghost_data(image, fd, ghost);
	if (!r && ghost->atim && ghost->mtim) {
		struct timespec times[2] = { { (time_t)ghost->atim->tv_sec, (long)ghost->atim->tv_usec * 1000 },
					     { (time_t)ghost->mtim->tv_sec, (long)ghost->mtim->tv_usec * 1000 } };
		futimens(fd, times);
	}
	/* Not for writing, which would forbid to run it. */
	if (!r && S_ISREG(ghost->mode)) {
		char own[64];
		snprintf(own, sizeof(own), "/proc/self/fd/%d", fd);
		int reading = open(own, O_RDONLY | O_CLOEXEC);
		r = reading < 0 ? -errno : 0;
		close(fd);
		fd = reading;
	}
	ghost_file_entry__free_unpacked(ghost, NULL);
	image_close(image);
	if (!r && (fd = restore_hold(s, fd)) < 0)
		r = fd;
	struct held *slot = r ? NULL : VEC_PUSH(&s->ghosts);
	if (!slot) {
		if (fd >= 0)
			close(fd);
		return error_errno(s->e, r ? r : -ENOMEM, "cannot make the deleted file %s again", name);
	}
	*slot = (struct held){ id, fd, 0 };
	return fd;
}

static int check_unchanged(struct restore *s, const RegFileEntry *reg, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(s->e, -errno, "cannot examine %s", reg->name);
	if (reg->has_mode && (st.st_mode & S_IFMT) != (reg->mode & S_IFMT))
		return error_set(s->e, -ESTALE, "%s is of another kind than at the dump; put back what was there", reg->name);
	bool writes = reg->flags & (O_WRONLY | O_RDWR) && !(reg->flags & O_PATH);
	if (reg->has_size && S_ISREG(st.st_mode) && (uint64_t)st.st_size != reg->size && (!writes || (uint64_t)st.st_size < reg->size))
		return error_set(s->e, -ESTALE, "%s changed since the dump (it has %lld bytes, had %llu); put the old one back", reg->name,
				 (long long)st.st_size, (unsigned long long)reg->size);
	return 0;
}

int regfile_open(struct restore *s, struct file *f, int flags)
{
	const RegFileEntry *reg = f->entry->reg;
	uint32_t other;
	RemapType type = REMAP_TYPE__LINKED;
	char path[64];
	const char *name = reg->name;

	find_remap(s, f->id, &type, &other);
	if (other && type == REMAP_TYPE__GHOST) {
		int ghost = ghost_fd(s, other, reg->name);
		if (ghost < 0)
			return ghost;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", ghost);
		name = path;
		flags &= ~O_NOFOLLOW;
	} else if (other) {
		struct file *link = file_find(s, other);
		if (type != REMAP_TYPE__LINKED || !link || !link->entry->reg)
			return error_set(s->e, -EBADMSG, "remap-fpath.img refers to file %u in a way that is not supported", other);
		name = link->entry->reg->name;
		link->temporary = true; /* to be removed once all is open */
	}
	if (reg->flags & TMPFILE_ONLY)
		flags &= ~O_DIRECTORY;
	int fd = open(name, flags | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 && errno == ENOENT)
		return error_set(s->e, -ENOENT, "%s is no longer there; put it back", reg->name);
	return fd < 0 ? error_errno(s->e, -errno, "cannot open %s", reg->name) : fd;
}

struct rtask *regfile_in_proc(struct restore *s, const RegFileEntry *reg)
{
	int pid, used = 0;

	if (sscanf(reg->name, "/proc/%d%n", &pid, &used) != 1 || (reg->name[used] && reg->name[used] != '/'))
		return NULL;
	for (size_t i = 0; i < s->tasks.count; i++)
		if (s->tasks.data[i]->pid == pid)
			return s->tasks.data[i];
	return NULL;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const RegFileEntry *reg = f->entry->reg;

	if (!reg)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int flags = (int)(reg->flags & ~PAST_FLAGS);
	if (regfile_in_proc(s, reg)) {
		*ret_fd = -1;
		return 0;
	}
	int fd = regfile_open(s, f, flags);
	int r = fd < 0 ? fd : check_unchanged(s, reg, fd);
	if (!r && reg->pos && !(flags & O_PATH) && lseek(fd, (off_t)reg->pos, SEEK_SET) < 0 && reg->has_mode && S_ISREG(reg->mode))
		r = error_errno(s->e, -errno, "cannot seek in %s", reg->name);
	if (r) {
		if (fd >= 0)
			close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* What lies in /proc of a process that is being restored: its holder opens it, now that all processes are there. */
static int late(struct restore *s, struct file *f, struct rtask *t, int fd)
{
	const RegFileEntry *reg = f->entry->reg;
	struct batch *b = &t->threads.data[0].batch;
	int aside = s->fd_base - 1, cloexec = 0;

	if (f->fd >= 0)
		return 0;
	for (size_t i = 0; i < t->fds.count; i++)
		if ((int)t->fds.data[i]->fd == fd && t->fds.data[i]->flags & FD_CLOEXEC)
			cloexec = O_CLOEXEC;
	batch_what(b, "open %s in process %d", reg->name, t->pid);
	struct agent_op *op = OP(b, __NR_openat, AT_FDCWD, arena_place(&s->arena, reg->name, strlen(reg->name) + 1),
				 reg->flags & ~PAST_FLAGS);
	uint64_t opened = (uint64_t)(op - b->ops.data);
	if (reg->pos && !(reg->flags & O_PATH))
		OP(b, __NR_lseek, opened, reg->pos, SEEK_SET)->flags |= AGENT_OP_REF_ARG0 | AGENT_OP_MAY_FAIL;
	/* It may have come at the very number: by way of another. */
	OP(b, __NR_dup3, opened, aside, 0)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_close, opened)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_dup3, aside, fd, cloexec);
	OP(b, __NR_close, aside);
	return 0;
}

static void release(struct restore *s, struct file *f)
{
	if (f->temporary && s->succeeded)
		unlink(f->entry->reg->name);
}

const struct kind kind_regfile = {
	.name = "a file",
	.summary = "Regular files, directories, symbolic links and the memory devices (null, zero, full, random): position, flags, "
		   "O_PATH, O_TMPFILE; deleted files with their content, those with other names by --link-remap",
	.type = FD_TYPES__REG,
	.recognise = recognise,
	.capture = regfile_capture,
	.finish = finish,
	.create = create,
	.late = late,
	.release = release,
};
