/*
 * Makes a mount namespace as it was; see mnt.h. By a process apart, in a copy of our own namespace of which nothing reaches ours:
 *
 *	what comes from the host is copied, each mount by itself;
 *	a tmpfs over /proc is the yard, where file systems are mounted and filled, and mounts of the same bound;
 *	all are attached to each other, and the root becomes ours (pivot_root), which takes the yard and the rest away;
 *	flags; propagation; and what came out is compared with what was asked.
 *
 * Descriptors of the mounts stay with the coordinator. move_mount(2), mount_setattr(2): Linux 5.12; MOVE_MOUNT_SET_GROUP: 5.15.
 */
#include "engine/ns/mnt.h"

#include "engine/ns/mnt_reach.h"
#include "engine/restore.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define YARD "/proc"
#define TEXT_MAX (64UL << 20)
#ifndef MOVE_MOUNT_SET_GROUP
#define MOVE_MOUNT_SET_GROUP 0x00000100
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#define NOSYMFOLLOW 256U /* as mount(2) has it */
#define ALL_ATTRIBUTES (MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR__ATIME | MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOSYMFOLLOW)

static int fail(struct mounts_job *job, const struct mount *m, int r, const char *what)
{
	return error_errno(job->s->e, r, "cannot %s the mount at %s (%s)", what, m->point, m->fstype);
}

static int open_beneath(int dir, const char *name)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV };
	int fd = (int)syscall(__NR_openat2, dir, name, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
}

