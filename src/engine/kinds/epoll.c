/*
 * epoll(7): what it watches, from fdinfo. An entry belongs to an open file description *and* the number that it had when it was
 * added; the number may since refer to something else or to nothing, so kcmp(2) with KCMP_EPOLL_TFD (Linux 4.13) finds a
 * descriptor of the task that is still the same description.
 *
 * The entries are added by the task itself, once it has its descriptors.
 *
 * An EPOLLONESHOT entry that has told of its event is disarmed, which nothing but telling does: the kernel adds errors and hang-ups to
 * every entry that is added. So it is added to wait for anything, first of all, and its event is taken at once. That needs a file
 * that is ready for something; where it is not, and could have an error or a hang-up later, the dump is refused.
 *
 * An EPOLLET entry tells once more of what it may have told before, as after EPOLL_CTL_ADD: whether it has is not to be seen.
 */
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "eventpoll");
}

static bool same_target(const struct descriptor *f, int fd, uint32_t tfd, uint32_t nth)
{
	struct kcmp_epoll_slot slot = { .efd = (uint32_t)f->fd, .tfd = tfd, .toff = nth };

	return syscall(__NR_kcmp, f->task->proc, f->task->proc, KCMP_EPOLL_TFD, fd, &slot) == 0;
}

/* The descriptor of the task that an entry stands for. `nth`: among the entries with that number. */
static int find_target(struct dump *d, struct descriptor *f, EventpollTfdEntry *e, uint32_t nth)
{
	struct proc_fds fds = {};
	int found = -1;

	if (same_target(f, (int)e->tfd, e->tfd, nth))
		return 0;
	int r = proc_list_fds(f->task->proc, &fds);
	if (r)
		return task_errno(d, f->task, r, "cannot list its descriptors");
	for (size_t i = 0; i < fds.count && found < 0; i++)
		if (same_target(f, fds.data[i], e->tfd, nth))
			found = fds.data[i];
	VEC_FREE(&fds);
	if (found < 0)
		return fd_error(d, f, -ENOTSUP, "watches a file that was descriptor %u and is no longer open in the task itself; let the program take it out of the epoll set", e->tfd);
	e->has_target_fd = 1;
	e->target_fd = (uint32_t)found;
	return 0;
}

/* Of the bits of an entry, those that are no events. */
#define HOW_BITS (EPOLLONESHOT | EPOLLET | (1U << 29) /* EPOLLWAKEUP */ | (1U << 28) /* EPOLLEXCLUSIVE */)
#define ANYTHING (EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP)

/* Whether an entry was disarmed, and can be again. */
static int find_spent(struct dump *d, struct descriptor *f, EventpollTfdEntry *e)
{
	uint32_t number = e->has_target_fd ? e->target_fd : e->tfd;
	char path[64], target[256];
	int listens = 0;
	socklen_t size = sizeof(listens);

	if (!(e->events & EPOLLONESHOT) || e->events & ~HOW_BITS)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/fd/%u", f->task->proc, number);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	target[MAX(n, 0L)] = '\0';
	if (!strncmp(target, "anon_inode:", 11)) /* has neither errors nor hang-ups */
		return 0;
	_cleanup_close_ int own = (int)syscall(__NR_pidfd_getfd, f->task->pidfd, number, 0);
	struct pollfd ready = { .fd = own, .events = POLLIN | POLLPRI | POLLOUT | POLLRDHUP };
	if (own < 0 || poll(&ready, 1, 0) < 0)
		return fd_errno(d, f, -errno, "does not tell of descriptor %u that it watches", e->tfd);
	e->has_spent = e->spent = ready.revents != 0;
	if (e->spent || (getsockopt(own, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens))
		return 0;
	return fd_error(d, f, -EAGAIN, "watches descriptor %u (%s) once, has told of it (EPOLLONESHOT), and that is ready for nothing now; "
			"try again when the program has armed it again or taken it out", e->tfd, target);
}

static int capture_entries(struct dump *d, struct descriptor *f, EventpollFileEntry *e)
{
	VEC(EventpollTfdEntry *) list = {};
	int r = 0;

	for (const char *line = f->fdinfo; line && !r; line = strchr(line + 1, '\n')) {
		unsigned int tfd, events;
		unsigned long long data;
		if (sscanf(line, " tfd: %u events: %x data: %llx", &tfd, &events, &data) != 3)
			continue;
		EventpollTfdEntry *t = malloc(sizeof(*t)), **slot = t ? VEC_PUSH(&list) : NULL;
		if (!slot) {
			free(t);
			r = error_set(d->e, -ENOMEM, "out of memory");
			break;
		}
		*slot = t;
		eventpoll_tfd_entry__init(t);
		t->id = f->id;
		t->tfd = tfd;
		t->events = events;
		t->data = data;
		uint32_t nth = 0;
		for (size_t i = 0; i + 1 < list.count; i++)
			nth += list.data[i]->tfd == tfd;
		r = find_target(d, f, t, nth);
		if (!r)
			r = find_spent(d, f, t);
	}
	e->tfd = list.data;
	e->n_tfd = list.count;
	return r;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	EventpollFileEntry e = EVENTPOLL_FILE_ENTRY__INIT;

	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	int r = capture_entries(d, f, &e);
	entry.epfd = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__EVENTPOLL);
	for (size_t i = 0; i < e.n_tfd; i++)
		free(e.tfd[i]);
	free(e.tfd);
	return r;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	int fd = f->entry->epfd ? epoll_create1(EPOLL_CLOEXEC) : -1;

	if (fd < 0)
		return error_errno(s->e, f->entry->epfd ? -errno : -EBADMSG, "cannot make an epoll descriptor");
	*ret_fd = fd;
	return 0;
}

