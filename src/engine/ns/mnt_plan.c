/*
 * How a set of mounts is made again: pure functions over what mountinfo or an image says; see mnt.h. tests/unit/test_mounts.c.
 *
 * Each mount is made by itself, outside of the tree to be, and then attached to its parent. The kernel finds the place by a name that is looked up in
 * the parent, so who lies deeper below the same parent is attached first: one above would hide its place.
 *
 * Peer groups: of each the member with the widest root gets the group, the others get it from that one, since the kernel hands it on only to a mount of
 * the same part of a file system, or of a smaller one.
 */
#include "engine/ns/mnt.h"

#include "engine/path.h"

#include <sys/mount.h>


const char *mount_below(const char *path, const char *top)
{
	const size_t n = strcmp(top, "/") ? strlen(top) : 0;

	if (strncmp(path, top, n) || (path[n] && path[n] != '/'))
		return NULL;
	return strcmp(path + n, "/") ? path + n : "";
}

/* ---- flags ---- */

static const struct {
	const char *word;
	uint32_t flag;
} words[] = {
	{ "ro", MS_RDONLY },	     { "rw", 0 },		      { "nosuid", MS_NOSUID },	     { "nodev", MS_NODEV },
	{ "noexec", MS_NOEXEC },     { "noatime", MS_NOATIME },	      { "nodiratime", MS_NODIRATIME }, { "relatime", MS_RELATIME },
	{ "nosymfollow", 256 },	     { "sync", MS_SYNCHRONOUS },      { "dirsync", MS_DIRSYNC },     { "mand", MS_MANDLOCK },
	{ "lazytime", MS_LAZYTIME },
};

int mount_parse_flags(struct pool *pool, const char *text, uint32_t *ret_flags, const char **ret_rest)
{
	char *rest = pool_take(pool, strlen(text) + 1), *to = rest;
	uint32_t flags = 0;

	if (!rest)
		return -ENOMEM;
	for (const char *at = text; *at;) {
		const size_t n = strcspn(at, ",");
		size_t i = 0;
		while (i < ARRAY_SIZE(words) && (strlen(words[i].word) != n || strncmp(words[i].word, at, n)))
			i++;
		if (i < ARRAY_SIZE(words)) {
			flags |= words[i].flag;
		} else if (n) {
			if (to > rest)
				*to++ = ',';
			memcpy(to, at, n);
			to += n;
		}
		at += n + (at[n] == ',');
	}
	*to = '\0';
	*ret_flags = flags;
	if (ret_rest)
		*ret_rest = rest;
	return 0;
}

/* ---- a tree ---- */

struct sorting {
	const struct mount *list;
};

static int by_id(const void *a, const void *b, void *data)
{
	const struct mount *list = ((const struct sorting *)data)->list;
	const uint32_t x = list[*(const uint32_t *)a].id, y = list[*(const uint32_t *)b].id;

	return (x > y) - (x < y);
}

