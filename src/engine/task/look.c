/*
 * What /proc tells of a process that stands still, and that anyone may read: its maps with the flags of each area (smaps, which walks all its pages),
 * namespaces, limits and the like. Most of the time of a dump of many small processes goes there, so the workers take part: the dump goes
 * through the tasks from the front, they come to meet it from the end.
 */
#include "base/workers.h"
#include "engine/task/task.h"

#include <fcntl.h>

#define TASKS_EACH 8 /* that are worth another thread */

static const char *const namespaces[] = { "mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time" };

static void read_namespace(const char *of, size_t which, char ret[64])
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/ns/%s", of, namespaces[which]);
	ssize_t n = readlink(path, ret, 63);
	ret[MAX(n, 0)] = '\0';
}

static const char *find_foreign_namespace(const struct dump *d, const char *pid)
{
	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++) {
		char theirs[64];
		if (!d->own_namespaces[i][0]) /* a kernel without them */
			continue;
		read_namespace(pid, i, theirs);
		if (theirs[0] && strcmp(theirs, d->own_namespaces[i]))
			return namespaces[i];
	}
	return NULL;
}

static int read_text(const struct task *t, const char *name, char **ret, size_t *ret_size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", t->proc, name);
	return read_small_at(AT_FDCWD, path, 1 << 16, ret, ret_size);
}

static void look(const struct dump *d, struct task *t)
{
	struct task_view *v = &t->view;
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", t->proc);
	v->foreign_namespace = find_foreign_namespace(d, pid);
	v->maps_result = proc_read_smaps(t->proc, &t->maps);
	v->timers_result = proc_read_timers(t->proc, &v->timers);
	v->limits_result = proc_read_limits(t->proc, v->limits);
	v->auxv_result = read_text(t, "auxv", &v->auxv, &v->auxv_size);
	if (read_text(t, "coredump_filter", &v->coredump_filter, NULL))
		v->coredump_filter = NULL;
	if (read_text(t, "oom_score_adj", &v->oom_score_adj, NULL))
		v->oom_score_adj = NULL;
	__atomic_store_n(&v->done, true, __ATOMIC_RELEASE);
}

static bool take(struct task *t)
{
	return !__atomic_exchange_n(&t->view.taken, true, __ATOMIC_RELAXED);
}

static void look_from_the_end(void *argument)
{
	struct dump *d = argument;

	for (size_t i = d->tasks.count; i-- > 0;) {
		struct task *t = d->tasks.data[i];
		if (t->state != TASK_DEAD && !t->refused && take(t))
			look(d, t);
	}
}

void tree_look(struct dump *d)
{
	size_t helpers = d->workers ? MIN(d->tasks.count / TASKS_EACH, (size_t)WORKERS_MAX) : 0;

	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++)
		read_namespace("self", i, d->own_namespaces[i]);
	for (size_t i = 0; i < helpers; i++)
		workers_submit_large(d->workers, look_from_the_end, d);
}

void task_look(struct dump *d, struct task *t)
{
	if (take(t))
		look(d, t);
	else if (!__atomic_load_n(&t->view.done, __ATOMIC_ACQUIRE))
		workers_wait(d->workers);
}

void task_view_free(struct task *t)
{
	VEC_FREE(&t->view.timers);
	free(t->view.auxv);
	free(t->view.coredump_filter);
	free(t->view.oom_score_adj);
}
