/* What mounts-N.img says, and the way into the namespace that is made of it; see mnt.h. It is made by mnt_make.c. */
#include "engine/ns/mnt.h"

#include "base/apart.h"
#include "engine/kinds/external.h"
#include "engine/ns/mnt_reach.h"
#include "engine/path.h"
#include "engine/plan/plan.h"
#include "engine/restore.h"
#include "mnt.pb-c.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>

#define OPTIONS_MAX 4000 /* mount(2) takes a page */
#define FLAGS (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME | MS_NODIRATIME | MS_RELATIME | 256U)
#define SB_FLAGS (MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC | MS_MANDLOCK | MS_LAZYTIME)

static const char *keep(struct mounts *m, const char *text)
{
	return text ? pool_copy(&m->pool, text, strlen(text) + 1) : "";
}

/* What the user has given for it, or NULL. */
static const char *given(const struct restore *s, const char *type, const char *key)
{
	if (s->request->externals)
		VEC_FOREACH(&s->request->externals->left_out, x)
			if (!strcmp(x->type, type) && !strcmp(x->id, key))
				return x->value;
	return NULL;
}

/* "dev[KEY]", as the source of a file system. */
static bool is_device(const char *source, char key[64])
{
	const size_t n = strlen(source);

	if (strncmp(source, "dev[", 4) || source[n - 1] != ']' || n - 5 >= 64)
		return false;
	memcpy(key, source + 4, n - 5);
	key[n - 5] = '\0';
	return true;
}

/* Whose parent is not among them: the root. Of what lies at "/" there are few. */
static bool is_root(const struct mounts *all, const struct mount *m)
{
	if (strcmp(m->point, "/"))
		return false;
	VEC_FOREACH(&all->list, x)
		if (x != m && x->id == m->parent_id)
			return false;
	return true;
}

/* What is given for one that comes from outside. */
static int resolve(struct restore *s, struct mounts *all, struct mount *m)
{
	const char *name = m->key;

	if (s->request->root && is_root(all, m)) {
		m->from = MOUNT_NAMED;
		m->key = s->request->root;
		return 0;
	}
	if (m->from == MOUNT_HOST && (!path_is_canonical(m->host_point) || !path_is_canonical(m->host_root) || !mount_below(m->root, m->host_root)))
		return error_set(s->e, -EBADMSG, "the image of the mount at %s is damaged", m->point);
	if (m->from == MOUNT_NAMED && !(m->key = given(s, "mnt", name)))
		return error_set(s->e, -ENOENT, "the mount at %s comes from outside the tree; say from where with --external 'mnt[%s]:PATH'", m->point, name);
	if (m->from == MOUNT_DEVICE && !(m->key = given(s, "dev", name)))
		return error_set(s->e, -ENOENT, "the mount at %s is of a device; say of which with --external 'dev[%s]:PATH'", m->point, name);
	if (m->from == MOUNT_NEW && m->type->way == FS_REFUSED && mounts_enabled(s->request, m->fstype))
		m->type = &fs_typed;
	return m->from != MOUNT_NEW || m->type->way != FS_REFUSED ? 0 :
		       error_set(s->e, -ENOTSUP, "a file system (%s) at %s can't be mounted again; use --enable-fs %s if it can", m->fstype, m->point, m->fstype);
}

static int take(struct restore *s, struct mounts *all, const MntEntry *e)
{
	struct mount *m = all->list.count < MOUNTS_MAX ? VEC_PUSH(&all->list) : NULL;
	const char *fstype = e->fsname && e->fsname[0] ? e->fsname : fs_name_of((uint32_t)e->fstype);

	if (!m)
		return error_set(s->e, all->list.count < MOUNTS_MAX ? -ENOMEM : -EBADMSG, "there are too many mounts");
	if (!fstype || strlen(e->options) > OPTIONS_MAX || strlen(e->source) >= PATH_MAX || e->deleted)
		return error_set(s->e, -EBADMSG, "the image of a mount (%u) is damaged", e->mnt_id);
	*m = (struct mount){ .id = e->mnt_id, .parent_id = e->parent_mnt_id, .dev = e->root_dev, .flags = e->flags & FLAGS, .sb_flags = e->sb_flags & SB_FLAGS,
			     .shared = e->shared_id, .master = e->master_id, .unbindable = e->flags & MS_UNBINDABLE, .shared_outside = e->shared_outside,
			     .master_outside = e->master_outside, .fd = -1, .type = fs_find_type(fstype), .root = keep(all, e->root), .point = keep(all, e->mountpoint),
			     .source = keep(all, e->source), .options = keep(all, e->options), .fstype = keep(all, fstype) };
	if (!m->root || !m->point || !m->source || !m->options || !m->fstype)
		return error_set(s->e, -ENOMEM, "out of memory");
	char key[64];
	if (e->ext_mount && e->host_point) {
		m->from = MOUNT_HOST;
		m->host_point = keep(all, e->host_point);
		m->host_root = keep(all, e->host_root ? e->host_root : "/");
	} else if (e->ext_mount) {
		m->from = MOUNT_NAMED;
		m->key = e->ext_key ? keep(all, e->ext_key) : m->point;
	} else if (is_device(m->source, key)) {
		m->from = MOUNT_DEVICE;
		m->key = keep(all, key);
	}
	return 0;
}

