/* See ns.h. */
#include "engine/ns/ns.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* All that there are; that of time is any that all of the tree are in (task/clocks.h). */
static const char *const all[] = { "user", "pid", "mnt", "net", "uts", "ipc", "cgroup" };

/* ---- dump ---- */

static int find_kind(const char *name)
{
	for (size_t i = 0; i < ns_kinds_count; i++)
		if (!strcmp(ns_kinds[i]->name, name))
			return (int)i;
	return -1;
}

static bool is_own(pid_t pid, const char *name)
{
	struct stat own, theirs;
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
	if (stat(path, &own) < 0)
		return false;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, name);
	return stat(path, &theirs) == 0 && (theirs.st_dev != own.st_dev || theirs.st_ino != own.st_ino);
}

uint32_t ns_find(pid_t pid)
{
	uint32_t found = 0;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		int kind = is_own(pid, all[i]) ? find_kind(all[i]) : -2;
		if (kind == -1)
			return 0;
		if (kind >= 0)
			found |= 1U << kind;
	}
	return found;
}

int ns_enter(struct dump *d)
{
	uint64_t flags = 0;

	for (size_t i = 0; i < ns_kinds_count; i++)
		if (d->ns_own & 1U << i)
			flags |= ns_kinds[i]->flag;
	flags &= ~(uint64_t)CLONE_NEWUSER;
	if (!flags)
		return 0;
	_cleanup_close_ int pidfd = (int)syscall(__NR_pidfd_open, d->request->pid, 0);
	if (pidfd < 0 || setns(pidfd, (int)flags) < 0)
		return error_errno(d->e, -errno, "cannot enter its namespaces");
	return 0;
}

int ns_collect(struct dump *d)
{
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	int r = 0;

	ns_fill_ids(d, &ids, false);
	for (size_t i = 0; !r && i < ns_kinds_count; i++)
		if (d->ns_own & 1U << i && ns_kinds[i]->collect)
			r = dump_part(d, ns_kinds[i]->collect(d, *(uint32_t *)((char *)&ids + ns_kinds[i]->id)));
	return r;
}

void ns_fill_ids(const struct dump *d, TaskKobjIdsEntry *ids, bool outside)
{
	for (size_t i = 0; d->ns_own && i < ns_kinds_count; i++) {
		const bool own = !outside && d->ns_own & 1U << i;
		*(protobuf_c_boolean *)((char *)ids + ns_kinds[i]->has_id) = 1;
		*(uint32_t *)((char *)ids + ns_kinds[i]->id) = (uint32_t)i + 1 + (own ? NS_KINDS_MAX : 0);
	}
}

/* ---- restore ---- */

/* Its number in the images; 0: it was that of who made the dump. */
static uint32_t own_id(const struct restore *s, const TaskKobjIdsEntry *ids, const struct ns_kind *kind)
{
	const char *theirs = (const char *)ids, *outside = (const char *)s->inventory->root_ids;

	if (!outside || !*(const protobuf_c_boolean *)(theirs + kind->has_id) || !*(const protobuf_c_boolean *)(outside + kind->has_id))
		return 0;
	uint32_t id = *(const uint32_t *)(theirs + kind->id);
	return id != *(const uint32_t *)(outside + kind->id) ? id : 0;
}

static int check_task(struct restore *s, const struct rtask *t, const TaskKobjIdsEntry *root)
{
	for (size_t i = 0; !t->dead && i < ns_kinds_count; i++)
		if (own_id(s, t->core->ids, ns_kinds[i]) != own_id(s, root, ns_kinds[i]))
			return error_set(s->e, -ENOTSUP, "process %d is in another %s namespace than the root of its tree, which is not restored", t->pid, ns_kinds[i]->name);
	return 0;
}

int ns_load(struct restore *s)
{
	const struct rtask *root = s->tasks.data[0];
	const TaskKobjIdsEntry *ids = root->dead ? NULL : root->core->ids;
	int r = 0;

	for (size_t i = 0; ids && !r && i < s->tasks.count; i++)
		r = check_task(s, s->tasks.data[i], ids);
	for (size_t i = 0; ids && !r && i < ns_kinds_count; i++) {
		s->ns.id[i] = own_id(s, ids, ns_kinds[i]);
		s->ns.any |= s->ns.id[i] != 0;
		if (s->ns.id[i] && ns_kinds[i]->load)
			r = ns_kinds[i]->load(s, s->ns.id[i]);
	}
	return r;
}

int ns_make(struct restore *s)
{
	uint64_t flags = 0;
	int r = 0;

	for (size_t i = 0; i < ns_kinds_count; i++)
		flags |= s->ns.id[i] ? ns_kinds[i]->flag : 0;
	if (unshare((int)flags) < 0)
		return error_errno(s->e, -errno, "cannot make its namespaces");
	for (size_t i = 0; !r && i < ns_kinds_count; i++)
		if (s->ns.id[i] && ns_kinds[i]->fill)
			r = ns_kinds[i]->fill(s, s->ns.id[i]);
	return r;
}

int ns_settle(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < ns_kinds_count; i++)
		if (s->ns.id[i] && ns_kinds[i]->settle)
			r = ns_kinds[i]->settle(s, s->ns.id[i]);
	return r;
}

void ns_release(struct restore *s)
{
	for (size_t i = 0; i < ns_kinds_count; i++)
		if (ns_kinds[i]->release)
			ns_kinds[i]->release(s);
}
