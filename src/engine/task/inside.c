/* See inside.h. */
#include "engine/task/inside.h"

#include "engine/kernel.h"

#include <fcntl.h>

int inside_task(struct dump *d, const struct thread *th, uint64_t *ret)
{
	struct kernel *k = dump_kernel(d);
	char path[64];

	if (k && th->insight.task) {
		*ret = th->insight.task;
		return 0;
	}
	snprintf(path, sizeof(path), "/proc/%d/task/%d", th->task->pid, th->tid);
	_cleanup_close_ int fd = k ? open(path, O_PATH | O_CLOEXEC) : -1;
	return !k ? -ENOTSUP : fd < 0 ? -errno : kernel_task(k, fd, th->answers.comm, ret);
}

int inside_thread(struct dump *d, const struct thread *th, const char *member, void *to, size_t size)
{
	uint64_t task;
	int r = inside_task(d, th, &task);
	int at = r ? r : kernel_offset(d->kernel, "task_struct", member);

	return at < 0 ? at : kernel_read(d->kernel, task + (uint64_t)at, to, size);
}

int inside_follow(struct dump *d, uint64_t *at, const char *type, const char *member)
{
	struct kernel *k = dump_kernel(d);
	int offset = k ? kernel_offset(k, type, member) : -ENOTSUP;

	return offset < 0 ? offset : kernel_read(k, *at + (uint64_t)offset, at, sizeof(*at));
}
