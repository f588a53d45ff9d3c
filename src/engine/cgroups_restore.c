/* See cgroups.h. */
#include "base/log.h"
#include "cgroup.pb-c.h"
#include "engine/cgroups.h"
#include "engine/ns/ns.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <sys/stat.h>

#define DEPTH_MAX 64

struct hierarchy {
	const char *names; /* the image's */
	int fd;
	const CgMemberEntry *root; /* where the root of the tree was */
	const char *moved;	   /* that is here, or NULL: where it was */
};

struct cgroups_state {
	CgroupEntry *entry;
	VEC(struct hierarchy) list;
};

/* "[CONTROLLER:]DIR" of the request: where the root of the tree is to be instead. */
static const char *find_root(const struct request *q, const char *names)
{
	const char *found = NULL;

	for (size_t i = 0; i < q->n_cgroup_roots; i++) {
		const char *text = q->cgroup_roots[i], *colon = text[0] == '/' ? NULL : strchr(text, ':');
		if (!colon && !found)
			found = text;
		if (colon && (size_t)(colon - text) == strlen(names) && !strncmp(text, names, strlen(names)))
			return colon + 1;
	}
	return found;
}

static const CgSetEntry *find_set(const CgroupEntry *e, uint32_t id)
{
	for (size_t i = 0; i < e->n_sets; i++)
		if (e->sets[i]->id == id)
			return e->sets[i];
	return NULL;
}

static const CgMemberEntry *find_member(const CgSetEntry *set, const char *names)
{
	for (size_t i = 0; set && i < set->n_ctls; i++)
		if (!strcmp(set->ctls[i]->name, names))
			return set->ctls[i];
	return NULL;
}

/* Absolute, and never up. */
static bool is_path(const char *path)
{
	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return false;
	for (const char *at = path; at; at = strchr(at + 1, '/'))
		if (!strncmp(at, "/..", 3) && (!at[3] || at[3] == '/'))
			return false;
	return true;
}

static int check_dirs(CgroupDirEntry *const *dirs, size_t n, unsigned depth)
{
	for (size_t i = 0; i < n; i++) {
		const char *name = dirs[i]->dir_name;
		if (depth > DEPTH_MAX || (depth ? !name[0] || strchr(name, '/') || !strcmp(name, "..") || !strcmp(name, ".") : !is_path(name)))
			return -EBADMSG;
		for (size_t k = 0; k < dirs[i]->n_properties; k++)
			if (strchr(dirs[i]->properties[k]->name, '/'))
				return -EBADMSG;
		int r = check_dirs(dirs[i]->children, dirs[i]->n_children, depth + 1);
		if (r)
			return r;
	}
	return 0;
}

static int check(const CgroupEntry *e)
{
	int r = 0;

	for (size_t i = 0; i < e->n_sets; i++)
		for (size_t k = 0; k < e->sets[i]->n_ctls; k++) {
			const CgMemberEntry *m = e->sets[i]->ctls[k];
			if (!is_path(m->path) || m->cgns_prefix > strlen(m->path))
				return -EBADMSG;
		}
	for (size_t i = 0; !r && i < e->n_controllers; i++)
		r = check_dirs(e->controllers[i]->dirs, e->controllers[i]->n_dirs, 0);
	return r;
}

int cgroups_load(struct restore *s)
{
	const struct rtask *root = s->tasks.data[0];

	if (!s->request->cgroups || root->dead || !root->core->tc->has_cg_set)
		return 0;
	struct cgroups_state *state = s->cgroups = calloc(1, sizeof(*state));
	if (!state)
		return error_set(s->e, -ENOMEM, "out of memory");
	int r = restore_read_one(s, "cgroup.img", IMAGE_MAGIC_CGROUP, &cgroup_entry__descriptor, &state->entry);
	if (r)
		return r;
	if (check(state->entry))
		return error_set(s->e, -EBADMSG, "cgroup.img has names that can't be");
	const CgSetEntry *set = find_set(state->entry, root->core->tc->cg_set);
	for (size_t i = 0; set && i < set->n_ctls; i++) {
		struct hierarchy *h = VEC_PUSH(&state->list);
		if (!h)
			return error_set(s->e, -ENOMEM, "out of memory");
		*h = (struct hierarchy){ .names = set->ctls[i]->name, .fd = -1, .root = set->ctls[i], .moved = find_root(s->request, set->ctls[i]->name) };
		if (h->moved && !is_path(h->moved))
			return error_set(s->e, -EINVAL, "--cgroup-root %s: write [CONTROLLER:]DIR with a path that begins with /", h->moved);
	}
	s->ns.any |= set != NULL; /* by a process apart: who calls stays where they are */
	return set ? 0 : error_set(s->e, -EBADMSG, "cgroup.img lacks the set of process %d", root->pid);
}

