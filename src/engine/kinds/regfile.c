/*
 * Regular files, directories, symbolic links and devices without state, opened by name.
 *
 * A file that was deleted is saved with its content (kinds/ghost.c), once however many descriptions and mappings refer to it. One that
 * still has another name is given a new one next to the old with --link-remap, as linkat(2) allows for an open file. What lies in /proc of
 * a process: kinds/procfile.c.
 *
 * Restore opens what the image names only if it is of the same type, and follows no symbolic link on the way (engine/path.h).
 */
#include "engine/kinds/regfile.h"

#include "engine/kinds/ghost.h"
#include "engine/kinds/procfile.h"
#include "engine/kinds/shmfile.h"
#include "engine/kinds/validate.h"
#include "engine/ns/mnt.h"
#include "engine/path.h"
#include "engine/kinds/external.h"
#include "engine/task/task.h"
#include "regfile.pb-c.h"
#include "remap_file_path.pb-c.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#ifndef SECRETMEM_MAGIC
#define SECRETMEM_MAGIC 0x5345434d
#endif
#define MEM_MAJOR 1
#define LINK_PREFIX "link_remap."
#define LINK_TRIES 10000
#define DELETED " (deleted)"
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
	struct shmfiles shmfiles;
};

static bool recognise(const struct descriptor *f)
{
	struct statfs fs;

	if (!strncmp(f->target, "/secretmem", 10) && f->own_fd >= 0 && fstatfs(f->own_fd, &fs) == 0 && fs.f_type == SECRETMEM_MAGIC)
		return false; /* nothing but the name is a file's */
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

static bool ends_deleted(const char *name)
{
	const size_t size = strlen(name), n = strlen(DELETED);

	return size > n && !strcmp(name + size - n, DELETED);
}

/* The name without the mark that the kernel puts behind that of a deleted file; false: there is none. */
static bool strip_deleted(char *name)
{
	if (!ends_deleted(name))
		return false;
	name[strlen(name) - strlen(DELETED)] = '\0';
	return true;
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
		if ((r = ghost_write(d, f, id)))
			return r;
	}
	return write_remap(d, s, f->id, id, REMAP_TYPE__GHOST);
}

static void unlink_in(int root, const char *name)
{
	const char *base;
	_cleanup_close_ int dir = path_open_parent(root, name, &base);

	if (dir >= 0)
		unlinkat(dir, base, 0);
}

/* Each checkpoint has a name of its own, which its restore removes: earlier ones may have taken some. */
static int link_in(int root, const char *dir, const char *file, uint32_t id, char **ret)
{
	int r = -EEXIST;

	for (uint32_t i = id; r == -EEXIST && i - id < LINK_TRIES; i++) {
		char *link;
		if (asprintf(&link, "%s/" LINK_PREFIX "%u", dir, i) < 0)
			return -ENOMEM;
		const char *base;
		_cleanup_close_ int at = path_open_parent(root, link, &base);
		r = at < 0 ? at : linkat(AT_FDCWD, file, at, base, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
		if (r)
			free(link);
		else
			*ret = link;
	}
	return r;
}

/* A name for an open file in its directory or, where that was deleted as well, in the nearest above it. */
static int link_beside(const struct dump *d, struct descriptor *f, char **ret)
{
	char path[64];
	_cleanup_free_ char *dir = strdup(f->target);
	int r = dir ? -ENOENT : -ENOMEM;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->own_fd);
	while ((r == -ENOENT || r == -ENOTDIR) && dir[0]) {
		*strrchr(dir, '/') = '\0';
		r = link_in(d->root_fd, dir, path, f->id, ret);
	}
	return r;
}

