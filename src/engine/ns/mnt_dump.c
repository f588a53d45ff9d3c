/*
 * Dump of a mount namespace; see mnt.h. The coordinator stays in its own: of the tree's it reads mountinfo, and has a descriptor of the root, in
 * which names are looked up (engine/path.h). Content of file systems is read through detached copies of their mounts, so that nothing hides a part of it.
 */
#include "engine/ns/mnt.h"

#include "base/apart.h"
#include "base/log.h"
#include "engine/kinds/external.h"
#include "engine/kinds/kind.h"
#include "engine/ns/mnt_reach.h"
#include "engine/ns/ns.h"
#include "engine/path.h"
#include "engine/task/task.h"
#include "mnt.pb-c.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>

#define TEXT_MAX (64UL << 20)
#define OPTIONS_MAX 4000 /* mount(2) takes a page */
#define GONE "//deleted"

extern const struct ns_kind ns_mnt;

/* ---- what there is ---- */

struct entering {
	int ns, proc;
	int root; /* results */
	char *text;
	struct reach *reach;
	size_t n_reach;
};

static int enter(void *argument)
{
	struct entering *x = argument;

	if (setns(x->ns, CLONE_NEWNS) < 0)
		return -errno;
	if (x->reach)
		return reach_mounts(x->proc, x->reach, x->n_reach);
	x->root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return x->root < 0 ? -errno : read_file_at(x->proc, "thread-self/mountinfo", TEXT_MAX, &x->text, NULL);
}

/* In the tree's namespace, by a process apart. */
static int within(struct dump *d, struct entering *x)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", d->request->pid);
	_cleanup_close_ int ns = open(path, O_RDONLY | O_CLOEXEC), proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	x->ns = ns;
	x->proc = proc;
	x->root = -1;
	int r = ns < 0 || proc < 0 ? -errno : run_apart(NULL, enter, x);
	return r ? error_errno(d->e, r, "cannot look into its mount namespace") : 0;
}

static bool ends_in(const char *text, const char *end)
{
	const size_t n = strlen(text), size = strlen(end);

	return n >= size && !strcmp(text + n - size, end);
}

static const char *keep(struct mounts *m, const char *text)
{
	return pool_copy(&m->pool, text, strlen(text) + 1);
}

static bool is_skipped(const struct dump *d, const char *point)
{
	for (size_t i = 0; i < d->request->n_skip_mounts; i++)
		if (!strcmp(d->request->skip_mounts[i], point))
			return true;
	return false;
}

/* Also below one that is left out. */
static bool is_left_out(const struct dump *d, const struct proc_mounts *all, const struct proc_mount *x, const bool *kept)
{
	if (is_skipped(d, x->point))
		return true;
	for (size_t i = 0; &all->list.data[i] < x; i++)
		if (all->list.data[i].id == x->parent)
			return !kept[i];
	return false;
}

static int take(struct dump *d, struct mounts *m, const struct proc_mount *x)
{
	struct mount *to = VEC_PUSH(&m->list);

	if (!to)
		return error_set(d->e, -ENOMEM, "out of memory");
	*to = (struct mount){ .id = x->id, .parent_id = x->parent, .dev = x->dev, .shared = x->shared, .master = x->master, .unbindable = x->unbindable, .fd = -1,
			      .type = fs_find_type(x->fstype), .root = keep(m, x->root), .point = keep(m, x->point), .source = keep(m, x->source), .fstype = keep(m, x->fstype) };
	int r = mount_parse_flags(&m->pool, x->options, &to->flags, NULL);
	if (!r)
		r = mount_parse_flags(&m->pool, x->super, &to->sb_flags, &to->options);
	if (r || !to->root || !to->point || !to->source || !to->fstype)
		return error_set(d->e, -ENOMEM, "out of memory");
	return 0;
}

