/* See ns.h. */
#include "engine/ns/ns.h"

#include "base/fork.h"
#include "engine/cgroups.h"
#include "engine/ns/mnt.h"
#include "engine/ns/relay.h"
#include "engine/ns/seed.h"
#include "engine/task/clocks.h"
#include "engine/watch.h"
#include "proc/sysctl.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* All that there are; that of time is any that all of the tree are in (task/clocks.h). */
static const char *const all[] = { "user", "pid", "mnt", "net", "uts", "ipc", "cgroup" };

static size_t place_of(uint64_t flag)
{
	for (size_t i = 0; i < ns_kinds_count; i++)
		if (ns_kinds[i]->flag == flag)
			return i;
	abort();
}

/* Those that we are of, before others are entered or made: of kinds that have something outside. */
static int keep_outside(uint32_t which, int to[NS_KINDS_MAX], struct error *e)
{
	for (size_t i = 0; i < ns_kinds_count; i++) {
		char path[64];
		if (!(which & 1U << i) || !ns_kinds[i]->needs_outside)
			continue;
		snprintf(path, sizeof(path), "/proc/self/ns/%s", ns_kinds[i]->name);
		to[i] = open(path, O_RDONLY | O_CLOEXEC);
		if (to[i] < 0)
			return error_errno(e, -errno, "cannot open %s", path);
	}
	return 0;
}

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

/* As the innermost namespace that it is in numbers it: the last of its ids. */
static pid_t inner_id(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	const char *line = read_file_at(AT_FDCWD, path, 1 << 16, &text, NULL) ? NULL : strstr(text, "\nNSpid:");
	if (!line)
		return -1;
	text[line + 1 - text + (long)strcspn(line + 1, "\n")] = '\0';
	const char *last = strrchr(line, '\t');
	return last ? atoi(last + 1) : -1;
}

/*
 * A /proc of the pid namespace that the coordinator has come into, which it alone sees: in a copy of its mount namespace. *ret_root: its root as it was before, in whose
 * mounts the tree's names are to be looked up, where they are our own.
 */