static int attach(int from, int to)
{
	return syscall(__NR_move_mount, from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno : 0;
}

/* ---- the yard ---- */

/* A place in the yard for something of the same type. */
static int make_place(size_t index, const char *part, bool dir, char path[64])
{
	snprintf(path, 64, YARD "/%zu%s", index, part);
	return (dir ? mkdir(path, 0700) : mknod(path, S_IFREG | 0600, 0)) < 0 ? -errno : 0;
}

static int put_into_yard(size_t index, const char *part, int fd)
{
	struct stat st;
	char path[64];

	if (fstat(fd, &st) < 0)
		return -errno;
	int r = make_place(index, part, S_ISDIR(st.st_mode), path);
	if (r)
		return r;
	_cleanup_close_ int place = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	return place < 0 ? -errno : attach(fd, place);
}

/* Another mount of what lies at `rest` ("" or "/a/b") below an attached one; detached. */
static int bind(int fd, const char *rest)
{
	_cleanup_close_ int at = rest[0] ? open_beneath(fd, rest + 1) : -1;
	int r = rest[0] && at < 0 ? at : (int)syscall(__NR_open_tree, rest[0] ? at : fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	return r < 0 ? (rest[0] && at < 0 ? r : -errno) : r;
}

static int fill(struct mounts_job *job, const struct mount *m)
{
	struct restore *s = job->s;
	struct image_file *file;
	char name[64];

	snprintf(name, sizeof(name), "tmpfs-dev-%u.tar.gz.img", m->dev);
	int r = image_open_raw(s->dir, name, &file);
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	r = tree_unpack(m->fd, file, s->e);
	image_close(file);
	return r ? error_prefix(s->e, r, "%s, the content of %s", name, m->point) : 0;
}

/* The file system itself, not only the mount; once it is filled. */
static int make_readonly(int fd)
{
	_cleanup_close_ int fs = (int)syscall(__NR_fspick, fd, "", FSPICK_EMPTY_PATH | FSPICK_CLOEXEC);

	if (fs < 0 || syscall(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 || syscall(__NR_fsconfig, fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0)
		return -errno;
	return 0;
}

static int mount_again(struct mounts_job *job, struct mount *m, size_t index)
{
	const bool content = m->from == MOUNT_NEW && m->type->way == FS_CONTENT;
	const char *source = m->from == MOUNT_DEVICE ? m->key : m->source;
	char path[64];
	int r = make_place(index, "", true, path);

	if (!r && mount(source, path, m->fstype, content ? m->sb_flags & ~(uint32_t)MS_RDONLY : m->sb_flags, m->options) < 0)
		r = -errno;
	if (!r && (m->fd = (int)syscall(__NR_open_tree, AT_FDCWD, path, OPEN_TREE_CLOEXEC)) < 0)
		r = -errno;
	if (r)
		return fail(job, m, r, "make");
	if (content && (r = fill(job, m)))
		return r;
	if (content && m->sb_flags & MS_RDONLY && (r = make_readonly(m->fd)))
		return fail(job, m, r, "make read-only the file system of");
	return 0;
}

/* A part of what m->fd is, in its place. */
static int narrow(struct mounts_job *job, struct mount *m, size_t index, const char *rest)
{
	int r = rest[0] ? bind(m->fd, rest) : 0;

	if ((r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EXDEV) && m->from == MOUNT_HOST)
		return error_set(job->s->e, r, "there is no %s%s any more, which was mounted at %s; put it back%s", strcmp(m->host_point, "/") ? m->host_point : "", rest, m->point,
				 m->parent == MOUNT_NONE ? ", or use --root" : "");
	if (r < 0)
		return fail(job, m, r, "find what belongs to");
	if (!rest[0])
		return 0;
	close(m->fd);
	m->fd = r;
	r = put_into_yard(index, "part", m->fd);
	return r ? fail(job, m, r, "prepare") : 0;
}

static int make_base(struct mounts_job *job, struct mount *m, size_t index)
{
	const struct reach *host = &job->reach[index];
	int r;

	if (m->from == MOUNT_NEW || m->from == MOUNT_DEVICE) {
		r = mount_again(job, m, index);
		return r ? r : narrow(job, m, index, m->from == MOUNT_DEVICE || strcmp(m->root, "/") ? mount_below(m->root, "/") : "");
	}
	if (m->fd < 0)
		return error_set(job->s->e, -ENOENT, "the mount at %s was of a file system (%s) that is not mounted at %s here: mount it there, or use --root where it is the root",
				 m->point, m->fstype, host->point);
	r = put_into_yard(index, "", m->fd);
	if (r)
		return fail(job, m, r, "prepare");
	return m->from == MOUNT_HOST ? narrow(job, m, index, mount_below(m->root, m->host_root)) : 0;
}

static int make_bound(struct mounts_job *job, struct mount *m)
{
	const struct mount *base = &job->mounts->list.data[m->bind_from];
	const char *rest = mount_below(m->root, base->root);
	int fd = rest ? bind(base->fd, rest) : -EBADMSG;

	if (fd < 0)
		return fail(job, m, fd, "bind");
	m->fd = fd;
	return 0;
}

static int make_all(struct mounts_job *job)
{
	struct mounts *all = job->mounts;
	int r = mount("fermata", YARD, "tmpfs", MS_NOSUID, "mode=700") < 0 ? error_errno(job->s->e, -errno, "cannot mount a tmpfs") : 0;

	for (size_t i = 0; !r && i < all->list.count; i++)
		if (all->list.data[i].from != MOUNT_BIND)
			r = make_base(job, &all->list.data[i], i);
	for (size_t i = 0; !r && i < all->list.count; i++)
		if (all->list.data[i].from == MOUNT_BIND)
			r = make_bound(job, &all->list.data[i]);
	/* The root must be mounted somewhere to become one. */
	struct mount *root = &all->list.data[all->root];
	if (!r && root->from == MOUNT_BIND && (r = put_into_yard(all->root, "root", root->fd)))
		r = fail(job, root, r, "prepare");
	return r;
}

/* ---- copies of what the host has ---- */

static int copy_from_host(struct mounts_job *job)
{
	struct mounts *all = job->mounts;
	_cleanup_free_ struct reach *list = calloc(all->list.count, sizeof(*list));
	size_t n = 0;

	if (!list)
		return error_set(job->s->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&all->list, m)
		if (m->from == MOUNT_HOST)
			list[n++] = (struct reach){ m->host_point, m->host_root, m->fstype, m->dev, m->shared_outside || m->master_outside, -1, -1 };
	int r = reach_mounts(job->proc, list, n);
	if (r)
		return error_errno(job->s->e, r, "cannot make a namespace");
	n = 0;
	for (size_t i = 0; i < all->list.count; i++) {
		struct mount *m = &all->list.data[i];
		if (m->from == MOUNT_HOST) {
			job->reach[i] = list[n++];
			m->fd = job->reach[i].fd;
		}
		if (m->from != MOUNT_NAMED)
			continue;
		m->fd = (int)syscall(__NR_open_tree, AT_FDCWD, m->key, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
		if (m->fd < 0)
			return error_errno(job->s->e, -errno, "cannot take %s for the mount at %s", m->key, m->point);
	}
	return 0;
}

/* ---- one tree ---- */

static int find_place(const struct mount *m, const struct mount *parent)
{
	const char *rest = mount_below(m->point, parent->point);

	return rest[0] ? open_beneath(parent->fd, rest + 1) : fcntl(parent->fd, F_DUPFD_CLOEXEC, 0);
}

static int attach_all(struct mounts_job *job)
{
	struct mounts *all = job->mounts;

	VEC_FOREACH(&all->attach, i) {
		struct mount *m = &all->list.data[*i];
		_cleanup_close_ int place = find_place(m, &all->list.data[m->parent]);
		struct stat st;
		if (place < 0 || fstat(place, &st) < 0 || S_ISLNK(st.st_mode))
			return error_set(job->s->e, place < 0 ? place : -ELOOP, "there is no %s any more, where something was mounted (%s); make it again", m->point, m->fstype);
		int r = attach(m->fd, place);
		if (r)
			return fail(job, m, r, "put into its place");
	}
	return 0;
}

static int change_root(struct mounts_job *job)
{
	const struct mount *root = &job->mounts->list.data[job->mounts->root];

	if (fchdir(root->fd) < 0)
		return fail(job, root, -errno, "enter");
	if (syscall(__NR_pivot_root, ".", ".") == 0) {
		if (umount2(".", MNT_DETACH) < 0)
			return fail(job, root, -errno, "leave what is below");
	} else {
		/* The first root of a machine can't be exchanged; it is covered. */
		_cleanup_close_ int old = errno == EINVAL ? open("/", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
		int r = old < 0 ? -errno : attach(root->fd, old);
		if (r || chroot(".") < 0)
			return fail(job, root, r ? r : -errno, "make the root of");
	}
	return chdir("/") < 0 ? fail(job, root, -errno, "enter") : 0;
}

/* ---- flags and propagation ---- */

static int set_attributes(int fd, uint64_t set, uint64_t clear, uint64_t propagation)
{
	struct mount_attr attr = { .attr_set = set, .attr_clr = clear, .propagation = propagation };

	return syscall(__NR_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

static int set_flags(const struct mount *m)
{
	static const struct {
		uint32_t flag;
		uint64_t attribute;
	} flags[] = { { MS_RDONLY, MOUNT_ATTR_RDONLY }, { MS_NOSUID, MOUNT_ATTR_NOSUID },	{ MS_NODEV, MOUNT_ATTR_NODEV },
		      { MS_NOEXEC, MOUNT_ATTR_NOEXEC }, { MS_NODIRATIME, MOUNT_ATTR_NODIRATIME }, { NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW } };
	uint64_t set = m->flags & MS_NOATIME ? MOUNT_ATTR_NOATIME : m->flags & MS_RELATIME ? MOUNT_ATTR_RELATIME : MOUNT_ATTR_STRICTATIME;

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		set |= m->flags & flags[i].flag ? flags[i].attribute : 0;
	int r = set_attributes(m->fd, set, ALL_ATTRIBUTES, 0);
	/* Before Linux 5.14 one of them is not known. */
	return r == -EINVAL && !(m->flags & NOSYMFOLLOW) ? set_attributes(m->fd, set, ALL_ATTRIBUTES & ~(uint64_t)MOUNT_ATTR_NOSYMFOLLOW, 0) : r;
}

static int join(struct mounts_job *job, const struct mount_step *step)
{
	const struct mount *m = &job->mounts->list.data[step->mount];
	int from = step->from == MOUNT_NONE ? -1 : step->from == step->mount ? job->reach[step->mount].group : job->mounts->list.data[step->from].fd;

	if (step->from == MOUNT_NONE)
		return 0;
	if (from < 0)
		return error_set(job->s->e, -ESTALE, "the mount at %s shared with the outside, which is not there any more; use --external 'mnt[%s]:PATH' at dump", m->point, m->point);
	if (syscall(__NR_move_mount, from, "", m->fd, "", MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
		return error_errno(job->s->e, -errno, "cannot let the mount at %s share with others (Linux 5.15; and they must)", m->point);
	return 0;
}

static int propagate(struct mounts_job *job)
{
	int r = 0;

	VEC_FOREACH(&job->mounts->steps, step) {
		const struct mount *m = &job->mounts->list.data[step->mount];
		r = join(job, step);
		if (r)
			return r;
		if (step->slave)
			r = set_attributes(m->fd, 0, 0, MS_SLAVE);
		if (!r && step->share)
			r = set_attributes(m->fd, 0, 0, MS_SHARED);
		if (r)
			return fail(job, m, r, "set the propagation of");
	}
	VEC_FOREACH(&job->mounts->list, m)
		if (m->unbindable && (r = set_attributes(m->fd, 0, 0, MS_UNBINDABLE)))
			return fail(job, m, r, "set the propagation of");
	return 0;
}

/* ---- what came out ---- */

static int compare(struct mounts_job *job)
{
	_cleanup_free_ char *text = NULL;
	struct proc_mounts made = {};
	struct statx sx;

	VEC_FOREACH(&job->mounts->list, m) {
		if (statx(m->fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) < 0)
			return fail(job, m, -errno, "look at");
		m->made_id = (uint32_t)sx.stx_mnt_id;
	}
	int r = read_file_at(job->proc, "thread-self/mountinfo", TEXT_MAX, &text, NULL);
	if (!r)
		r = proc_parse_mounts(text, &made);
	r = r ? error_errno(job->s->e, r, "cannot read mountinfo") : mounts_compare(job->mounts, &made, job->s->e);
	proc_mounts_finish(&made);
	return r;
}

int mounts_build(void *argument)
{
	struct mounts_job *job = argument;
	int r = copy_from_host(job);

	if (!r)
		r = make_all(job);
	if (!r)
		r = attach_all(job);
	if (!r)
		r = change_root(job);
	VEC_FOREACH(&job->mounts->list, m)
		if (!r && (r = set_flags(m)))
			r = fail(job, m, r, "set the flags of");
	if (!r)
		r = propagate(job);
	if (!r)
		r = compare(job);
	if (r)
		return r;
	job->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	job->ns = openat(job->proc, "thread-self/ns/mnt", O_RDONLY | O_CLOEXEC);
	return job->root < 0 || job->ns < 0 ? error_errno(job->s->e, -errno, "cannot open it") : 0;
}
