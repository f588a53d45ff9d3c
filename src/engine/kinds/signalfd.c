/* signalfd(2): its mask, from fdinfo. What it reads are the pending signals, which are saved with their thread. */
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/signalfd.h>

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "signalfd");
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	SignalfdEntry e = SIGNALFD_ENTRY__INIT;
	const char *mask = fdinfo_value(f, "sigmask");

	if (!mask)
		return fd_error(d, f, -ENOTSUP, "does not tell its mask");
	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	e.sigmask = strtoull(mask, NULL, 16);
	entry.sgfd = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__SIGNALFD);
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const SignalfdEntry *e = f->entry->sgfd;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int fd = (int)syscall(__NR_signalfd4, -1, &e->sigmask, 8, SFD_CLOEXEC | ((int)e->flags & SFD_NONBLOCK));
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make a signalfd");
	*ret_fd = fd;
	return 0;
}

const struct kind kind_signalfd = {
	.name = "a signalfd",
	.summary = "signalfd: mask",
	.type = FD_TYPES__SIGNALFD,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