/* Gives a file that lost the name it was opened by, but not all, another. */
static int capture_linked(struct dump *d, struct state *s, struct descriptor *f)
{
	char *link;

	if (!d->request->link_remap)
		return fd_error(d, f, -ENOTSUP, "was deleted under this name and has others; use --link-remap to save it");
	if (d->obstacles)
		return 0;
	int r = link_beside(d, f, &link);
	if (r)
		return fd_errno(d, f, r, "was deleted, and can't be linked beside its old name");
	char **slot = VEC_PUSH(&s->links);
	if (!slot) {
		unlink_in(d->root_fd, link);
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
	r = image_write_message(d->files, &entry.base);
	if (r)
		return error_errno(d->e, r, "cannot write files.img");
	return write_remap(d, s, f->id, entry.id, REMAP_TYPE__LINKED);
}

/* An overlay counts the names of a lower layer, also the one that it has taken away itself; what a file system has kept of it may be old (FUSE):
 * it is asked once more. */
static bool has_other_names(const struct descriptor *f)
{
	uint64_t names = f->st.st_nlink;
	struct statx now;
	struct statfs fs;

	if (!names || f->own_fd < 0)
		return names != 0;
	if (statx(f->own_fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_NLINK, &now) == 0)
		names = now.stx_nlink;
	return names > (names == 1 && fstatfs(f->own_fd, &fs) == 0 && fs.f_type == OVERLAYFS_SUPER_MAGIC);
}

/* What has not the name any more that it was opened by. */
static int capture_nameless(struct dump *d, struct state *s, struct descriptor *f, RegFileEntry *reg)
{
	bool marked = strip_deleted(f->target);
	pid_t dead;

	if (!marked && !procfile_is_dead(f, &dead))
		return fd_error(d, f, -ENOTSUP, "can't be found under that name any more (a mount hides it, or it is in another mount namespace); unmount what hides it");
	if (procfile_is_dead(f, &dead)) {
		reg->has_size = reg->has_mode = 0;
		return write_remap(d, s, f->id, (uint32_t)dead, REMAP_TYPE__PROCFS);
	}
	if (has_other_names(f) && !S_ISDIR(f->st.st_mode))
		return capture_linked(d, s, f);
	reg->has_size = 0;
	return capture_ghost(d, s, f);
}

static bool is_there(int root, const struct descriptor *f)
{
	struct stat there;

	return path_stat(root, f->target, &there) == 0 && there.st_ino == f->st.st_ino && there.st_dev == f->st.st_dev;
}

/* In another namespace than ours: what was opened before it was entered, or before its root became another, is ours. */
static bool is_outside(const struct dump *d, const struct descriptor *f)
{
	return d->mounts && mounts_of(d, f) < 0 && !is_there(d->root_fd, f) && is_there(0, f);
}

/* By another mount, below which restore finds it. */
static bool is_covered(const struct dump *d, const struct descriptor *f)
{
	return d->mounts && f->st.st_nlink && !ends_deleted(f->target) && mounts_reach(d, f);
}

int regfile_capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	struct state *s = state_of(d);
	uint32_t build_id[BUILD_ID_WORDS];
	int r = 0;

	if (!s)
		return error_set(d->e, -ENOMEM, "out of memory");
	reg.has_size = S_ISREG(f->st.st_mode);
	reg.size = (uint64_t)f->st.st_size;
	reg.has_mode = 1;
	reg.mode = f->st.st_mode;
	reg.has_outside = reg.outside = is_outside(d, f);
	if (!reg.outside && !is_there(d->root_fd, f) && !shmfile_find_name(d, f) && !is_covered(d, f))
		r = capture_nameless(d, s, f, &reg);
	else if (!(r = shmfile_capture(d, &s->shmfiles, f, &reg)))
		reg.n_build_id = validate_read_build_id(d, f, build_id);
	reg.build_id = build_id;
	reg.id = f->id;
	reg.flags = f->flags;
	reg.pos = f->pos;
	reg.fown = f->fown;
	reg.name = f->target;
	const int64_t mount = mounts_of(d, f);
	reg.has_mnt_id = mount >= 0;
	reg.mnt_id = (int32_t)mount;
	entry.reg = &reg;
	return r ? r : file_entry_write(d, &entry, f, FD_TYPES__REG);
}

static bool number_of_mount(const struct descriptor *f, uint64_t *ret)
{
	struct statx sx;

	if (f->own_fd < 0 || statx(f->own_fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) < 0 || !(sx.stx_mask & STATX_MNT_ID))
		return false;
	*ret = sx.stx_mnt_id;
	return true;
}

bool regfile_is_external(struct dump *d, const struct descriptor *f)
{
	uint64_t mount;

	return d->request->externals && d->request->externals->left_out.count && number_of_mount(f, &mount) &&
	       external_is_pair(d->request, "file", mount, f->st.st_ino);
}

