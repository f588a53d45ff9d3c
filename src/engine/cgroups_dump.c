/* See cgroups.h. */
#include "base/pool.h"
#include "base/apart.h"
#include "cgroup.pb-c.h"
#include "engine/cgroups.h"
#include "engine/ns/ns.h"
#include "engine/task/state.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#define TEXT_MAX (1UL << 16)
#define VALUE_MAX (1UL << 16)
#define DEPTH_MAX 64

/* What goes into the image, while it is put together. */
struct collection {
	struct dump *d;
	struct pool pool;
	VEC(CgSetEntry *) sets;
	VEC(char *) texts; /* of each set: what /proc/PID/cgroup says */
	VEC(CgControllerEntry *) controllers;
};

static int read_groups(pid_t pid, char **ret)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
	return read_file_at(AT_FDCWD, path, TEXT_MAX, ret, NULL);
}

/* A line "ID:NAMES:PATH"; gives the next one, or NULL. */
static char *split_line(char *line, char **ret_names, char **ret_path)
{
	char *end = strchr(line, '\n'), *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;

	if (!end || !path || path > end)
		return NULL;
	*end = *path = '\0';
	*ret_names = names + 1;
	*ret_path = path + 1;
	return end + 1;
}

static int by_name(const void *a, const void *b)
{
	return strcmp((*(CgMemberEntry *const *)a)->name, (*(CgMemberEntry *const *)b)->name);
}

static int add_set(struct collection *c, const char *text)
{
	CgSetEntry *set = POOL_NEW(&c->pool, CgSetEntry, cg_set_entry__init), **slot = set ? VEC_PUSH(&c->sets) : NULL;
	char *copy = pool_copy(&c->pool, text, strlen(text) + 1), **kept = VEC_PUSH(&c->texts), *names, *path;
	VEC(CgMemberEntry *) members = {};

	if (!slot || !copy || !kept)
		return -ENOMEM;
	*slot = set;
	*kept = pool_copy(&c->pool, text, strlen(text) + 1);
	for (char *line = copy; line && (line = split_line(line, &names, &path));) {
		CgMemberEntry *m = POOL_NEW(&c->pool, CgMemberEntry, cg_member_entry__init), **to = m ? VEC_PUSH(&members) : NULL;
		if (!to)
			return -ENOMEM;
		*to = m;
		m->name = names;
		m->path = path;
	}
	if (members.count)
		qsort(members.data, members.count, sizeof(*members.data), by_name);
	set->id = (uint32_t)c->sets.count;
	set->ctls = pool_copy(&c->pool, members.data, members.count * sizeof(*members.data));
	set->n_ctls = members.count;
	VEC_FREE(&members);
	return *kept && (set->ctls || !set->n_ctls) ? 0 : -ENOMEM;
}

static int find_set(struct collection *c, pid_t pid, uint32_t *ret)
{
	_cleanup_free_ char *text = NULL;
	int r = read_groups(pid, &text);

	for (size_t i = 0; !r && i < c->texts.count; i++)
		if (!strcmp(c->texts.data[i], text)) {
			*ret = (uint32_t)i + 1;
			return 0;
		}
	if (!r)
		r = add_set(c, text);
	*ret = (uint32_t)c->sets.count;
	return r;
}

/* ---- the root of a cgroup namespace ---- */

struct within {
	int ns;
	pid_t pid;
	char *text;
};

/* By a process apart. */
static int read_within(void *data)
{
	struct within *w = data;

	return setns(w->ns, CLONE_NEWCGROUP) < 0 ? -errno : read_groups(w->pid, &w->text);
}

static int look_within(struct dump *d, const struct task *t, char **ret)
{
	struct within w = { .pid = t->pid };
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/cgroup", d->tasks.data[0]->pid);
	_cleanup_close_ int ns = open(path, O_RDONLY | O_CLOEXEC);
	w.ns = ns;
	int r = ns < 0 ? -errno : run_apart(NULL, read_within, &w);
	*ret = w.text;
	return r ? task_errno(d, t, r, "cannot look into its cgroup namespace") : 0;
}

int cgroups_check(struct dump *d)
{
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		_cleanup_free_ char *text = NULL;
		char *names, *path;
		int r = t->state == TASK_DEAD ? 0 : look_within(d, t, &text);
		if (r)
			return r;
		for (char *line = text; line && (line = split_line(line, &names, &path));)
			if (strcmp(path, "/"))
				return task_error(d, t, -ENOTSUP, "it is in the control group %s below that of its cgroup namespace; use --manage-cgroups to save them", path);
	}
	return 0;
}

/* How much of each path of the root's is above the namespace. */
static int find_prefixes(struct collection *c)
{
	const struct task *root = c->d->tasks.data[0];
	CgSetEntry *set = c->sets.data[root->cg_set - 1];
	_cleanup_free_ char *text = NULL;
	char *names, *path;
	int r = look_within(c->d, root, &text);

	for (char *line = text; !r && line && (line = split_line(line, &names, &path));)
		for (size_t i = 0; i < set->n_ctls; i++) {
			CgMemberEntry *m = set->ctls[i];
			const size_t whole = strlen(m->path), below = strcmp(path, "/") ? strlen(path) : 0;
			if (strcmp(m->name, names) || below > whole)
				continue;
			m->has_cgns_prefix = 1;
			m->cgns_prefix = (uint32_t)(whole - below);
		}
	return r;
}

/* ---- groups and their settings ---- */