static int take_all(struct dump *d, struct mounts *m, const struct proc_mounts *all)
{
	_cleanup_free_ bool *kept = calloc(all->list.count + 1, sizeof(*kept));
	int r = kept ? 0 : error_set(d->e, -ENOMEM, "out of memory");

	for (size_t i = 0; !r && i < all->list.count; i++) {
		kept[i] = !is_left_out(d, all, &all->list.data[i], kept);
		if (kept[i])
			r = take(d, m, &all->list.data[i]);
	}
	return r;
}

/* ---- where each comes from ---- */

static const char *named(const struct dump *d, const char *type, const char *id)
{
	if (d->request->externals)
		VEC_FOREACH(&d->request->externals->left_out, x)
			if (!strcmp(x->type, type) && !strcmp(x->id, id))
				return x->value ? x->value : x->id;
	return NULL;
}

/* How well a mount of ours would do; 0: not at all. In the same group best, or it can't be joined again. */
static int fitness(const struct mount *m, const struct proc_mount *h)
{
	if (h->dev != m->dev || strcmp(h->fstype, m->fstype) || !mount_below(m->root, h->root) || ends_in(h->root, GONE) || ends_in(h->point, GONE))
		return 0;
	return 1 + (!strcmp(h->root, m->root) && !strcmp(h->point, m->point)) + 2 * (m->master && h->shared == m->master) + 4 * (m->shared && h->shared == m->shared);
}

static void find_host(struct mounts *all, struct mount *m, const struct proc_mounts *host)
{
	const struct proc_mount *best = NULL;
	int most = 0;

	VEC_FOREACH(&host->list, h) {
		const int fits = fitness(m, h);
		if (fits > most) {
			most = fits;
			best = h;
		}
	}
	if (!best)
		return;
	m->from = MOUNT_HOST;
	m->host_point = keep(all, best->point);
	m->host_root = keep(all, best->root);
	m->shared_outside = m->shared && best->shared == m->shared;
	m->master_outside = m->master && !m->shared_outside && best->shared == m->master;
	m->master_outside |= m->master && m->shared_outside && best->master == m->master;
}

/* Overlay: its layers are in its options, and must be where they are said to be for who restores, too. */
static int check_layers(struct dump *d, const struct mount *m)
{
	static const char *const keys[] = { "lowerdir=", "upperdir=", "workdir=", "lowerdir+=", "datadir+=" };
	_cleanup_free_ char *text = strdup(m->options);
	char *save = NULL;

	for (char *word = text ? strtok_r(text, ",", &save) : NULL; word; word = strtok_r(NULL, ",", &save)) {
		size_t i = 0;
		while (i < ARRAY_SIZE(keys) && strncmp(word, keys[i], strlen(keys[i])))
			i++;
		char *rest = NULL;
		for (char *dir = i < ARRAY_SIZE(keys) ? strtok_r(word + strlen(keys[i]), ":", &rest) : NULL; dir; dir = strtok_r(NULL, ":", &rest)) {
			struct stat ours, theirs;
			if (dir[0] != '/' || strchr(dir, '\\') || stat(dir, &ours) < 0 || !S_ISDIR(ours.st_mode) ||
			    (path_stat(d->root_fd, dir, &theirs) == 0 && (theirs.st_dev != ours.st_dev || theirs.st_ino != ours.st_ino)))
				return error_set(d->e, -ENOTSUP, "the overlay at %s has a layer (%s) that is not found under that name here; use --external 'mnt[%s]:NAME'", m->point,
						 dir, m->point);
		}
	}
	return 0;
}

