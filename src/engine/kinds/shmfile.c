/* See shmfile.h. Files of other tmpfs are files to whoever has put them there, and so is what is only open, or mapped for reading. */
#include "engine/kinds/shmfile.h"

#include "base/log.h"
#include "engine/memory/shmem.h"
#include "engine/path.h"
#include "engine/task/task.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#define PLACE "/dev/shm/"
/* Numbers of shared memory that neither anonymous mappings nor memfds reach. */
#define FIRST_SHMID 2000000U

static bool is_in_place(const char *name)
{
	return !strncmp(name, PLACE, strlen(PLACE));
}

static bool is_tmpfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

/* ---- dump ---- */

bool shmfile_find_name(struct dump *d, struct descriptor *f)
{
	const struct dirent *entry;
	struct stat st;
	bool found = false;

	if (!is_in_place(f->target) || !S_ISREG(f->st.st_mode) || !f->st.st_nlink || !is_tmpfs(f->own_fd))
		return false;
	int fd = d->root_fd ? path_open(d->root_fd, PLACE, O_RDONLY | O_DIRECTORY) : open(PLACE, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	while (dir && !found && (entry = readdir(dir))) {
		found = entry->d_ino == f->st.st_ino && fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == f->st.st_ino &&
			st.st_dev == f->st.st_dev;
		if (found)
			snprintf(f->target, sizeof(f->target), PLACE "%s", entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static int write_content(struct dump *d, struct descriptor *f, uint32_t shmid)
{
	char name[64];

	snprintf(name, sizeof(name), "/proc/self/fd/%d", f->own_fd);
	_cleanup_close_ int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fd_errno(d, f, -errno, "can't be read");
	snprintf(name, sizeof(name), "pagemap-shmem-%u.img", shmid);
	return shmem_write_pages(d, fd, (uint64_t)f->st.st_size, name);
}

int shmfile_capture(struct dump *d, struct shmfiles *files, struct descriptor *f, RegFileEntry *reg)
{
	uint32_t shmid = 0;
	int r = 0;

	if (!f->vma || !f->vma->shared || !(f->vma->prot & PROT_WRITE) || !S_ISREG(f->st.st_mode) || !is_in_place(f->target) || !is_tmpfs(f->own_fd))
		return 0;
	for (size_t i = 0; i < files->seen.count; i++)
		if (files->seen.data[i].dev == f->st.st_dev && files->seen.data[i].ino == f->st.st_ino)
			shmid = FIRST_SHMID + (uint32_t)i;
	if (!shmid) {
		struct shmfile *x = VEC_PUSH(&files->seen);
		if (!x)
			return error_set(d->e, -ENOMEM, "out of memory");
		*x = (struct shmfile){ f->st.st_dev, f->st.st_ino };
		shmid = FIRST_SHMID + (uint32_t)files->seen.count - 1;
		r = write_content(d, f, shmid);
	}
	reg->has_shmid = reg->has_uid = reg->has_gid = 1;
	reg->shmid = shmid;
	reg->uid = f->st.st_uid;
	reg->gid = f->st.st_gid;
	return r;
}

/* ---- restore ---- */

/* A lease for writing is given only when nobody else has the file open or mapped (fcntl(2)). */
static bool is_used_by_others(int fd)
{
	bool used = fcntl(fd, F_SETLEASE, F_WRLCK) < 0 && errno == EAGAIN;

	if (!used)
		fcntl(fd, F_SETLEASE, F_UNLCK);
	return used;
}

static int make(struct restore *s, const RegFileEntry *reg, int dir, const char *base, int *ret)
{
	int fd = openat(dir, base, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make %s again", reg->name);
	*ret = fd;
	struct shmfile_made *slot = VEC_PUSH(&s->shmfiles.made);
	if (!slot) {
		unlinkat(dir, base, 0);
		return error_set(s->e, -ENOMEM, "out of memory");
	}
	slot->name = reg->name;
	if (!is_tmpfs(fd))
		return error_set(s->e, -ESTALE, "%s is not in memory here: mount a tmpfs at /dev/shm", reg->name);
	if (fchown(fd, reg->uid, reg->gid) < 0 || fchmod(fd, reg->mode & 07777) < 0)
		return error_errno(s->e, -errno, "cannot make %s again", reg->name);
	return 0;
}

/* One that is there. 1: it is not to be touched. */
static int look_at(struct restore *s, const RegFileEntry *reg, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(s->e, -errno, "cannot examine %s", reg->name);
	if (!S_ISREG(st.st_mode) || !is_tmpfs(fd) || st.st_uid != reg->uid)
		return error_set(s->e, -ESTALE, "%s is another file than at the dump, or another user's; remove it", reg->name);
	if (!is_used_by_others(fd))
		return 0;
	log_warning("%s stays as it is, since a process outside of the checkpoint uses it; what it was at the dump is not put back", reg->name);
	return 1;
}

static int fill(struct restore *s, const RegFileEntry *reg, int fd)
{
	char name[64];

	if (ftruncate(fd, 0) < 0 || ftruncate(fd, (off_t)reg->size) < 0)
		return error_errno(s->e, -errno, "cannot give %s its size of %llu bytes", reg->name, (unsigned long long)reg->size);
	snprintf(name, sizeof(name), "pagemap-shmem-%u.img", reg->shmid);
	int r = shmem_read_pages(s, fd, name);
	return r == -ENOENT ? error_set(s->e, -EBADMSG, "%s is missing, the content of %s", name, reg->name) : r;
}

static int prepare_one(struct restore *s, const RegFileEntry *reg)
{
	const uid_t only = s->request->only_uid;
	_cleanup_close_ int fd = -1;
	const char *base;

	if (!path_is_canonical(reg->name) || !is_in_place(reg->name) || reg->shmid < FIRST_SHMID || !reg->has_uid || !reg->has_gid || !S_ISREG(reg->mode))
		return error_set(s->e, -EBADMSG, "%s is said to be shared memory, which it can't be", reg->name);
	if (only && reg->uid != only)
		return error_set(s->e, -EPERM, "%s belongs to another user (%u)", reg->name, reg->uid);
	_cleanup_close_ int dir = path_open_parent(s->root_fd, reg->name, &base);
	if (dir < 0)
		return path_error(s->e, dir, reg->name);
	fd = path_open(s->root_fd, reg->name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	int r = fd == -ENOENT ? make(s, reg, dir, base, &fd) : fd < 0 ? path_error(s->e, fd, reg->name) : look_at(s, reg, fd);
	if (!r)
		r = fill(s, reg, fd);
	return MIN(r, 0);
}

static bool is_done(const struct restore *s, uint32_t shmid)
{
	for (size_t i = 0; i < s->shmfiles.done.count; i++)
		if (s->shmfiles.done.data[i] == shmid)
			return true;
	return false;
}

int shmfile_prepare(struct restore *s, const RegFileEntry *first)
{
	int r = 0;

	if (s->shmfiles.prepared || !is_in_place(first->name))
		return 0;
	s->shmfiles.prepared = true;
	for (size_t i = 0; !r && i < s->files.count; i++) {
		const RegFileEntry *reg = s->files.data[i].entry->reg;
		if (!reg || !reg->has_shmid || is_done(s, reg->shmid))
			continue;
		r = prepare_one(s, reg);
		uint32_t *slot = r ? NULL : VEC_PUSH(&s->shmfiles.done);
		if (slot)
			*slot = reg->shmid;
		else if (!r)
			r = error_set(s->e, -ENOMEM, "out of memory");
	}
	return r;
}

void shmfile_release(struct restore *s)
{
	const char *base;

	for (size_t i = 0; i < s->shmfiles.made.count && !s->succeeded; i++) {
		_cleanup_close_ int dir = path_open_parent(s->root_fd, s->shmfiles.made.data[i].name, &base);
		if (dir >= 0)
			unlinkat(dir, base, 0);
	}
	VEC_FREE(&s->shmfiles.made);
	VEC_FREE(&s->shmfiles.done);
}