static int take_settings(struct collection *c, int dir, const char *names, CgroupDirEntry *to)
{
	VEC(CgroupPropEntry *) list = {};
	int r = 0;

	for (size_t i = 0; !r && cgroups_setting(names, i); i++) {
		const char *name = cgroups_setting(names, i);
		_cleanup_free_ char *value = NULL;
		if (read_file_at(dir, name, VALUE_MAX, &value, NULL)) /* there is none of that name, or it can't be read */
			continue;
		CgroupPropEntry *p = POOL_NEW(&c->pool, CgroupPropEntry, cgroup_prop_entry__init), **slot = p ? VEC_PUSH(&list) : NULL;
		if (!slot) {
			r = -ENOMEM;
			break;
		}
		*slot = p;
		size_t size = strlen(value);
		while (size && value[size - 1] == '\n')
			value[--size] = '\0';
		p->name = (char *)name;
		p->value = pool_copy(&c->pool, value, size + 1);
		r = p->value ? 0 : -ENOMEM;
	}
	to->properties = pool_copy(&c->pool, list.data, list.count * sizeof(*list.data));
	to->n_properties = to->properties ? list.count : 0;
	VEC_FREE(&list);
	return r;
}

static int take_group(struct collection *c, int at, const char *path, const char *name, const char *names, unsigned depth, CgroupDirEntry **ret)
{
	CgroupDirEntry *e = *ret = POOL_NEW(&c->pool, CgroupDirEntry, cgroup_dir_entry__init);
	CgroupPerms *perms = POOL_NEW(&c->pool, CgroupPerms, cgroup_perms__init);
	_cleanup_close_ int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	VEC(CgroupDirEntry *) children = {};
	struct stat st;

	if (!e || !perms)
		return -ENOMEM;
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	*perms = (CgroupPerms){ .base = perms->base, .mode = st.st_mode & 07777, .uid = st.st_uid, .gid = st.st_gid };
	e->dir_name = pool_copy(&c->pool, name, strlen(name) + 1);
	e->dir_perms = perms;
	int r = e->dir_name ? take_settings(c, fd, names, e) : -ENOMEM;
	DIR *dir = r ? NULL : fdopendir(fcntl(fd, F_DUPFD_CLOEXEC, 0));
	for (struct dirent *x; !r && dir && depth < DEPTH_MAX && (x = readdir(dir));) {
		if (x->d_type != DT_DIR || !strcmp(x->d_name, ".") || !strcmp(x->d_name, ".."))
			continue;
		CgroupDirEntry **slot = VEC_PUSH(&children);
		r = slot ? take_group(c, fd, x->d_name, x->d_name, names, depth + 1, slot) : -ENOMEM;
	}
	if (dir)
		closedir(dir);
	e->children = pool_copy(&c->pool, children.data, children.count * sizeof(*children.data));
	e->n_children = e->children ? children.count : 0;
	VEC_FREE(&children);
	return r;
}

static bool is_below(const char *path, const char *top)
{
	const size_t size = strlen(top);

	return !strncmp(path, top, size) && (!path[size] || path[size] == '/');
}

/* The groups of one hierarchy that the tree is in, with all below them; not that at the top, which is the machine's. */
static int take_hierarchy(struct collection *c, size_t index)
{
	const char *names = c->sets.data[0]->ctls[index]->name;
	CgControllerEntry *e = POOL_NEW(&c->pool, CgControllerEntry, cg_controller_entry__init), **slot = e ? VEC_PUSH(&c->controllers) : NULL;
	char **cnames = pool_take(&c->pool, sizeof(*cnames));
	CgroupDirEntry **dirs = pool_take(&c->pool, c->sets.count * sizeof(*dirs));
	_cleanup_close_ int yard = cgroups_mount(names);
	int r = !slot || !cnames || !dirs ? -ENOMEM : yard < 0 ? yard : 0;

	if (r)
		return r;
	*slot = e;
	*cnames = (char *)names;
	e->cnames = cnames;
	e->n_cnames = 1;
	e->dirs = dirs;
	for (size_t i = 0; !r && i < c->sets.count; i++) {
		const char *path = c->sets.data[i]->ctls[index]->path;
		bool is_new = strcmp(path, "/") != 0;
		for (size_t k = 0; is_new && k < e->n_dirs; k++)
			is_new = !is_below(path, dirs[k]->dir_name);
		if (is_new)
			r = take_group(c, yard, path + 1, path, names, 0, &dirs[e->n_dirs++]);
	}
	return r;
}

int cgroups_capture(struct dump *d)
{
	struct collection c = { .d = d };
	CgroupEntry entry = CGROUP_ENTRY__INIT;
	int r = 0;

	for (size_t i = 0; !r && i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i];
		r = t->state == TASK_DEAD ? 0 : find_set(&c, t->pid, &t->cg_set);
		if (r)
			r = task_errno(d, t, r, "cannot read its control groups");
	}
	if (!r && c.sets.count && ns_is_own(d, CLONE_NEWCGROUP))
		r = find_prefixes(&c);
	for (size_t i = 0; !r && c.sets.count && i < c.sets.data[0]->n_ctls; i++) {
		r = take_hierarchy(&c, i);
		if (r)
			r = error_errno(d->e, r, "cannot save the control groups of %s", c.sets.data[0]->ctls[i]->name[0] ? c.sets.data[0]->ctls[i]->name : "version 2");
	}
	entry.sets = c.sets.data;
	entry.n_sets = c.sets.count;
	entry.controllers = c.controllers.data;
	entry.n_controllers = c.controllers.count;
	if (!r)
		r = dump_write_one(d, "cgroup.img", IMAGE_MAGIC_CGROUP, &entry.base);
	VEC_FREE(&c.sets);
	VEC_FREE(&c.texts);
	VEC_FREE(&c.controllers);
	pool_free(&c.pool);
	return r;
}