/* One that only the tree has. */
static int check_own(struct dump *d, struct mount *m)
{
	if (m->type->way == FS_REFUSED && mounts_enabled(d->request, m->fstype))
		m->type = &fs_typed;
	if (m->type->way == FS_REFUSED && m->source[0] == '/')
		return error_set(d->e, -ENOTSUP, "%s, of %s, is mounted at %s, and not here: mount it here too, or use --external 'dev[%u/%u]:NAME' or --external 'mnt[%s]:NAME'",
				 m->fstype, m->source, m->point, m->dev >> 20, m->dev & 0xfffff, m->point);
	if (m->type->way == FS_REFUSED)
		return error_set(d->e, -ENOTSUP, "a file system of its own (%s) is mounted at %s, and %s; use --external 'mnt[%s]:NAME', or --skip-mnt", m->fstype, m->point,
				 m->type->why, m->point);
	if (strlen(m->options) > OPTIONS_MAX)
		return error_set(d->e, -ENOTSUP, "the mount at %s has options that are longer than a page; use --external 'mnt[%s]:NAME'", m->point, m->point);
	return m->type->way == FS_LAYERS ? check_layers(d, m) : 0;
}

static int choose(struct dump *d, struct mounts *all, struct mount *m, const struct proc_mounts *host)
{
	char device[32];

	if (ends_in(m->point, GONE))
		return error_set(d->e, -ENOTSUP, "something is mounted at a place that was deleted (%s); unmount it, or use --skip-mnt", m->point);
	snprintf(device, sizeof(device), "%u/%u", m->dev >> 20, m->dev & 0xfffff);
	const char *key = named(d, "mnt", m->point), *of_device = named(d, "dev", device);
	if (key || of_device) {
		m->from = key ? MOUNT_NAMED : MOUNT_DEVICE;
		m->key = key ? key : of_device;
		m->shared_outside = m->master_outside = false;
		return 0;
	}
	if (ends_in(m->root, GONE))
		return error_set(d->e, -ENOTSUP, "what is mounted at %s was deleted; unmount it, or use --external 'mnt[%s]:NAME' or --skip-mnt", m->point, m->point);
	find_host(all, m, host);
	return m->from == MOUNT_HOST ? 0 : check_own(d, m);
}

static int read_own(struct dump *d, struct proc_mounts *ret)
{
	_cleanup_free_ char *text = NULL;
	int r = read_file_at(AT_FDCWD, "/proc/self/mountinfo", TEXT_MAX, &text, NULL);

	if (!r)
		r = proc_parse_mounts(text, ret);
	return r ? error_errno(d->e, r, "cannot read /proc/self/mountinfo") : 0;
}

static int describe(struct dump *d, struct mounts *m, const char *text)
{
	struct proc_mounts host = {}, theirs = {};
	int r = proc_parse_mounts(text, &theirs);

	r = r ? error_errno(d->e, r, "cannot understand the mountinfo of process %d", d->request->pid) : read_own(d, &host);
	if (!r)
		r = take_all(d, m, &theirs);
	for (size_t i = 0; !r && i < m->list.count; i++)
		r = dump_part(d, choose(d, m, &m->list.data[i], &host));
	if (!r)
		r = mounts_plan(m, d->e);
	proc_mounts_finish(&theirs);
	proc_mounts_finish(&host);
	return r;
}

static bool has_own(const struct dump *d)
{
	for (size_t i = 0; i < ns_kinds_count; i++)
		if (ns_kinds[i] == &ns_mnt)
			return d->ns_own & 1U << i;
	return false;
}

int mounts_capture(struct dump *d)
{
	struct entering x = {};

	if (!has_own(d))
		return 0;
	mounts_release(d);
	d->mounts = calloc(1, sizeof(*d->mounts));
	if (!d->mounts)
		return error_set(d->e, -ENOMEM, "out of memory");
	int r = within(d, &x);
	if (!r) {
		d->root_fd = x.root;
		r = describe(d, d->mounts, x.text);
	}
	free(x.text);
	return r ? error_prefix(d->e, r, "mount namespace") : 0;
}

void mounts_release(struct dump *d)
{
	if (d->root_fd > 0)
		close(d->root_fd);
	d->root_fd = 0;
	mounts_free(TAKE_PTR(d->mounts));
}

/* ---- files ---- */