static uint32_t find_index(const struct mounts *m, uint32_t id)
{
	size_t low = 0, high = m->list.count;

	while (m->by_id && low < high) {
		const size_t middle = (low + high) / 2;
		const uint32_t at = m->by_id[middle];
		if (m->list.data[at].id == id)
			return at;
		if (m->list.data[at].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return MOUNT_NONE;
}

struct mount *mounts_find(const struct mounts *m, uint32_t id)
{
	const uint32_t at = find_index(m, id);

	return at == MOUNT_NONE ? NULL : &m->list.data[at];
}

static int index_ids(struct mounts *m, struct error *e)
{
	struct sorting sorting = { m->list.data };

	m->by_id = calloc(m->list.count, sizeof(*m->by_id));
	if (!m->by_id)
		return error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < m->list.count; i++)
		m->by_id[i] = (uint32_t)i;
	qsort_r(m->by_id, m->list.count, sizeof(*m->by_id), by_id, &sorting);
	for (size_t i = 1; i < m->list.count; i++)
		if (m->list.data[m->by_id[i]].id == m->list.data[m->by_id[i - 1]].id)
			return error_set(e, -EBADMSG, "two mounts have the number %u", m->list.data[m->by_id[i]].id);
	return 0;
}

static int find_parents(struct mounts *m, struct error *e)
{
	m->root = MOUNT_NONE;
	for (size_t i = 0; i < m->list.count; i++) {
		struct mount *x = &m->list.data[i];
		if (!path_is_canonical(x->point) || !path_is_canonical(x->root))
			return error_set(e, -EBADMSG, "mount %u is at a place that can't be (%.100s)", x->id, x->point);
		x->parent = x->parent_id == x->id ? MOUNT_NONE : find_index(m, x->parent_id);
		if (x->parent == MOUNT_NONE) {
			if (m->root != MOUNT_NONE || strcmp(x->point, "/"))
				return error_set(e, -EBADMSG, "the mount at %s hangs on none", x->point);
			m->root = (uint32_t)i;
		} else if (!mount_below(x->point, m->list.data[x->parent].point)) {
			return error_set(e, -EBADMSG, "the mount at %s is not below its parent, at %s", x->point, m->list.data[x->parent].point);
		}
	}
	return m->root == MOUNT_NONE ? error_set(e, -EBADMSG, "the mounts have no root") : 0;
}

/* By parent; below one the deepest places first, of equal ones as they came. */
static int by_place(const void *a, const void *b, void *data)
{
	const struct mount *list = ((const struct sorting *)data)->list;
	const uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
	const struct mount *x = &list[i], *y = &list[k];
	const size_t deep = strlen(x->point), other = strlen(y->point);

	if (x->parent != y->parent)
		return x->parent < y->parent ? -1 : 1;
	if (deep != other)
		return deep > other ? -1 : 1;
	const int names = strcmp(x->point, y->point);
	return names ? names : (i > k) - (i < k);
}

/* The place of the first child in `sorted`. */
static size_t first_child(const struct mounts *m, const uint32_t *sorted, size_t n, uint32_t parent)
{
	size_t low = 0, high = n;

	while (low < high) {
		const size_t middle = (low + high) / 2;
		if (m->list.data[sorted[middle]].parent < parent)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Whom the root does not lead to hangs in a circle. */
static int order_places(struct mounts *m, struct error *e)
{
	struct sorting sorting = { m->list.data };
	_cleanup_free_ uint32_t *sorted = calloc(m->list.count, sizeof(*sorted));
	const size_t n = m->list.count;

	if (!sorted || !vec_reserve((void **)&m->attach.data, &m->attach.capacity, n, sizeof(*m->attach.data)))
		return error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		sorted[i] = (uint32_t)i;
	qsort_r(sorted, n, sizeof(*sorted), by_place, &sorting);
	for (size_t i = 1; i < n; i++) {
		const struct mount *x = &m->list.data[sorted[i - 1]], *y = &m->list.data[sorted[i]];
		if (x->parent == y->parent && x->parent != MOUNT_NONE && !strcmp(x->point, y->point))
			return error_set(e, -EBADMSG, "two mounts lie at %s of one and the same", x->point);
	}
	m->attach.count = 0;
	for (size_t done = 0, at = m->root;; at = m->attach.data[done++]) {
		for (size_t k = first_child(m, sorted, n, (uint32_t)at); k < n && m->list.data[sorted[k]].parent == at; k++)
			m->attach.data[m->attach.count++] = sorted[k];
		if (done == m->attach.count)
			break;
	}
	return m->attach.count == n - 1 ? 0 : error_set(e, -EBADMSG, "mounts hang on each other in a circle");
}

/* ---- where bound ones come from ---- */

static int by_device(const void *a, const void *b, void *data)
{
	const struct mount *list = ((const struct sorting *)data)->list;
	const uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
	const struct mount *x = &list[i], *y = &list[k];
	const size_t wide = strlen(x->root), other = strlen(y->root);

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	if (wide != other)
		return wide < other ? -1 : 1;
	return (i > k) - (i < k);
}

static bool is_base(const struct mount *x)
{
	return x->from == MOUNT_NAMED || x->from == MOUNT_DEVICE || x->from == MOUNT_NEW;
}

/* Of one file system, those with the widest roots first. */
static int bind_device(struct mounts *m, const uint32_t *of, size_t n, struct error *e)
{
	uint32_t base = MOUNT_NONE;

	for (size_t i = 0; i < n && base == MOUNT_NONE; i++)
		if (is_base(&m->list.data[of[i]]))
			base = of[i];
	for (size_t i = 0; i < n; i++) {
		struct mount *x = &m->list.data[of[i]];
		if (x->from != MOUNT_NEW)
			continue;
		if (of[i] != base && mount_below(x->root, m->list.data[base].root)) {
			x->from = MOUNT_BIND;
			x->bind_from = base;
		} else if (strcmp(x->root, "/") && x->type->way != FS_AGAIN) {
			return error_set(e, -ENOTSUP, "a part of a file system (%s) is mounted at %s, and the whole is nowhere: mount that too, or use --external 'mnt[%s]:NAME'",
					 x->fstype, x->point, x->point);
		}
	}
	return 0;
}

static int find_bound(struct mounts *m, struct error *e)
{
	struct sorting sorting = { m->list.data };
	_cleanup_free_ uint32_t *sorted = calloc(m->list.count, sizeof(*sorted));
	int r = sorted ? 0 : error_set(e, -ENOMEM, "out of memory");

	for (size_t i = 0; !r && i < m->list.count; i++)
		sorted[i] = (uint32_t)i;
	if (!r)
		qsort_r(sorted, m->list.count, sizeof(*sorted), by_device, &sorting);
	for (size_t i = 0, n; !r && i < m->list.count; i += n) {
		const uint32_t dev = m->list.data[sorted[i]].dev;
		for (n = 1; i + n < m->list.count && m->list.data[sorted[i + n]].dev == dev; n++)
			;
		r = bind_device(m, sorted + i, n, e);
	}
	return r;
}

/* ---- propagation ---- */

static int by_group(const void *a, const void *b, void *data)
{
	const struct mount *list = ((const struct sorting *)data)->list;
	const uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
	const struct mount *x = &list[i], *y = &list[k];
	const size_t wide = strlen(x->root), other = strlen(y->root);

	if (x->shared != y->shared)
		return x->shared < y->shared ? -1 : 1;
	if (x->shared_outside != y->shared_outside)
		return x->shared_outside ? -1 : 1;
	if (wide != other)
		return wide < other ? -1 : 1;
	return (i > k) - (i < k);
}

struct groups {
	uint32_t *sorted, *leader; /* by group; of each mount whom it gets its group from: itself, where it begins it */
	char *state;		   /* of each: 0, 1 under way, 2 done */
};

static uint32_t leader_of(const struct mounts *m, const struct groups *g, uint32_t group)
{
	size_t low = 0, high = m->list.count;

	while (low < high) {
		const size_t middle = (low + high) / 2;
		if (m->list.data[g->sorted[middle]].shared < group)
			low = middle + 1;
		else
			high = middle;
	}
	return low < m->list.count && m->list.data[g->sorted[low]].shared == group ? g->sorted[low] : MOUNT_NONE;
}

/* What its own step needs of another's; MOUNT_NONE: nothing. */
static uint32_t source_of(const struct mounts *m, const struct groups *g, uint32_t i)
{
	const struct mount *x = &m->list.data[i];

	if (x->shared_outside)
		return i;
	if (x->shared && g->leader[i] != i)
		return g->leader[i];
	if (x->master_outside)
		return i;
	return x->master ? leader_of(m, g, x->master) : MOUNT_NONE;
}

static int add_step(struct mounts *m, const struct groups *g, uint32_t i, struct error *e)
{
	const struct mount *x = &m->list.data[i];
	const uint32_t from = source_of(m, g, i);
	const struct mount *source = from == MOUNT_NONE ? NULL : &m->list.data[from];
	const bool member = x->shared_outside || (x->shared && g->leader[i] != i);

	if (from == i && !x->shared_outside && !x->master_outside)
		return error_set(e, -EBADMSG, "the mount at %s follows itself in a circle", x->point);
	if (x->master && !member && !source)
		return error_set(e, -ENOTSUP, "the mount at %s follows others (master:%u) that are neither the tree's nor ours; let it be private, or use --external 'mnt[%s]:NAME'",
				 x->point, x->master, x->point);
	if (source && (source->dev != x->dev || !mount_below(x->root, source->root)))
		return error_set(e, -ENOTSUP, "the mount at %s shares with that at %s, which is of another part of the file system, and none of both has the whole", x->point,
				 source->point);
	struct mount_step *step = VEC_PUSH(&m->steps);
	if (!step)
		return error_set(e, -ENOMEM, "out of memory");
	*step = (struct mount_step){ i, from, x->master && !member, x->shared && !member };
	return 0;
}

/* With those that it needs before it. Each waits for one other at most. */
static int add_steps(struct mounts *m, struct groups *g, uint32_t first, struct error *e)
{
	VEC(uint32_t) chain = {};
	int r = 0;

	for (uint32_t at = first; !r && at != MOUNT_NONE && g->state[at] != 2;) {
		uint32_t *slot = g->state[at] ? NULL : VEC_PUSH(&chain);
		if (!slot) {
			r = g->state[at] ? error_set(e, -EBADMSG, "mounts follow each other in a circle") : error_set(e, -ENOMEM, "out of memory");
			break;
		}
		*slot = at;
		g->state[at] = 1;
		const uint32_t next = source_of(m, g, at);
		at = next == at ? MOUNT_NONE : next;
	}
	for (size_t i = chain.count; !r && i-- > 0;) {
		r = add_step(m, g, chain.data[i], e);
		g->state[chain.data[i]] = 2;
	}
	VEC_FREE(&chain);
	return r;
}

static int plan_groups(struct mounts *m, struct error *e)
{
	struct sorting sorting = { m->list.data };
	const size_t n = m->list.count;
	_cleanup_free_ uint32_t *sorted = calloc(n, sizeof(*sorted)), *leader = calloc(n, sizeof(*leader));
	_cleanup_free_ char *state = calloc(n, 1);
	struct groups g = { sorted, leader, state };
	int r = 0;

	if (!sorted || !leader || !state)
		return error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		sorted[i] = (uint32_t)i;
	qsort_r(sorted, n, sizeof(*sorted), by_group, &sorting);
	for (size_t i = 0; i < n; i++)
		leader[sorted[i]] = i && m->list.data[sorted[i]].shared && m->list.data[sorted[i]].shared == m->list.data[sorted[i - 1]].shared ?
					    leader[sorted[i - 1]] : sorted[i];
	m->steps.count = 0;
	for (size_t i = 0; !r && i < n; i++)
		if (m->list.data[i].shared || m->list.data[i].master)
			r = add_steps(m, &g, (uint32_t)i, e);
	return r;
}

int mounts_plan(struct mounts *m, struct error *e)
{
	if (!m->list.count || m->list.count > MOUNTS_MAX)
		return error_set(e, -EBADMSG, "there are %zu mounts", m->list.count);
	int r = index_ids(m, e);

	if (!r)
		r = find_parents(m, e);
	if (!r)
		r = order_places(m, e);
	if (!r)
		r = find_bound(m, e);
	return r ? r : plan_groups(m, e);
}

void mounts_free(struct mounts *m)
{
	if (!m)
		return;
	VEC_FOREACH(&m->list, x)
		if (x->fd >= 0)
			close(x->fd);
	VEC_FREE(&m->list);
	VEC_FREE(&m->attach);
	VEC_FREE(&m->steps);
	free(m->by_id);
	pool_free(&m->pool);
	free(m);
}

/* ---- what came out ---- */

struct pair {
	uint32_t wanted, made;
};

static int by_wanted(const void *a, const void *b)
{
	const struct pair *x = a, *y = b;

	return x->wanted != y->wanted ? (x->wanted > y->wanted) - (x->wanted < y->wanted) : (x->made > y->made) - (x->made < y->made);
}

static int by_made(const void *a, const void *b)
{
	const struct pair x = { ((const struct pair *)a)->made, ((const struct pair *)a)->wanted };
	const struct pair y = { ((const struct pair *)b)->made, ((const struct pair *)b)->wanted };

	return by_wanted(&x, &y);
}

/* One number of the old for one of the new, and the other way round. */
static bool agree(struct pair *pairs, size_t n)
{
	bool good = true;

	qsort(pairs, n, sizeof(*pairs), by_wanted);
	for (size_t i = 1; i < n; i++)
		good &= pairs[i].wanted != pairs[i - 1].wanted || pairs[i].made == pairs[i - 1].made;
	qsort(pairs, n, sizeof(*pairs), by_made);
	for (size_t i = 1; i < n; i++)
		good &= pairs[i].made != pairs[i - 1].made || pairs[i].wanted == pairs[i - 1].wanted;
	return good;
}

static int by_number(const void *a, const void *b)
{
	const uint32_t x = (*(const struct proc_mount *const *)a)->id, y = (*(const struct proc_mount *const *)b)->id;

	return (x > y) - (x < y);
}

static const struct proc_mount *find_made(const struct proc_mount **sorted, size_t n, uint32_t id)
{
	const struct proc_mount key = { .id = id }, *wanted = &key;
	const struct proc_mount **found = bsearch(&wanted, sorted, n, sizeof(*sorted), by_number);

	return found ? *found : NULL;
}

static const char *difference(const struct mounts *m, const struct mount *x, const struct proc_mount *y)
{
	struct pool pool = {};
	uint32_t flags = 0, sb_flags = 0;
	const struct mount *parent = x->parent == MOUNT_NONE ? NULL : &m->list.data[x->parent];
	const bool own = x->from == MOUNT_NEW || x->from == MOUNT_BIND;
	int r = mount_parse_flags(&pool, y->options, &flags, NULL);

	if (!r)
		r = mount_parse_flags(&pool, y->super, &sb_flags, NULL);
	pool_free(&pool);
	if (r)
		return "it can't be looked at";
	if (strcmp(x->point, y->point) || (parent && parent->made_id != y->parent))
		return "its place is another";
	if (flags != x->flags)
		return "its flags are others";
	if (own && (strcmp(x->fstype, y->fstype) || strcmp(x->root, y->root)))
		return "it is of another part of the file system";
	if (own && (sb_flags ^ x->sb_flags) & MS_RDONLY)
		return "its file system is read-only, or not";
	return !x->shared != !y->shared || !x->master != !y->master || x->unbindable != y->unbindable ? "its propagation is another" : NULL;
}

int mounts_compare(const struct mounts *m, const struct proc_mounts *made, struct error *e)
{
	_cleanup_free_ struct pair *pairs = calloc(2 * m->list.count, sizeof(*pairs));
	_cleanup_free_ const struct proc_mount **sorted = calloc(made->list.count + 1, sizeof(*sorted));
	size_t n = 0;

	if (!pairs || !sorted)
		return error_set(e, -ENOMEM, "out of memory");
	if (made->list.count != m->list.count)
		return error_set(e, -ESTALE, "%zu mounts were made, not %zu", made->list.count, m->list.count);
	for (size_t i = 0; i < made->list.count; i++)
		sorted[i] = &made->list.data[i];
	qsort(sorted, made->list.count, sizeof(*sorted), by_number);
	VEC_FOREACH(&m->list, x) {
		const struct proc_mount *y = find_made(sorted, made->list.count, x->made_id);
		const char *what = y ? difference(m, x, y) : "it is not there";
		if (what)
			return error_set(e, -ESTALE, "the mount at %s did not come out as it was: %s", x->point, what);
		if (x->shared)
			pairs[n++] = (struct pair){ x->shared, y->shared };
		/* Groups of which none is the tree's may have been joined or left since. */
		if (x->master && !x->master_outside)
			pairs[n++] = (struct pair){ x->master, y->master };
	}
	return agree(pairs, n) ? 0 : error_set(e, -ESTALE, "the mounts do not share with each other as they did");
}
