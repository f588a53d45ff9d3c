/*
 * memfd_create(2): name, size, owner, seals and content, once for all descriptions and mappings of the file. The content is in
 * pagemap-shmem-ID.img. Seals are put back when every task has its mappings, which they may forbid.
 */
#include "engine/kinds/kind.h"
#include "engine/memory/shmem.h"
#include "engine/task/task.h"
#include "memfd.pb-c.h"

#include <fcntl.h>
#include <sys/mman.h>

#define PREFIX "/memfd:"
/* Numbers of shared memory that anonymous mappings do not reach. */
#define FIRST_SHMID 1000000U

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif

struct seen {
	dev_t dev;
	ino_t ino;
	uint32_t id;
};

struct state {
	VEC(struct seen) seen;
	struct image_file *image;
};

extern const struct kind kind_memfd;

static bool recognise(const struct descriptor *f)
{
	return !strncmp(f->target, PREFIX, sizeof(PREFIX) - 1) && S_ISREG(f->st.st_mode);
}

static int write_inode(struct dump *d, struct descriptor *f, struct state *s, uint32_t id)
{
	MemfdInodeEntry e = MEMFD_INODE_ENTRY__INIT;
	char name[64];
	int seals = fcntl(f->own_fd, F_GET_SEALS);
	int r = s->image ? 0 : image_create(d->dir, "memfd.img", IMAGE_MAGIC_MEMFD, &s->image);

	if (r)
		return error_errno(d->e, r, "cannot create memfd.img");
	_cleanup_free_ char *plain = strdup(f->target + sizeof(PREFIX) - 1);
	if (!plain)
		return error_set(d->e, -ENOMEM, "out of memory");
	size_t size = strlen(plain), n = strlen(" (deleted)");
	if (size >= n && !strcmp(plain + size - n, " (deleted)"))
		plain[size - n] = '\0';
	e.name = plain;
	e.uid = f->st.st_uid;
	e.gid = f->st.st_gid;
	e.size = (uint64_t)f->st.st_size;
	e.shmid = FIRST_SHMID + id;
	e.seals = seals < 0 ? F_SEAL_SEAL : (uint32_t)seals;
	e.inode_id = id;
	e.has_mode = 1;
	e.mode = f->st.st_mode & 07777;
	e.has_hugetlb_flag = f->st.st_blksize != PAGE_SIZE; /* those flags of memfd_create(2) */
	e.hugetlb_flag = e.has_hugetlb_flag ? MFD_HUGETLB | (uint32_t)__builtin_ctzl((unsigned long)f->st.st_blksize) << 26 : 0;
	r = image_write_message(s->image, &e.base);
	if (r)
		return error_errno(d->e, r, "cannot write memfd.img");
	snprintf(name, sizeof(name), "/proc/self/fd/%d", f->own_fd);
	_cleanup_close_ int fd = open(name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fd_errno(d, f, -errno, "can't be read");
	snprintf(name, sizeof(name), "pagemap-shmem-%u.img", e.shmid);
	return shmem_write_pages(d, fd, e.size, name);
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	MemfdFileEntry e = MEMFD_FILE_ENTRY__INIT;
	void **at = kind_state(d, &kind_memfd);
	struct state *s = *at = *at ? *at : calloc(1, sizeof(*s));
	uint32_t id = 0;

	if (!s)
		return error_set(d->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&s->seen, x)
		if (x->dev == f->st.st_dev && x->ino == f->st.st_ino)
			id = x->id;
	if (!id) {
		struct seen *x = VEC_PUSH(&s->seen);
		if (!x)
			return error_set(d->e, -ENOMEM, "out of memory");
		*x = (struct seen){ f->st.st_dev, f->st.st_ino, id = (uint32_t)s->seen.count };
		int r = write_inode(d, f, s, id);
		if (r)
			return r;
	}
	e.id = f->id;
	e.flags = f->flags;
	e.pos = f->pos;
	e.fown = f->fown;
	e.inode_id = id;
	entry.memfd = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__MEMFD);
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;
	int r = 0;

	if (!s)
		return 0;
	if (s->image && (r = image_close(s->image)))
		r = error_errno(d->e, r, "cannot write memfd.img");
	VEC_FREE(&s->seen);
	free(s);
	*at = NULL;
	return r;
}

