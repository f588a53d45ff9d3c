/*
 * eventfd(2): its counter, from fdinfo. That it is a semaphore is told there since Linux 6.5; before, the kernel's own struct says it (kernel.h).
 * Where that can't be read, a counter is taken for none, with a warning: few programs have semaphores, and many have counters.
 */
#include "base/log.h"
#include "engine/kernel.h"
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/eventfd.h>

/* For kernels before 6.5. */
struct state {
	struct kernel *kernel; /* or NULL, and why */
	int error;
};

extern const struct kind kind_eventfd;

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "eventfd");
}

static struct state *state_of(struct dump *d)
{
	void **at = kind_state(d, &kind_eventfd);
	struct state *s = *at;

	if (!s && (s = *at = calloc(1, sizeof(*s))))
		s->error = kernel_open(&s->kernel);
	return s;
}

/* The flags that it was made with. The counter, which is known, stands beside them, and tells whether the right place was read. */
static int read_flags(struct kernel *k, int fd, uint64_t counter, uint32_t *ret)
{
	uint64_t at, seen;
	const int context = kernel_offset(k, "file", "private_data"), count = kernel_offset(k, "eventfd_ctx", "count"), flags = kernel_offset(k, "eventfd_ctx", "flags");
	int r = context < 0 || count < 0 || flags < 0 ? -ENOTSUP : kernel_file(k, fd, &at);

	if (!r)
		r = kernel_read(k, at + (uint64_t)context, &at, sizeof(at));
	if (!r)
		r = kernel_read(k, at + (uint64_t)count, &seen, sizeof(seen));
	if (!r)
		r = kernel_read(k, at + (uint64_t)flags, ret, sizeof(*ret));
	return r ? r : seen == counter ? 0 : -ENOTSUP;
}

static bool is_semaphore(struct dump *d, struct descriptor *f, uint64_t counter)
{
	const char *told = fdinfo_value(f, "eventfd-semaphore");
	struct state *s = told ? NULL : state_of(d);
	uint32_t flags = 0;

	if (told)
		return atoi(told);
	int r = !s ? -ENOMEM : s->error ? s->error : read_flags(s->kernel, f->own_fd, counter, &flags);
	if (r)
		log_warning("Whether descriptor %d of process %d (an eventfd) is a semaphore can't be told before Linux 6.5 without BTF, BPF and CAP_BPF (%s): it is saved as none",
			    f->fd, f->task->pid, strerror(-r));
	return flags & EFD_SEMAPHORE;
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;

	if (s)
		kernel_close(s->kernel);
	free(s);
	*at = NULL;
	return 0;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	EventfdFileEntry e = EVENTFD_FILE_ENTRY__INIT;
	const char *count = fdinfo_value(f, "eventfd-count");

	if (!count)
		return fd_error(d, f, -ENOTSUP, "does not tell its counter (CONFIG_PROC_FS, Linux 3.8)");
	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	e.counter = strtoull(count, NULL, 16);
	e.has_semaphore = e.semaphore = is_semaphore(d, f, e.counter);
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
	.finish = finish,
	.create = create,
};