/* Where a group of the image is here; relative to the hierarchy's top. */
static int place(const struct hierarchy *h, const char *path, char ret[PATH_MAX])
{
	const size_t size = strlen(h->root->path);
	const bool below = h->moved && !strncmp(path, h->root->path, size) && (!path[size] || path[size] == '/' || size == 1);
	const char *top = below ? h->moved : "";
	const char *rest = below ? path + (size == 1 ? 0 : size) : path;
	int n = snprintf(ret, PATH_MAX, ".%s%s%s", top, *rest && *rest != '/' ? "/" : "", rest);

	return n < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* ---- settings ---- */

static int write_value(int dir, const char *name, const char *value, size_t size)
{
	_cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CLOEXEC);

	return fd < 0 || write(fd, value, size) != (ssize_t)size ? -errno : 0;
}

/* What a group gives when it is read is not always what it takes: controllers are switched on, and devices are permitted one by one. */
static int set_one(int dir, const CgroupPropEntry *p)
{
	const bool devices = !strcmp(p->name, "devices.list"), switches = !strcmp(p->name, "cgroup.subtree_control");
	const char *const between = switches ? " " : "\n";
	int r = devices ? write_value(dir, "devices.deny", "a", 1) : 0;

	for (const char *at = p->value; !r && *at;) {
		char word[256];
		size_t n = strcspn(at, between);
		snprintf(word, sizeof(word), "%s%.*s", switches ? "+" : "", (int)MIN(n, sizeof(word) - 2), at);
		r = n ? write_value(dir, devices ? "devices.allow" : p->name, word, strlen(word)) : 0;
		at += n + (at[n] != '\0');
	}
	return r;
}

/* What the machine does not let be set is told; limits that could not be had again are no reason to lose the processes. */
static void set_all(const struct hierarchy *h, int dir, const CgroupDirEntry *e, const char *path)
{
	for (size_t i = 0; i < e->n_properties; i++) {
		char now[64] = "";
		_cleanup_close_ int fd = openat(dir, e->properties[i]->name, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, now, sizeof(now) - 1);
		while (n > 0 && now[n - 1] == '\n')
			now[--n] = '\0';
		if (n >= 0 && !strcmp(now, e->properties[i]->value))
			continue;
		int r = set_one(dir, e->properties[i]);
		if (r)
			log_warning("%s of the control group %s (%s) cannot be set to %s: %s", e->properties[i]->name, path, h->names[0] ? h->names : "version 2",
				    e->properties[i]->value, strerror(-r));
	}
}

/* ---- groups ---- */

static int make_group(struct restore *s, struct hierarchy *h, int at, const char *name, const CgroupDirEntry *e)
{
	const enum request_cgroups mode = s->request->cgroups;
	const bool makes = mode != CGROUPS_PROPS, made = makes && mkdirat(at, name, 0755) == 0;

	if (makes && !made && errno != EEXIST)
		return error_errno(s->e, -errno, "cannot make the control group %s of %s", name, h->names[0] ? h->names : "version 2");
	if (makes && !made && mode == CGROUPS_STRICT)
		return error_set(s->e, -EEXIST, "there is a control group %s of %s already; remove it, or use --manage-cgroups=soft", name, h->names[0] ? h->names : "version 2");
	_cleanup_close_ int dir = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (dir < 0)
		return !makes && errno == ENOENT ? 0 : error_errno(s->e, -errno, "cannot open the control group %s of %s", name, h->names[0] ? h->names : "version 2");
	if (made && e->dir_perms && (fchmod(dir, e->dir_perms->mode & 07777) < 0 || fchown(dir, e->dir_perms->uid, e->dir_perms->gid) < 0))
		return error_errno(s->e, -errno, "cannot set the owner of the control group %s", name);
	if (mode != CGROUPS_NONE && (made || mode == CGROUPS_FULL || mode == CGROUPS_PROPS))
		set_all(h, dir, e, name);
	int r = 0;
	for (size_t i = 0; !r && i < e->n_children; i++)
		r = make_group(s, h, dir, e->children[i]->dir_name, e->children[i]);
	return r;
}

/* A group of the controller cpuset takes no process before it has processors and memory: those of the one above. */
static void give_processors(const struct hierarchy *h, const char *path)
{
	static const char *const names[] = { "cpuset.cpus", "cpuset.mems" };

	for (size_t i = 0; h->names[0] && i < ARRAY_SIZE(names); i++) {
		_cleanup_free_ char *value = NULL;
		char above[PATH_MAX + 32], own[PATH_MAX + 32];
		snprintf(above, sizeof(above), "%s/../%s", path, names[i]);
		snprintf(own, sizeof(own), "%s/%s", path, names[i]);
		if (!read_file_at(h->fd, above, PATH_MAX, &value, NULL))
			write_value(h->fd, own, value, strlen(value));
	}
}