/* ---- restore ---- */

static int find_inode(struct restore *s, uint32_t id, MemfdInodeEntry **ret)
{
	struct image_file *file;
	int r = image_open(s->dir, "memfd.img", IMAGE_MAGIC_MEMFD, &file);

	if (r)
		return error_errno(s->e, r, "cannot read memfd.img");
	while ((r = image_read_message(file, &memfd_inode_entry__descriptor, (ProtobufCMessage **)ret)) == 1) {
		if ((*ret)->inode_id == id)
			break;
		memfd_inode_entry__free_unpacked(*ret, NULL);
	}
	image_close(file);
	return r == 1 ? 0 : error_set(s->e, -EBADMSG, "memfd.img is damaged, or lacks number %u", id);
}

static int make(struct restore *s, const MemfdInodeEntry *e)
{
	char name[64];
	unsigned int huge = e->hugetlb_flag & (MFD_HUGETLB | 0x3fU << 26);
	unsigned int flags = MFD_CLOEXEC | huge | (e->seals & F_SEAL_SEAL ? 0 : MFD_ALLOW_SEALING);
	int fd = memfd_create(e->name, flags | (e->seals & F_SEAL_EXEC ? MFD_NOEXEC_SEAL : 0));

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(e->name, flags);
	/* One that has seals and is sealed: the last seal comes with the others. */
	if (fd >= 0 && e->seals & F_SEAL_SEAL && e->seals & ~(uint32_t)(F_SEAL_SEAL | F_SEAL_EXEC)) {
		close(fd);
		fd = memfd_create(e->name, MFD_CLOEXEC | huge | MFD_ALLOW_SEALING);
	}
	if (fd < 0 || ftruncate(fd, (off_t)e->size) < 0 || fchown(fd, e->uid, e->gid) < 0 || (e->has_mode && fchmod(fd, e->mode) < 0)) {
		int r = error_errno(s->e, -errno, "cannot make memfd %s", e->name);
		if (fd >= 0)
			close(fd);
		return r;
	}
	snprintf(name, sizeof(name), "pagemap-shmem-%u.img", e->shmid);
	int r = shmem_read_pages(s, fd, name);
	if (r && r != -ENOENT) {
		close(fd);
		return r;
	}
	return restore_hold(s, fd);
}

static int memfd_of(struct restore *s, uint32_t id)
{
	MemfdInodeEntry *inode;

	VEC_FOREACH(&s->memfds, m)
		if (m->id == id)
			return m->fd;
	int r = find_inode(s, id, &inode);
	if (r)
		return r;
	int fd = make(s, inode);
	struct held *slot = fd < 0 ? NULL : VEC_PUSH(&s->memfds);
	if (slot)
		*slot = (struct held){ id, fd, inode->seals };
	memfd_inode_entry__free_unpacked(inode, NULL);
	return fd < 0 ? fd : slot ? fd : error_set(s->e, -ENOMEM, "out of memory");
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const MemfdFileEntry *e = f->entry->memfd;
	char path[64];

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int made = memfd_of(s, e->inode_id);
	if (made < 0)
		return made;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", made);
	int fd = open(path, (int)(e->flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC)) | O_CLOEXEC);
	if (fd < 0 || (e->pos && lseek(fd, (off_t)e->pos, SEEK_SET) < 0)) {
		int r = error_errno(s->e, -errno, "cannot open a memfd");
		if (fd >= 0)
			close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static int settle(struct restore *s, struct file *f)
{
	VEC_FOREACH(&s->memfds, m) {
		uint32_t seals = (uint32_t)m->value;
		m->value = 0;
		if (seals && fcntl(m->fd, F_GET_SEALS) != (int)seals && fcntl(m->fd, F_ADD_SEALS, seals) < 0)
			return error_errno(s->e, -errno, "cannot seal a memfd");
	}
	return 0;
}

const struct kind kind_memfd = {
	.name = "a memfd",
	.summary = "memfd: content, size, owner, seals, huge pages; mapped or open",
	.type = FD_TYPES__MEMFD,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = create,
	.settle = settle,
};