int mounts_load(struct restore *s, uint32_t id)
{
	struct image_file *file;
	char name[40];
	MntEntry *e;

	snprintf(name, sizeof(name), "mountpoints-%u.img", id);
	s->mounts = calloc(1, sizeof(*s->mounts));
	if (!s->mounts)
		return error_set(s->e, -ENOMEM, "out of memory");
	int r = image_open(s->dir, name, IMAGE_MAGIC_MOUNTPOINTS, &file);
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	while ((r = image_read_message(file, &mnt_entry__descriptor, (ProtobufCMessage **)&e)) == 1) {
		r = take(s, s->mounts, e);
		mnt_entry__free_unpacked(e, NULL);
		if (r)
			break;
	}
	image_close(file);
	if (r == -EBADMSG && !s->e->text[0])
		error_set(s->e, r, "%s is damaged", name);
	for (size_t i = 0; !r && i < s->mounts->list.count; i++)
		r = resolve(s, s->mounts, &s->mounts->list.data[i]);
	if (!r)
		r = mounts_plan(s->mounts, s->e);
	return r ? error_prefix(s->e, r, "mount namespace") : 0;
}

int mounts_make(struct restore *s, uint32_t id)
{
	struct mounts_job job = { .s = s, .mounts = s->mounts, .root = -1, .ns = -1 };

	job.reach = calloc(s->mounts->list.count, sizeof(*job.reach));
	job.proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = !job.reach ? -ENOMEM : job.proc < 0 ? -errno : 0;
	r = r ? error_errno(s->e, r, "cannot begin") : run_apart(NULL, mounts_build, &job);
	for (size_t i = 0; job.reach && i < s->mounts->list.count; i++)
		if (job.reach[i].group > 0)
			close(job.reach[i].group);
	free(job.reach);
	s->proc_fd = MAX(job.proc, 0);
	s->outside_fd = s->root_fd; /* where /proc is another for us */
	s->root_fd = MAX(job.root, 0);
	s->mnt_ns = MAX(job.ns, 0);
	if (r && !s->e->text[0])
		error_errno(s->e, r, "cannot make it");
	return r ? error_prefix(s->e, r, "mount namespace") : 0;
}

void mounts_plan_enter(struct restore *s, struct batch *b)
{
	if (!s->mnt_ns)
		return;
	batch_what(b, "enter the mount namespace of the tree");
	OP(b, __NR_setns, s->mnt_ns, CLONE_NEWNS);
}

static int open_in(const struct mount *m, const char *rest, int flags)
{
	struct open_how how = { .flags = (uint64_t)(unsigned int)(flags | O_CLOEXEC | O_NOCTTY),
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV };
	char path[64];

	if (flags & O_PATH)
		how.flags &= O_PATH | O_CLOEXEC | O_DIRECTORY | O_NOFOLLOW;
	if (rest[0]) {
		int fd = (int)syscall(__NR_openat2, m->fd, rest + 1, &how, sizeof(how));
		return fd < 0 ? -errno : fd;
	}
	/* Its root, which may be a file: nothing is looked up. */
	if (flags & O_PATH)
		return fcntl(m->fd, F_DUPFD_CLOEXEC, 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", m->fd);
	int fd = open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC | O_NOCTTY);
	return fd < 0 ? -errno : fd;
}

int mounts_open(struct restore *s, int64_t mount, const char *name, int flags)
{
	const struct mount *m = s->mounts && mount >= 0 && mount <= UINT32_MAX ? mounts_find(s->mounts, (uint32_t)mount) : NULL;
	const char *rest = m && m->fd >= 0 && path_is_canonical(name) ? mount_below(name, m->point) : NULL;
	int r = rest ? open_in(m, rest, flags) : -EXDEV;

	return r == -EXDEV ? path_open(s->root_fd, name, flags) : r;
}

int mounts_outside(const struct restore *s)
{
	return s->mounts ? s->outside_fd : s->root_fd;
}

int mounts_root_of(const struct restore *s, uint32_t mount)
{
	const struct mount *m = s->mounts ? mounts_find(s->mounts, mount) : NULL;

	return m ? m->fd : -1;
}

void mounts_forget(struct restore *s)
{
	int *const held[] = { &s->root_fd, &s->mnt_ns, &s->proc_fd, &s->outside_fd };

	for (size_t i = 0; i < ARRAY_SIZE(held); i++)
		if (*held[i] > 0) {
			close(*held[i]);
			*held[i] = 0;
		}
	mounts_free(TAKE_PTR(s->mounts));
}
