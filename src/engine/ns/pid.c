/*
 * PID namespaces: pid_namespaces(7). The images have the ids that the tree sees, as those of CRIU have. The root is the namespace's first process, and all in it are of
 * its tree: its end is the end of all, so what came in otherwise (nsenter(1)) would be lost, and is refused. Left out: the id that was given out last; new processes get
 * ids above those of the tree.
 */
#include "engine/ns/ns.h"
#include "engine/task/task.h"

#include <dirent.h>
#include <sched.h>

static bool is_of_tree(const struct dump *d, pid_t pid)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == pid)
			return true;
	return false;
}

static int check_stranger(struct dump *d, pid_t pid)
{
	struct proc_stat stat;

	/* The coordinator, who keeps it, and what it has started for itself. */
	if (pid == getpid() || pid == getppid() || is_of_tree(d, pid) || proc_read_stat(pid, &stat) || stat.ppid == getpid())
		return 0;
	return error_set(d->e, -ENOTSUP, "process %d (%s) is in its pid namespace, but not of its tree (nsenter), and would be lost; end that first", pid, stat.comm);
}

/* The number 0 stands for any session outside: where a parent is in one of those within there is no way to have it again. */
static int check_sessions(struct dump *d)
{
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		if (t->parent && !t->sid && t->parent->sid)
			return task_error(d, t, -ENOTSUP, "it is of a session outside of its pid namespace, and its parent is not, which is not saved");
	}
	return 0;
}

static int pid_collect(struct dump *d, uint32_t id)
{
	DIR *dir = opendir("/proc");
	int r = dir ? check_sessions(d) : error_errno(d->e, -errno, "cannot list /proc");

	for (struct dirent *entry; !r && (entry = readdir(dir));)
		if (entry->d_name[0] > '0' && entry->d_name[0] <= '9')
			r = check_stranger(d, atoi(entry->d_name));
	if (dir)
		closedir(dir);
	return r;
}

static int pid_load(struct restore *s, uint32_t id)
{
	return s->tasks.data[0]->pid == 1 ? 0 : error_set(s->e, -EBADMSG, "the root of a tree in a pid namespace of its own has id %d, and not 1", s->tasks.data[0]->pid);
}

const struct ns_kind ns_pid = {
	.name = "pid",
	.flag = CLONE_NEWPID,
	.summary = "The ids that processes and threads have in it, where all in it are of the tree",
	.has_id = offsetof(TaskKobjIdsEntry, has_pid_ns_id),
	.id = offsetof(TaskKobjIdsEntry, pid_ns_id),
	.collect = pid_collect,
	.load = pid_load,
};
