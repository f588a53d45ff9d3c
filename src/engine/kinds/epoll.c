/*
 * epoll(7): what it watches, from fdinfo. An entry belongs to an open file description *and* the number that it had when it was
 * added; the number may since refer to something else or to nothing, so kcmp(2) with KCMP_EPOLL_TFD (Linux 4.13) finds a
 * descriptor of the task, or of another, that is still the same description.
 *
 * The entries are added by the task itself, once it has its descriptors.
 *
 * An EPOLLONESHOT entry that has told of its event is disarmed, which nothing but telling does: the kernel adds errors and hang-ups to
 * every entry that is added. So it is added to wait for anything, first of all, and its event is taken at once. That needs a file
 * that is ready for something; a pipe or a stream that is not is made so for that moment, before the tree is built, and set back when it is. Of
 * another that is not, and could have an error or a hang-up later, the dump is refused.
 *
 * An EPOLLET entry tells once more of what it may have told before, as after EPOLL_CTL_ADD: whether it has is not to be seen.
 */
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "eventpoll");
}

/* An entry whose file only another task has: its id is known once all were captured. */
struct foreign {
	EventpollTfdEntry *entry;
	struct task *task;
	int fd;
};

/* A description that is written when all were captured. */
struct pending {
	EventpollFileEntry e;
	FownEntry fown;
	struct task *task;
	int fd;
};

struct state {
	VEC(struct foreign) foreign;
	VEC(struct pending *) pending;
};

static bool same_target(const struct descriptor *f, pid_t other, int fd, uint32_t tfd, uint32_t nth)
{
	struct kcmp_epoll_slot slot = { .efd = (uint32_t)f->fd, .tfd = tfd, .toff = nth };

	return syscall(__NR_kcmp, other, f->task->proc, KCMP_EPOLL_TFD, fd, &slot) == 0;
}

/* The descriptor of a task that an entry stands for; -1: none. */
static int find_in(struct dump *d, struct descriptor *f, struct task *t, uint32_t tfd, uint32_t nth)
{
	struct proc_fds fds = {};
	int found = -1, r = proc_list_fds(t->proc, &fds);

	if (r)
		return t == f->task ? task_errno(d, t, r, "cannot list its descriptors") : -1;
	for (size_t i = 0; i < fds.count && found < 0; i++)
		if (same_target(f, t->proc, fds.data[i], tfd, nth))
			found = fds.data[i];
	VEC_FREE(&fds);
	return found;
}

static struct state *state_of(struct dump *d)
{
	extern const struct kind kind_epoll;
	void **at = kind_state(d, &kind_epoll);

	if (!*at)
		*at = calloc(1, sizeof(struct state));
	return *at;
}

/* The same in any other table of the tree, which is given back. */
static int find_elsewhere(struct dump *d, struct descriptor *f, uint32_t tfd, uint32_t nth, struct task **ret)
{
	int found = -1;

	for (size_t i = 0; i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i], *table;
		for (size_t k = t->files_id != t->id; found < 0 && (table = files_table(t, k)); k++) {
			if (table == f->task)
				continue;
			found = find_in(d, f, table, tfd, nth);
			*ret = table;
		}
		if (found >= 0)
			break;
	}
	return found;
}

/* What an entry stands for. `nth`: among the entries with that number. */
static int find_target(struct dump *d, struct descriptor *f, EventpollTfdEntry *e, uint32_t nth)
{
	struct state *s = state_of(d);

	if (same_target(f, f->task->proc, (int)e->tfd, e->tfd, nth))
		return 0;
	int found = find_in(d, f, f->task, e->tfd, nth);
	if (found >= 0) {
		e->has_target_fd = 1;
		e->target_fd = (uint32_t)found;
		return 0;
	}
	struct task *other;
	int there = found == -1 ? find_elsewhere(d, f, e->tfd, nth, &other) : -1;
	if (there >= 0) {
		struct foreign *slot = s ? VEC_PUSH(&s->foreign) : NULL;
		if (!slot)
			return error_set(d->e, -ENOMEM, "out of memory");
		*slot = (struct foreign){ e, other, there };
		e->has_target_file = 1;
		return 0;
	}
	return found < -1 ? found : fd_error(d, f, -ENOTSUP, "watches a file that was descriptor %u and is no longer open in the tree itself; let the program take it out of the epoll set", e->tfd);
}