/* Those above it that are not there; with `whole`, it too. */
static int make_path(struct hierarchy *h, const char *path, bool whole)
{
	char part[PATH_MAX];

	for (const char *at = strchrnul(path + 2, '/'); at && (whole || *at); at = *at ? strchrnul(at + 1, '/') : NULL) {
		snprintf(part, sizeof(part), "%.*s", (int)(at - path), path);
		if (mkdirat(h->fd, part, 0755) == 0)
			give_processors(h, part);
		else if (errno != EEXIST)
			return -errno;
	}
	return 0;
}

static int make_hierarchy(struct restore *s, struct hierarchy *h)
{
	const CgroupEntry *e = s->cgroups->entry;
	char path[PATH_MAX];
	int r = 0;

	h->fd = cgroups_mount(h->names);
	if (h->fd < 0)
		return error_errno(s->e, h->fd, "cannot reach the control groups of %s, which the tree was in", h->names[0] ? h->names : "version 2");
	for (size_t i = 0; i < e->n_controllers; i++) {
		const CgControllerEntry *c = e->controllers[i];
		if (!c->n_cnames || strcmp(c->cnames[0], h->names))
			continue;
		for (size_t k = 0; !r && k < c->n_dirs; k++) {
			r = place(h, c->dirs[k]->dir_name, path);
			if (!r && s->request->cgroups != CGROUPS_PROPS)
				r = make_path(h, path, false);
			r = r ? error_errno(s->e, r, "cannot make the control group %s", c->dirs[k]->dir_name) : make_group(s, h, h->fd, path, c->dirs[k]);
		}
	}
	return r;
}

static int move_to(struct restore *s, const struct hierarchy *h, const char *path, pid_t pid)
{
	char place_of[PATH_MAX], file[PATH_MAX + 16], text[16];
	int n = snprintf(text, sizeof(text), "%d", pid), r = place(h, path, place_of);

	snprintf(file, sizeof(file), "%s/cgroup.procs", place_of);
	if (!r)
		r = write_value(h->fd, file, text, (size_t)n);
	return r ? error_errno(s->e, r, "cannot bring process %d into the control group %s of %s", pid, path, h->names[0] ? h->names : "version 2") : 0;
}

/* Where the tree is born. */
static void base_path(const struct hierarchy *h, char ret[PATH_MAX])
{
	snprintf(ret, PATH_MAX, "%s", h->root->path);
	if (h->root->has_cgns_prefix)
		ret[MAX(h->root->cgns_prefix, 1U)] = '\0';
}

int cgroups_enter(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; s->cgroups && !r && i < s->cgroups->list.count; i++) {
		struct hierarchy *h = &s->cgroups->list.data[i];
		char path[PATH_MAX];
		char here[PATH_MAX];
		base_path(h, path);
		r = make_hierarchy(s, h);
		if (!r && h->moved && s->request->cgroups > CGROUPS_PROPS && (place(h, path, here) || (here[1] && make_path(h, here, true))))
			r = error_errno(s->e, -errno, "cannot make the control group %s of %s", h->moved, h->names[0] ? h->names : "version 2");
		if (!r)
			r = move_to(s, h, path, 0);
	}
	return r;
}

int cgroups_settle(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; s->cgroups && !r && i < s->tasks.count; i++) {
		const struct rtask *t = s->tasks.data[i];
		if (t->dead || !t->core->tc->has_cg_set)
			continue;
		const CgSetEntry *set = find_set(s->cgroups->entry, t->core->tc->cg_set);
		for (size_t k = 0; !r && k < s->cgroups->list.count; k++) {
			const struct hierarchy *h = &s->cgroups->list.data[k];
			const CgMemberEntry *m = find_member(set, h->names);
			char born[PATH_MAX];
			base_path(h, born);
			if (!m)
				r = error_set(s->e, -EBADMSG, "cgroup.img lacks the set of process %d", t->pid);
			else if (strcmp(m->path, born))
				r = move_to(s, h, m->path, t->pid);
		}
	}
	return r;
}

void cgroups_release(struct restore *s)
{
	struct cgroups_state *state = TAKE_PTR(s->cgroups);

	if (!state)
		return;
	VEC_FOREACH(&state->list, h)
		if (h->fd >= 0)
			close(h->fd);
	VEC_FREE(&state->list);
	if (state->entry)
		cgroup_entry__free_unpacked(state->entry, NULL);
	free(state);
}