int regfile_capture_external(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	uint64_t mount = 0;
	char name[64];

	number_of_mount(f, &mount);
	snprintf(name, sizeof(name), "file[%llx:%llx]", (unsigned long long)mount, (unsigned long long)f->st.st_ino);
	reg.id = f->id;
	reg.flags = f->flags;
	reg.pos = f->pos;
	reg.fown = f->fown;
	reg.name = name;
	reg.has_ext = reg.ext = 1;
	entry.reg = &reg;
	return file_entry_write(d, &entry, f, FD_TYPES__REG);
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
			unlink_in(d->root_fd, s->links.data[i]);
		free(s->links.data[i]);
	}
	VEC_FREE(&s->links);
	VEC_FREE(&s->shmfiles.seen);
	VEC_FREE(&s->ghosts);
	free(s);
	*at = NULL;
	return r;
}

/* ---- restore ---- */

/* What remap-fpath.img says of a file, or NULL. */
static const RemapFilePathEntry *find_remap(struct restore *s, uint32_t id)
{
	for (size_t i = 0; i < s->remaps.count; i++)
		if (s->remaps.data[i]->orig_id == id)
			return s->remaps.data[i];
	return NULL;
}

static RemapType remap_type(const RemapFilePathEntry *r)
{
	return r->has_remap_type ? r->remap_type : REMAP_TYPE__LINKED;
}

/* Whether it is of the type that was saved, and of one that opening does nothing to. */
static bool type_fits(const RegFileEntry *reg, const struct stat *st, int flags)
{
	const unsigned int device = major(st->st_rdev);

	if (reg->has_mode && (st->st_mode & S_IFMT) != (reg->mode & S_IFMT))
		return false;
	if (flags & O_PATH || S_ISREG(st->st_mode) || S_ISDIR(st->st_mode))
		return true;
	if (S_ISFIFO(st->st_mode))
		return flags & O_NONBLOCK;
	/* Memory and terminals: there are devices that act when they are opened. */
	return S_ISCHR(st->st_mode) && (device == MEM_MAJOR || flags & O_NOCTTY);
}

static int other_type(struct restore *s, const char *name)
{
	return error_set(s->e, -ESTALE, "%s is of another kind than at the dump; put back what was there", name);
}

static int open_where_it_was(struct restore *s, const RegFileEntry *reg, const char *name, int flags)
{
	return reg->outside ? path_open(mounts_outside(s), name, flags) : mounts_open(s, reg->has_mnt_id ? reg->mnt_id : -1, name, flags);
}

/* Looked at before it is opened for good. */
static int open_named(struct restore *s, const RegFileEntry *reg, const char *name, int flags)
{
	struct stat st, opened;
	_cleanup_close_ int at = open_where_it_was(s, reg, name, O_PATH | O_NOFOLLOW);

	if (at < 0)
		return path_error(s->e, at, name);
	if (fstat(at, &st) < 0)
		return error_errno(s->e, -errno, "cannot examine %s", name);
	if (!type_fits(reg, &st, flags))
		return other_type(s, name);
	int fd = open_where_it_was(s, reg, name, flags);
	if (fd < 0)
		return path_error(s->e, fd, name);
	if (fstat(fd, &opened) == 0 && opened.st_ino == st.st_ino && opened.st_dev == st.st_dev)
		return fd;
	close(fd);
	return error_set(s->e, -ESTALE, "%s was replaced while it was opened; try again", name);
}

static int open_ghost(struct restore *s, const RegFileEntry *reg, uint32_t id, int flags)
{
	char path[64];
	struct stat st;
	int ghost = ghost_fd(s, id, reg->name);

	if (ghost < 0)
		return ghost;
	if (fstat(ghost, &st) < 0 || !type_fits(reg, &st, flags))
		return other_type(s, reg->name);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ghost);
	int fd = open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? error_errno(s->e, -errno, "cannot open %s", reg->name) : fd;
}

/* Only names that a dump makes: it will be removed. */
static int open_linked(struct restore *s, const RegFileEntry *reg, uint32_t id, int flags)
{
	struct file *link = file_find(s, id);
	const char *base = link && link->entry->reg ? strrchr(link->entry->reg->name, '/') : NULL;

	if (!base || strncmp(base + 1, LINK_PREFIX, strlen(LINK_PREFIX)))
		return error_set(s->e, -EBADMSG, "remap-fpath.img gives %s another name (file %u) that no dump makes", reg->name, id);
	int fd = open_named(s, reg, link->entry->reg->name, flags);
	link->temporary = fd >= 0;
	return fd;
}

