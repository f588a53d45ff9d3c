/*
 * restore --for-user: what the daemon adds when it restores for somebody who is not root. The restore opens files as root, by names that the
 * user may have made to lead elsewhere since the dump; so before anything runs, each file that the new processes hold must be one that
 * the user might open so, and each process must be the user's, without capabilities.
 */
#include "cli/cli.h"
#include "daemon/identity.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#define READ 4u
#define WRITE 2u
#define EXECUTE 1u

static bool in_group(const struct proc_status *s, gid_t gid)
{
	for (size_t i = 0; i < s->n_groups; i++)
		if (s->groups[i] == gid)
			return true;
	return s->gid[1] == gid;
}

static bool permits(const struct stat *st, const struct proc_status *s, unsigned need)
{
	unsigned mode = st->st_mode;

	mode = st->st_uid == s->uid[1] ? mode >> 6 : in_group(s, st->st_gid) ? mode >> 3 : mode;
	return (mode & need) == need;
}

/* `path` is a link of /proc, which leads to the very file. What has no name, and what is deleted, came out of the checkpoint. */
static int check_link(const char *path, const struct proc_status *s, unsigned need, bool or_execute, pid_t pid, struct error *e)
{
	char name[PATH_MAX];
	struct stat st;
	ssize_t n = readlink(path, name, sizeof(name) - 1);

	if (n < 0 || stat(path, &st) < 0)
		return errno == ENOENT ? 0 : error_errno(e, -errno, "process %d: cannot look at %s", pid, path);
	name[n] = '\0';
	if (name[0] != '/' || (!S_ISDIR(st.st_mode) && st.st_nlink == 0) || permits(&st, s, need) || (or_execute && permits(&st, s, EXECUTE)))
		return 0;
	return error_set(e, -EPERM, "process %d would hold %s, which user %u may not open so; restore it as root", pid, name, s->uid[1]);
}

static int check_descriptors(pid_t pid, const struct proc_status *s, struct error *e)
{
	static const unsigned needs[] = { [O_RDONLY] = READ, [O_WRONLY] = WRITE, [O_RDWR] = READ | WRITE, [3] = 0 };
	struct proc_fds fds = {};
	int r = proc_list_fds(pid, &fds);

	if (r)
		error_errno(e, r, "process %d: cannot list its descriptors", pid);
	for (size_t i = 0; !r && i < fds.count; i++) {
		struct proc_fdinfo info;
		char path[64];
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fds.data[i]);
		r = proc_read_fdinfo(pid, fds.data[i], &info);
		if (r)
			error_errno(e, r, "process %d: cannot look at descriptor %d", pid, fds.data[i]);
		else
			r = check_link(path, s, info.flags & O_PATH ? 0 : needs[info.flags & O_ACCMODE], false, pid, e);
	}
	free(fds.data);
	return r;
}

static int check_areas(pid_t pid, const struct proc_status *s, struct error *e)
{
	struct proc_maps maps = {};
	int r = proc_read_maps(pid, &maps);

	if (r)
		error_errno(e, r, "process %d: cannot read its maps", pid);
	for (size_t i = 0; !r && i < maps.count; i++) {
		const struct proc_vma *v = &maps.data[i];
		char path[100];
		if (!v->inode || !v->name || v->name[0] != '/')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", pid, (unsigned long long)v->start, (unsigned long long)v->end);
		r = check_link(path, s, READ | (v->shared && v->prot & 2 ? WRITE : 0), !v->shared, pid, e);
	}
	proc_maps_finish(&maps);
	return r;
}

static int check_directories(pid_t pid, const struct proc_status *s, struct error *e)
{
	static const char *const names[] = { "cwd", "root" };
	char path[64];
	int r = 0;

	for (size_t i = 0; !r && i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "/proc/%d/%s", pid, names[i]);
		r = check_link(path, s, EXECUTE, false, pid, e);
	}
	return r;
}

int restrict_call(void *data, const char *moment, pid_t root, struct error *e)
{
	const struct command_line *c = data;
	struct tree t = {};
	int r = 0;

	if (strcmp(moment, "post-restore"))
		return 0;
	r = tree_require_owner(root, (uid_t)c->for_user, e);
	if (!r && tree_list(root, &t))
		r = error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < t.count; i++) {
		struct proc_status status;
		if (process_is_dead(t.data[i]))
			continue;
		r = proc_read_status(t.data[i], &status);
		if (r)
			error_errno(e, r, "process %d: cannot read its status", t.data[i]);
		if (!r)
			r = check_descriptors(t.data[i], &status, e);
		if (!r)
			r = check_areas(t.data[i], &status, e);
		if (!r)
			r = check_directories(t.data[i], &status, e);
	}
	VEC_FREE(&t);
	return r;
}