static int mount_proc(int *ret_root, struct error *e)
{
	*ret_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (*ret_root < 0 || unshare(CLONE_NEWNS) < 0)
		return error_errno(e, -errno, "cannot make a mount namespace");
	/* What is mounted on a mount that is nobody else's goes nowhere else. */
	if (mount(NULL, "/proc", NULL, MS_PRIVATE, NULL) < 0 || mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		return error_errno(e, -errno, "cannot mount a /proc of its pid namespace");
	return 0;
}

/* From here on we are a process of it: who returns is another than who called. */
static int enter_pids(struct dump *d)
{
	const int r = relay_fork_kept();

	if (r)
		return error_errno(d->e, r, "cannot make a process in its pid namespace");
	if (d->watch)
		watch_resume(d->watch, d->request);
	return mount_proc(&d->root_fd, d->e);
}

int ns_outside(const struct dump *d, const struct ns_kind *kind)
{
	return d->ns_outside[place_of(kind->flag)];
}

int ns_enter(struct dump *d)
{
	int r = keep_outside(d->ns_own, d->ns_outside, d->e);
	uint64_t flags = 0;

	if (r)
		return r;

	for (size_t i = 0; i < ns_kinds_count; i++)
		if (d->ns_own & 1U << i)
			flags |= ns_kinds[i]->flag;
	flags &= ~(uint64_t)(CLONE_NEWUSER | CLONE_NEWCGROUP);
	if (!flags)
		return 0;
	const pid_t inner = flags & CLONE_NEWPID ? inner_id(d->request->pid) : 1;
	_cleanup_close_ int pidfd = (int)syscall(__NR_pidfd_open, d->request->pid, 0);
	if (inner != 1)
		return error_set(d->e, -ENOTSUP, "it is in a pid namespace of its own, and is process %d there, which is not saved; dump the first one", inner);
	if (flags & CLONE_NEWPID && d->request->leave_stopped)
		return error_set(d->e, -ENOTSUP, "it is the first process of its pid namespace, which no signal from within stops; leave --leave-stopped away");
	if (pidfd < 0 || setns(pidfd, (int)flags) < 0)
		return error_errno(d->e, -errno, "cannot enter its namespaces");
	if (!(flags & CLONE_NEWPID))
		return 0;
	d->relay->request.pid = inner;
	return enter_pids(d);
}

bool ns_is_own(const struct dump *d, uint64_t flag)
{
	return d->ns_own & 1U << place_of(flag);
}

uint32_t ns_number(const struct dump *d, uint64_t flag)
{
	return ns_is_own(d, flag) ? (uint32_t)place_of(flag) + 1 + NS_KINDS_MAX : 0;
}

uint32_t ns_number_saved(const struct restore *s, uint64_t flag)
{
	return s->ns.id[place_of(flag)];
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

/* What the user gives takes the place of whatever the tree was in. */
static int take_joins(struct restore *s)
{
	for (size_t i = 0; i < s->request->n_joins; i++) {
		const char *text = s->request->joins[i], *colon = strchr(text, ':');
		char name[16];
		snprintf(name, sizeof(name), "%.*s", (int)MIN(colon ? colon - text : 0, 15), text);
		const int place = find_kind(name);
		if (place < 0 || !colon[1] || ns_kinds[place]->flag & (CLONE_NEWPID | CLONE_NEWUSER))
			return error_set(s->e, -EINVAL, "--join-ns %s: write NS:FILE with a namespace of a kind that can be joined, as net:/run/netns/NAME", text);
		_cleanup_close_ int fd = open(colon + 1, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || ioctl(fd, NS_GET_NSTYPE) != (int)ns_kinds[place]->flag)
			return error_set(s->e, fd < 0 ? -errno : -EINVAL, "--join-ns %s: %s", text, fd < 0 ? strerror(errno) : "it is no such namespace");
		int r = ns_give(s, ns_kinds[place], fd);
		if (r)
			return r;
		s->ns.any = true;
	}
	return 0;
}

int ns_load(struct restore *s)
{
	const struct rtask *root = s->tasks.data[0];
	const TaskKobjIdsEntry *ids = root->dead ? NULL : root->core->ids;
	int r = 0;

	for (size_t i = 0; ids && !r && i < s->tasks.count; i++)
		r = check_task(s, s->tasks.data[i], ids);
	if (!r)
		r = take_joins(s);
	for (size_t i = 0; ids && !r && i < ns_kinds_count; i++) {
		s->ns.id[i] = own_id(s, ids, ns_kinds[i]);
		s->ns.any |= s->ns.id[i] != 0;
		if (s->ns.id[i] && !s->ns.given[i] && ns_kinds[i]->load)
			r = ns_kinds[i]->load(s, s->ns.id[i]);
	}
	return r;
}

/* The first process of a new pid namespace, then the coordinator in it. Others that are made there for a while get ids above those of the tree. */
static int make_pids(struct restore *s)
{
	_cleanup_close_ int clocks = s->clocks.moved ? open("/proc/self/ns/time", O_RDONLY | O_CLOEXEC) : -1;

	if (s->request->leave_stopped)
		return error_set(s->e, -ENOTSUP, "the first process of a pid namespace is stopped by no signal from within; leave --leave-stopped away");
	clocks_unshare(s);
	int r = seed_make(s, CLONE_NEWPID, s->tasks.data[0]->pid);
	if (clocks >= 0 && setns(clocks, CLONE_NEWTIME) < 0)
		r = error_errno(s->e, -errno, "cannot go back to our own clocks");
	if (!r)
		r = seed_follow(s);
	if (!r)
		r = mount_proc(&s->root_fd, s->e);
	if (!r && (r = sysctl_write_number("kernel/ns_last_pid", (uint64_t)getpid())))
		r = error_errno(s->e, r, "cannot set the last id of the new pid namespace");
	return r;
}

int ns_outside_of(const struct restore *s, const struct ns_kind *kind)
{
	return s->ns.outside[place_of(kind->flag)];
}

int ns_give(struct restore *s, const struct ns_kind *kind, int fd)
{
	int *given = &s->ns.given[place_of(kind->flag)];

	*given = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	return *given < 0 ? error_errno(s->e, -errno, "cannot use descriptor %d, given for a namespace", fd) : 0;
}

/* New ones, but for those that the user gives. */
static int make_or_enter(struct restore *s, uint64_t *ret_flags)
{
	uint32_t which = 0;
	uint64_t flags = 0;

	for (size_t i = 0; i < ns_kinds_count; i++) {
		flags |= s->ns.id[i] && !s->ns.given[i] ? ns_kinds[i]->flag : 0;
		which |= s->ns.id[i] ? 1U << i : 0;
	}
	int r = keep_outside(which, s->ns.outside, s->e);
	if (r)
		return r;
	r = cgroups_enter(s);
	if (r)
		return r;
	if (unshare((int)(flags & ~(uint64_t)(CLONE_NEWPID | CLONE_NEWCGROUP))) < 0)
		return error_errno(s->e, -errno, "cannot make its namespaces");
	for (size_t i = 0; i < ns_kinds_count; i++)
		if (s->ns.given[i] && setns(s->ns.given[i], (int)ns_kinds[i]->flag) < 0)
			return error_errno(s->e, -errno, "cannot enter the %s namespace that was given", ns_kinds[i]->name);
	*ret_flags = flags;
	return 0;
}

int ns_make(struct restore *s)
{
	uint64_t flags = 0;
	int r = make_or_enter(s, &flags);

	if (r)
		return r;
	if (flags & CLONE_NEWPID)
		r = make_pids(s);
	for (size_t i = 0; !r && i < ns_kinds_count; i++)
		if (s->ns.id[i] && !s->ns.given[i] && ns_kinds[i]->fill)
			r = ns_kinds[i]->fill(s, s->ns.id[i]);
	return r;
}

void ns_plan_enter(struct restore *s, struct batch *b)
{
	mounts_plan_enter(s, b);
	if (!ns_number_saved(s, CLONE_NEWCGROUP) || s->ns.given[place_of(CLONE_NEWCGROUP)])
		return;
	batch_what(b, "make the cgroup namespace of the tree");
	OP(b, __NR_unshare, CLONE_NEWCGROUP);
}

int ns_settle(struct restore *s)
{
	int r = 0;

	for (size_t i = 0; !r && i < ns_kinds_count; i++)
		if (s->ns.id[i] && !s->ns.given[i] && ns_kinds[i]->settle)
			r = ns_kinds[i]->settle(s, s->ns.id[i]);
	return r;
}

void ns_release(struct restore *s)
{
	for (size_t i = 0; i < ns_kinds_count; i++) {
		if (ns_kinds[i]->release)
			ns_kinds[i]->release(s);
		if (s->ns.given[i] > 0)
			close(s->ns.given[i]);
		if (s->ns.outside[i] > 0)
			close(s->ns.outside[i]);
	}
	seed_release(s);
}
