/* eventfd(2): its counter, from fdinfo. That it is a semaphore is told since Linux 6.5. */
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/eventfd.h>

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "eventfd");
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	EventfdFileEntry e = EVENTFD_FILE_ENTRY__INIT;
	const char *count = fdinfo_value(f, "eventfd-count"), *semaphore = fdinfo_value(f, "eventfd-semaphore");

	if (!count)
		return fd_error(d, f, -ENOTSUP, "does not tell its counter (CONFIG_PROC_FS, Linux 3.8)");
	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	e.counter = strtoull(count, NULL, 16);
	e.has_semaphore = e.semaphore = semaphore && atoi(semaphore);
	entry.efd = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__EVENTFD);
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const EventfdFileEntry *e = f->entry->efd;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (e->semaphore ? EFD_SEMAPHORE : 0));
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make an eventfd");
	if ((e->counter && write(fd, &e->counter, sizeof(e->counter)) != sizeof(e->counter)) ||
	    fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0) {
		int r = error_errno(s->e, -errno, "cannot set the counter of an eventfd");
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

const struct kind kind_eventfd = {
	.name = "an eventfd",
	.summary = "eventfd: counter, semaphore mode",
	.type = FD_TYPES__EVENTFD,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