/* The caller's descriptor for it, or -1. */
static int given_for(struct restore *s, const RegFileEntry *reg)
{
	unsigned long long mount, inode;

	if (reg->ext && sscanf(reg->name, "file[%llx:%llx]", &mount, &inode) == 2)
		return external_given_pair(s->request, "file", mount, inode);
	return reg->ext ? -1 : external_given_path(s->request, reg->name);
}

int regfile_open(struct restore *s, struct file *f, int flags)
{
	const RegFileEntry *reg = f->entry->reg;
	const RemapFilePathEntry *remap = find_remap(s, f->id);
	int given = given_for(s, reg);

	if (given >= 0)
		return external_open(s, given, flags, reg->name);
	if (reg->ext)
		return error_set(s->e, -ENOENT, "%s lies outside the tree; give the tree a descriptor for it with --inherit-fd 'fd[N]:%s'", reg->name, reg->name);
	if (reg->flags & TMPFILE_ONLY)
		flags &= ~O_DIRECTORY;
	if (!remap)
		return open_named(s, reg, reg->name, flags);
	switch (remap_type(remap)) {
	case REMAP_TYPE__GHOST:
		return open_ghost(s, reg, remap->remap_id, flags);
	case REMAP_TYPE__LINKED:
		return open_linked(s, reg, remap->remap_id, flags);
	case REMAP_TYPE__PROCFS:
		return procfile_open_dead(s, reg, (pid_t)remap->remap_id, flags);
	default:
		return error_set(s->e, -EBADMSG, "remap-fpath.img speaks of file %u in a way that is not known", f->id);
	}
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const RegFileEntry *reg = f->entry->reg;

	if (!reg)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int flags = (int)(reg->flags & ~PAST_FLAGS);
	if (given_for(s, reg) >= 0) { /* its position is the caller's */
		*ret_fd = regfile_open(s, f, flags);
		return MIN(*ret_fd, 0);
	}
	if (!reg->ext && !find_remap(s, f->id) && procfile_task(s, reg)) {
		*ret_fd = -1;
		return procfile_prepare(s, reg);
	}
	int r = reg->ext ? 0 : shmfile_prepare(s, reg);
	if (r)
		return r;
	int fd = regfile_open(s, f, flags);
	r = fd < 0 ? fd : validate_unchanged(s, reg, fd);
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

static int late(struct restore *s, struct file *f, struct rtask *t, int fd)
{
	if (f->fd >= 0 || procfile_after_threads(s, f->entry->reg))
		return 0;
	return procfile_plan(s, f, t, fd, f->entry->reg->flags & ~PAST_FLAGS);
}

/* Of a process of the tree, which is there by now. */
static int fly(struct restore *s, struct file *f, int *ret_fd)
{
	const RegFileEntry *reg = f->entry->reg;
	int fd = open_where_it_was(s, reg, reg->name, (int)(reg->flags & ~PAST_FLAGS));

	if (fd < 0)
		return path_error(s->e, fd, reg->name);
	if (reg->pos && !(reg->flags & O_PATH))
		lseek(fd, (off_t)reg->pos, SEEK_SET);
	*ret_fd = fd;
	return 0;
}

static void release(struct restore *s, struct file *f)
{
	const char *base;

	if (!f->temporary || !s->succeeded)
		return;
	_cleanup_close_ int dir = path_open_parent(s->root_fd, f->entry->reg->name, &base);
	if (dir >= 0)
		unlinkat(dir, base, 0);
}

const struct kind kind_regfile = {
	.name = "a file",
	.summary = "Regular files, directories, symbolic links and the memory devices (null, zero, full, random): position, flags, "
		   "O_PATH, O_TMPFILE; files of /proc, of dead tasks too; deleted files and directories with their content, those with other "
		   "names by --link-remap; watches of dnotify (F_NOTIFY), which the kernel shows to nobody, are lost",
	.type = FD_TYPES__REG,
	.recognise = recognise,
	.capture = regfile_capture,
	.finish = finish,
	.create = create,
	.late = late,
	.fly = fly,
	.release = release,
};