int64_t mounts_of(const struct dump *d, const struct descriptor *f)
{
	struct statx sx;

	if (!d->mounts || f->own_fd < 0 || statx(f->own_fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) < 0 || !(sx.stx_mask & STATX_MNT_ID))
		return -1;
	return mounts_find(d->mounts, (uint32_t)sx.stx_mnt_id) ? (int64_t)sx.stx_mnt_id : -1;
}

bool mounts_reach(const struct dump *d, const struct descriptor *f)
{
	const int64_t id = mounts_of(d, f);
	const struct mount *m = id < 0 ? NULL : mounts_find(d->mounts, (uint32_t)id);

	if (!m || !path_is_canonical(f->target) || !mount_below(f->target, m->point))
		return false;
	/* What is mounted on the same mount hides it there, too; one that lies on top of all of it does not. */
	VEC_FOREACH(&d->mounts->list, x)
		if (x->parent_id == m->id && strcmp(x->point, m->point) && mount_below(f->target, x->point))
			return false;
	return true;
}

uint32_t mounts_devpts_of(const struct dump *d, const struct descriptor *f)
{
	const uint32_t dev = (uint32_t)(major(f->st.st_dev) << 20 | minor(f->st.st_dev));
	const char *slash = strrchr(f->target, '/');
	uint32_t beside = 0;

	for (size_t i = 0; d->mounts && i < d->mounts->list.count; i++) {
		const struct mount *m = &d->mounts->list.data[i];
		if (strcmp(m->fstype, "devpts") || m->from == MOUNT_HOST || m->from == MOUNT_NAMED)
			continue;
		if (m->dev == dev)
			return m->id;
		/* A ptmx that is not in one belongs to that which lies beside it. */
		const char *rest = slash && !strncmp(m->point, f->target, (size_t)(slash - f->target)) ? m->point + (slash - f->target) : "";
		if (f->st.st_rdev == makedev(5, 2) && !strcmp(rest, "/pts"))
			beside = m->id;
	}
	return beside;
}

int mounts_open_of(const struct dump *d, uint32_t dev)
{
	for (size_t i = 0; d->mounts && i < d->mounts->list.count; i++) {
		const struct mount *m = &d->mounts->list.data[i];
		struct stat st;
		int fd = m->dev == dev ? path_open(d->root_fd, m->point, O_RDONLY | O_NONBLOCK | O_NOFOLLOW) : -1;
		if (fd >= 0 && fstat(fd, &st) == 0 && (uint32_t)(major(st.st_dev) << 20 | minor(st.st_dev)) == dev)
			return fd;
		if (fd >= 0)
			close(fd);
	}
	return -1;
}

/* ---- content ---- */

static bool is_empty(int fd)
{
	int list = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = list < 0 ? NULL : fdopendir(list);
	bool any = !dir;

	for (const struct dirent *x; dir && (x = readdir(dir));)
		any |= strcmp(x->d_name, ".") && strcmp(x->d_name, "..");
	if (dir)
		closedir(dir);
	return !any;
}

static bool has_content(const struct mount *m)
{
	return m->from == MOUNT_NEW && (m->type->way == FS_CONTENT || m->type->way == FS_EMPTY);
}

static int write_content(struct dump *d, const struct mount *m, int fd)
{
	struct image_file *file;
	char name[64];

	if (fd < 0)
		return error_set(d->e, -ENOTSUP, "the file system at %s (%s) is hidden by others and can't be read; unmount what hides it", m->point, m->fstype);
	if (m->type->way == FS_EMPTY)
		return is_empty(fd) ? 0 : error_set(d->e, -ENOTSUP, "the file system at %s (%s) has content, which is not saved; use --external 'mnt[%s]:NAME'", m->point,
						     m->fstype, m->point);
	if (d->obstacles)
		return 0;
	snprintf(name, sizeof(name), "tmpfs-dev-%u.tar.gz.img", m->dev);
	int r = image_create_raw(d->dir, name, &file);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	r = tree_pack(fd, file, d->e);
	int closed = image_close(file);
	return r ? r : closed ? error_errno(d->e, closed, "cannot write %s", name) : 0;
}

