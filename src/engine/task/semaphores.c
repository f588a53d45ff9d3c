/*
 * System V semaphores, semop(2): the sets live on outside the processes and are not saved. What a process has to undo at its end
 * (SEM_UNDO) would be undone when a dump ends it, and the kernel shows it to nobody: one that may have such is refused. Where the kernel's own memory
 * can be read (inside.h), that tells.
 *
 * May have: it has a list for it, which kcmp(2) tells from none (a process with threads always has one), and it was the last to
 * change some semaphore. Left out: one whose semaphores others have changed since. Message queues are nobody's own.
 */
#include "engine/task/state.h"

#include "base/apart.h"
#include "engine/kernel.h"
#include "engine/task/inside.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>

#define TABLE_MAX (16UL << 20)

/* In a process of its own, which has no list. */
static int call_kcmp(void *argument)
{
	const struct task *t = argument;

	return (int)syscall(__NR_kcmp, (pid_t)syscall(__NR_getpid), t->proc, KCMP_SYSVSEM, 0, 0);
}

static bool changed_last(int set, unsigned long count, pid_t pid)
{
	for (unsigned long i = 0; i < count; i++)
		if (semctl(set, (int)i, GETPID) == pid)
			return true;
	return false;
}

/* Whether the kernel itself says that its list is empty. */
static bool is_nothing(struct dump *d, const struct task *t)
{
	uint64_t list, first;
	int at;

	if (inside_thread(d, t->threads.data[0], "sysvsem.undo_list", &list, sizeof(list)))
		return false;
	at = list ? kernel_offset(d->kernel, "sem_undo_list", "list_proc") : 0;
	return !list || (at >= 0 && !kernel_read(d->kernel, list + (uint64_t)at, &first, sizeof(first)) && first == list + (uint64_t)at);
}

int semaphores_check(struct dump *d, struct task *t)
{
	_cleanup_free_ char *text = NULL;
	int set;
	unsigned long count;

	if (d->semaphores < 0 || read_file_at(AT_FDCWD, "/proc/sysvipc/sem", TABLE_MAX, &text, NULL))
		return 0;
	/* All tasks are stopped: what is not there was not changed by any of them. */
	const char *end = strchr(text, '\n');
	d->semaphores = end && end[1] ? 1 : -1;
	for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n')) {
		if (sscanf(line, "%*d %d %*o %lu", &set, &count) != 2 || !changed_last(set, count, t->pid))
			continue;
		if (run_apart(NULL, call_kcmp, t) == 0 || is_nothing(d, t))
			return 0;
		return task_error(d, t, -ENOTSUP, "it may have changes of the System V semaphores %d to undo at its end (SEM_UNDO), which can't be saved; "
				  "let the program use semaphores of POSIX", set);
	}
	return 0;
}