static bool holds(const struct rtask *t, uint32_t fd)
{
	for (size_t i = 0; i < t->fds.count; i++)
		if (t->fds.data[i]->fd == fd)
			return true;
	return false;
}

/* An entry whose number means something else now: that is put aside while the entry is added. */
static void plan_moved(struct restore *s, struct rtask *t, const EventpollTfdEntry *e, int fd, uint64_t event)
{
	struct batch *b = &t->threads.data[0].batch;
	bool taken = holds(t, e->tfd);
	int aside = s->fd_base - 1;

	if (taken)
		OP(b, __NR_dup3, e->tfd, aside, 0);
	OP(b, __NR_dup3, e->target_fd, e->tfd, 0);
	OP(b, __NR_epoll_ctl, fd, EPOLL_CTL_ADD, e->tfd, event);
	if (!taken) {
		OP(b, __NR_close, e->tfd);
		return;
	}
	OP(b, __NR_dup3, aside, e->tfd, 0);
	OP(b, __NR_close, aside);
	for (size_t i = 0; i < t->fds.count; i++)
		if (t->fds.data[i]->fd == e->tfd && t->fds.data[i]->flags & FD_CLOEXEC)
			OP(b, __NR_fcntl, e->tfd, F_SETFD, FD_CLOEXEC);
}

static void plan_entry(struct restore *s, struct rtask *t, const EventpollTfdEntry *e, int fd)
{
	struct batch *b = &t->threads.data[0].batch;
	struct epoll_event event = { .events = e->spent ? EPOLLONESHOT | ANYTHING : e->events, .data.u64 = e->data };
	uint64_t at = arena_place(&s->arena, &event, sizeof(event));

	batch_what(b, "watch descriptor %u with epoll descriptor %d of process %d", e->tfd, fd, t->pid);
	if (e->has_target_fd)
		plan_moved(s, t, e, fd, at);
	else
		OP(b, __NR_epoll_ctl, fd, EPOLL_CTL_ADD, e->tfd, at);
	if (!e->spent)
		return;
	batch_what(b, "take the event of descriptor %u from epoll descriptor %d of process %d", e->tfd, fd, t->pid);
	struct agent_op *op = OP(b, __NR_epoll_wait, fd, at, 1, 0);
	op->flags = AGENT_OP_EXPECT;
	op->expect = 1;
}

/* Those whose event is to be taken first, when there can be no other. */
static int late(struct restore *s, struct file *f, struct rtask *t, int fd)
{
	const EventpollFileEntry *e = f->entry->epfd;

	for (int spent = 1; spent >= 0; spent--)
		for (size_t i = 0; i < e->n_tfd; i++)
			if (!e->tfd[i]->spent == !spent)
				plan_entry(s, t, e->tfd[i], fd);
	return 0;
}

const struct kind kind_epoll = {
	.name = "an epoll descriptor",
	.summary = "epoll: what is watched, nested ones and such whose number was reused too; edge-triggered entries tell once more",
	.type = FD_TYPES__EVENTPOLL,
	.recognise = recognise,
	.capture = capture,
	.create = create,
	.late = late,
};