/* Of the bits of an entry, those that are no events. */
#define HOW_BITS (EPOLLONESHOT | EPOLLET | (1U << 29) /* EPOLLWAKEUP */ | (1U << 28) /* EPOLLEXCLUSIVE */)
#define ANYTHING (EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP)

/* A pipe, or a connected stream. */
static bool can_be_ready(int fd)
{
	struct stat st;
	int type = 0, listens = 0;
	socklen_t size = sizeof(int);

	if (fstat(fd, &st) < 0 || S_ISFIFO(st.st_mode))
		return S_ISFIFO(st.st_mode);
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM &&
	       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && !listens;
}

/* Whether an entry was disarmed, and can be again. */
static int find_spent(struct dump *d, struct descriptor *f, EventpollTfdEntry *e)
{
	const struct state *s = e->has_target_file ? state_of(d) : NULL;
	const struct foreign *x = s ? &s->foreign.data[s->foreign.count - 1] : NULL;
	const struct task *t = x ? x->task : f->task;
	uint32_t number = x ? (uint32_t)x->fd : e->has_target_fd ? e->target_fd : e->tfd;
	char path[64], target[256];
	int listens = 0;
	socklen_t size = sizeof(listens);

	if (!(e->events & EPOLLONESHOT) || e->events & ~HOW_BITS)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/fd/%u", t->proc, number);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	target[MAX(n, 0L)] = '\0';
	if (!strncmp(target, "anon_inode:", 11)) /* has neither errors nor hang-ups */
		return 0;
	_cleanup_close_ int own = (int)syscall(__NR_pidfd_getfd, t->pidfd, number, 0);
	struct pollfd ready = { .fd = own, .events = POLLIN | POLLPRI | POLLOUT | POLLRDHUP };
	if (own < 0 || poll(&ready, 1, 0) < 0)
		return fd_errno(d, f, -errno, "does not tell of descriptor %u that it watches", e->tfd);
	e->has_silent = e->silent = !ready.revents && can_be_ready(own);
	e->has_spent = e->spent = ready.revents || e->silent;
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

/* Linux 6.9; not in older headers. */
struct params {
	uint32_t busy_poll_usecs;
	uint16_t busy_poll_budget;
	uint8_t prefer_busy_poll, pad;
};
#define GET_PARAMS _IOR(0x8a, 0x02, struct params)
#define SET_PARAMS _IOW(0x8a, 0x01, struct params)

static void capture_params(struct descriptor *f, EventpollFileEntry *e)
{
	struct params p = {};

	if (ioctl(f->own_fd, GET_PARAMS, &p) < 0 || (!p.busy_poll_usecs && !p.busy_poll_budget && !p.prefer_busy_poll))
		return;
	e->has_busy_poll_usecs = e->has_busy_poll_budget = e->has_prefer_busy_poll = 1;
	e->busy_poll_usecs = p.busy_poll_usecs;
	e->busy_poll_budget = p.busy_poll_budget;
	e->prefer_busy_poll = p.prefer_busy_poll;
}

static int write_entry(struct dump *d, struct pending *p)
{
	FileEntry entry = FILE_ENTRY__INIT;
	const struct descriptor f = { .task = p->task, .fd = p->fd, .id = p->e.id };

	entry.epfd = &p->e;
	return file_entry_write(d, &entry, &f, FD_TYPES__EVENTPOLL);
}

static void pending_free(struct pending *p)
{
	for (size_t i = 0; i < p->e.n_tfd; i++)
		free(p->e.tfd[i]);
	free(p->e.tfd);
	free(p);
}

static int capture(struct dump *d, struct descriptor *f)
{
	struct state *s = state_of(d);
	struct pending *p = calloc(1, sizeof(*p)), **slot = s && p ? VEC_PUSH(&s->pending) : NULL;

	if (!slot) {
		free(p);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	*slot = p;
	eventpoll_file_entry__init(&p->e);
	p->fown = *f->fown;
	p->task = f->task;
	p->fd = f->fd;
	p->e.id = f->id;
	p->e.flags = f->flags;
	p->e.fown = &p->fown;
	capture_params(f, &p->e);
	return capture_entries(d, f, &p->e);
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;
	int r = 0;

	if (!s)
		return 0;
	VEC_FOREACH(&s->foreign, x)
		if (success && !r && !(x->entry->target_file = files_find(d, x->task, x->fd)))
			r = task_error(d, x->task, -ENOTSUP, "descriptor %d, which an epoll set of another process watches, was not saved", x->fd);
	for (size_t i = 0; i < s->pending.count; i++) {
		if (success && !r)
			r = write_entry(d, s->pending.data[i]);
		pending_free(s->pending.data[i]);
	}
	VEC_FREE(&s->foreign);
	VEC_FREE(&s->pending);
	free(s);
	*at = NULL;
	return r;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	int fd = f->entry->epfd ? epoll_create1(EPOLL_CLOEXEC) : -1;

	if (fd < 0)
		return error_errno(s->e, f->entry->epfd ? -errno : -EBADMSG, "cannot make an epoll descriptor");
	const EventpollFileEntry *e = f->entry->epfd;
	struct params p = { e->busy_poll_usecs, (uint16_t)e->busy_poll_budget, e->prefer_busy_poll, 0 };
	if (e->has_busy_poll_usecs && ioctl(fd, SET_PARAMS, &p) < 0 && errno != ENOTTY && errno != EOPNOTSUPP && errno != EINVAL) {
		close(fd);
		return error_errno(s->e, -errno, "cannot set how an epoll descriptor polls");
	}
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

/* An entry whose number means something else now: that is put aside while the entry is added. `target`: where its file is. */
static void plan_moved(struct restore *s, struct rtask *t, const EventpollTfdEntry *e, int target, int fd, uint64_t event)
{
	struct batch *b = &t->threads.data[0].batch;
	bool taken = holds(t, e->tfd);
	int aside = s->fd_base - 1;

	if (taken)
		OP(b, __NR_dup3, e->tfd, aside, 0);
	OP(b, __NR_dup3, target, e->tfd, 0);
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

/* What was made ready for a moment, and how it was before. */
struct readied {
	int fd; /* the coordinator's */
	enum { GAVE_BYTE, WIDER_PIPE, WIDER_SOCKET } how;
	int size, lock;
};

struct readied_list {
	VEC(struct readied) list;
};

/* The coordinator's descriptor of what an entry watches. */
static int find_made(struct restore *s, const struct rtask *t, const EventpollTfdEntry *e)
{
	uint32_t number = e->has_target_fd ? e->target_fd : e->tfd;

	if (e->has_target_file)
		return file_fd(s, e->target_file);
	for (size_t i = 0; i < t->fds.count; i++)
		if (t->fds.data[i]->fd == number)
			return file_fd(s, t->fds.data[i]->id);
	return -EBADMSG;
}

/* An empty pipe gets a byte, a full one more room, as a stream does. */
static int give_event(struct readied *x)
{
	char path[40];
	struct stat st;
	socklen_t size = sizeof(int);

	if (fstat(x->fd, &st) < 0)
		return -errno;
	if (!S_ISFIFO(st.st_mode)) {
		int much = 1 << 28;
		x->how = WIDER_SOCKET;
		if (getsockopt(x->fd, SOL_SOCKET, SO_SNDBUF, &x->size, &size) < 0 || getsockopt(x->fd, SOL_SOCKET, SO_BUF_LOCK, &x->lock, &size) < 0 ||
		    setsockopt(x->fd, SOL_SOCKET, SO_SNDBUFFORCE, &much, sizeof(much)) < 0)
			return -errno;
		return 0;
	}
	if ((fcntl(x->fd, F_GETFL) & O_ACCMODE) == O_RDONLY) {
		x->how = GAVE_BYTE;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", x->fd);
		_cleanup_close_ int end = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
		return end >= 0 && write(end, "", 1) == 1 ? 0 : -errno;
	}
	x->how = WIDER_PIPE;
	x->size = fcntl(x->fd, F_GETPIPE_SZ);
	return x->size > 0 && fcntl(x->fd, F_SETPIPE_SZ, 2 * x->size) > 0 ? 0 : -errno;
}

static int take_back(const struct readied *x)
{
	int half = x->size / 2;
	char byte;

	switch (x->how) {
	case GAVE_BYTE: return read(x->fd, &byte, 1) == 1 ? 0 : -EIO;
	case WIDER_PIPE: return fcntl(x->fd, F_SETPIPE_SZ, x->size) < 0 ? -errno : 0;
	case WIDER_SOCKET:
		setsockopt(x->fd, SOL_SOCKET, SO_SNDBUFFORCE, &half, sizeof(half));
		return setsockopt(x->fd, SOL_SOCKET, SO_BUF_LOCK, &x->lock, sizeof(x->lock)) < 0 ? -errno : 0;
	}
	return 0;
}

static int make_ready(struct restore *s, struct file *f, const struct rtask *t, const EventpollTfdEntry *e)
{
	struct readied_list *l = f->own ? f->own : (f->own = calloc(1, sizeof(*l)));
	int fd = l ? find_made(s, t, e) : -ENOMEM;
	struct pollfd p = { .fd = fd, .events = ANYTHING };

	if (fd < 0 || poll(&p, 1, 0) != 0)
		return fd < 0 ? error_errno(s->e, fd, "cannot find descriptor %u, which an epoll descriptor watches", e->tfd) : 0;
	struct readied *x = VEC_PUSH(&l->list);
	if (!x)
		return error_set(s->e, -ENOMEM, "out of memory");
	*x = (struct readied){ .fd = fd };
	int r = give_event(x);
	return r ? error_errno(s->e, r, "cannot give an event to descriptor %u, which an epoll descriptor watches", e->tfd) : 0;
}

static int settle(struct restore *s, struct file *f)
{
	struct readied_list *l = f->own;
	int r = 0;

	for (size_t i = l ? l->list.count : 0; !r && i-- > 0;)
		r = take_back(&l->list.data[i]);
	return r ? error_errno(s->e, r, "cannot take back an event that was given for an epoll descriptor") : 0;
}

static void release(struct restore *s, struct file *f)
{
	struct readied_list *l = TAKE_PTR(f->own);

	if (l)
		VEC_FREE(&l->list);
	free(l);
}

static int plan_entry(struct restore *s, struct rtask *t, struct file *f, const EventpollTfdEntry *e, int fd)
{
	int target = e->has_target_file ? file_fd_early(s, e->target_file) : (int)e->target_fd;

	struct batch *b = &t->threads.data[0].batch;
	struct epoll_event event = { .events = e->spent ? EPOLLONESHOT | ANYTHING : e->events, .data.u64 = e->data };
	uint64_t at = arena_place(&s->arena, &event, sizeof(event));

	if (target < 0 || e->tfd >= FD_MAX)
		return target < 0 ? target : error_set(s->e, -EBADMSG, "epoll descriptor %d of process %d watches descriptor %u, which can't be", fd, t->pid, e->tfd);
	int r = e->spent && e->silent ? make_ready(s, f, t, e) : 0;
	if (r)
		return r;
	batch_what(b, "watch descriptor %u with epoll descriptor %d of process %d", e->tfd, fd, t->pid);
	if (e->has_target_fd || e->has_target_file)
		plan_moved(s, t, e, target, fd, at);
	else
		OP(b, __NR_epoll_ctl, fd, EPOLL_CTL_ADD, e->tfd, at);
	if (!e->spent)
		return 0;
	batch_what(b, "take the event of descriptor %u from epoll descriptor %d of process %d", e->tfd, fd, t->pid);
	struct agent_op *op = OP(b, __NR_epoll_wait, fd, at, 1, 0);
	op->flags = AGENT_OP_EXPECT;
	op->expect = 1;
	return 0;
}

/* Those whose event is to be taken first, when there can be no other. */
static int late(struct restore *s, struct file *f, struct rtask *t, int fd)
{
	const EventpollFileEntry *e = f->entry->epfd;

	int r = 0;

	for (int spent = 1; spent >= 0; spent--)
		for (size_t i = 0; !r && i < e->n_tfd; i++)
			if (!e->tfd[i]->spent == !spent)
				r = plan_entry(s, t, f, e->tfd[i], fd);
	return r;
}

const struct kind kind_epoll = {
	.name = "an epoll descriptor",
	.summary = "epoll: what is watched, nested ones, such whose number was reused or which only another process has open; busy polling; edge-triggered entries tell once more",
	.type = FD_TYPES__EVENTPOLL,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = create,
	.late = late,
	.settle = settle,
	.release = release,
};