static int write_contents(struct dump *d)
{
	_cleanup_free_ struct reach *list = calloc(d->mounts->list.count, sizeof(*list));
	struct entering x = { .reach = list };
	int r = 0;

	if (!list)
		return error_set(d->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&d->mounts->list, m)
		if (has_content(m))
			list[x.n_reach++] = (struct reach){ m->point, m->root, m->fstype, m->dev, false, -1, -1 };
	if (x.n_reach)
		r = within(d, &x);
	size_t i = 0;
	VEC_FOREACH(&d->mounts->list, m) {
		if (r || !has_content(m))
			continue;
		r = dump_part(d, write_content(d, m, list[i++].fd));
	}
	for (i = 0; i < x.n_reach; i++)
		if (list[i].fd >= 0)
			close(list[i].fd);
	return r;
}

/* ---- the image ---- */

static void fill_entry(const struct mount *m, MntEntry *e, char source[64])
{
	e->fstype = (Fstype)m->type->code;
	e->mnt_id = m->id;
	e->root_dev = m->dev;
	e->parent_mnt_id = m->parent_id;
	e->flags = m->flags | (m->shared ? MS_SHARED : m->unbindable ? MS_UNBINDABLE : m->master ? 0 : MS_PRIVATE) | (m->master ? MS_SLAVE : 0);
	e->has_sb_flags = 1;
	e->sb_flags = m->sb_flags;
	e->root = (char *)m->root;
	e->mountpoint = (char *)m->point;
	e->source = (char *)m->source;
	e->options = (char *)m->options;
	e->fsname = (char *)m->fstype;
	e->has_shared_id = e->has_master_id = 1;
	e->shared_id = m->shared;
	e->master_id = m->master;
	e->has_ext_mount = e->ext_mount = m->from == MOUNT_HOST || m->from == MOUNT_NAMED;
	e->ext_key = m->from == MOUNT_NAMED ? (char *)m->key : NULL;
	e->host_point = m->from == MOUNT_HOST ? (char *)m->host_point : NULL;
	e->host_root = m->from == MOUNT_HOST ? (char *)m->host_root : NULL;
	e->has_shared_outside = e->shared_outside = m->shared_outside;
	e->has_master_outside = e->master_outside = m->master_outside;
	if (m->from == MOUNT_DEVICE) {
		snprintf(source, 64, "dev[%.50s]", m->key);
		e->source = source;
	}
}

static int mnt_collect(struct dump *d, uint32_t id)
{
	struct image_file *file;
	char name[40], source[64];
	int r = write_contents(d);

	if (r)
		return error_prefix(d->e, r, "mount namespace");
	snprintf(name, sizeof(name), "mountpoints-%u.img", id);
	r = image_create(d->dir, name, IMAGE_MAGIC_MOUNTPOINTS, &file);
	for (size_t i = 0; !r && i < d->mounts->list.count; i++) {
		MntEntry e = MNT_ENTRY__INIT;
		fill_entry(&d->mounts->list.data[i], &e, source);
		r = image_write_message(file, &e.base);
		if (r)
			image_close(file);
	}
	if (!r)
		r = image_close(file);
	return r ? error_errno(d->e, r, "cannot write %s", name) : 0;
}

const struct ns_kind ns_mnt = {
	.name = "mnt",
	.summary = "Mounts with their flags, propagation and order, also those that others cover; what the machine has mounted too is taken from there; proc, sysfs, devpts, mqueue, "
		   "cgroup, overlay and the like are mounted again, tmpfs with their content; others by --external",
	.has_id = offsetof(TaskKobjIdsEntry, has_mnt_ns_id),
	.id = offsetof(TaskKobjIdsEntry, mnt_ns_id),
	.collect = mnt_collect,
	.load = mounts_load,
	.fill = mounts_make,
	.release = mounts_forget,
};
