/*
 * See inotify_queue.h.
 *
 * Dump: reading an event takes it away, and nothing puts it back, so the queue is looked at where the kernel keeps it (engine/kernel.h), and
 * what was found there must be as long as FIONREAD says.
 *
 * Restore: the kernel queues an event only when it happens. So it is made to happen, to a file in a small file system that nobody else sees,
 * watched under the number that the event has. The trouble is the end of such a watch, which is told as well (IN_IGNORED), behind what was
 * queued for it. But a full queue drops what comes, and says so once (IN_Q_OVERFLOW). So:
 *
 *	1. fill the queue with events of no use, until it overflows;
 *	2. read as many of them, from its front, as there are wanted ones, and one more;
 *	3. make the wanted ones happen: now it is full again, with the overflow already told in its middle;
 *	4. end all watches, which nobody is told of; read what is in front of the wanted events.
 *
 * Where an overflow is among the events, those before it are made before the queue overflows.
 *
 * Left out: the number by which the two halves of a move know each other (cookie) is another; halves that do not stand side by side lose each
 * other. Refused: IN_UNMOUNT of a watch that has told of something else before it, which was not read either.
 */
#include "engine/kinds/inotify_queue.h"

#include "engine/kernel.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#ifndef INOTIFY_IOC_SETNEXTWD
#define INOTIFY_IOC_SETNEXTWD _IOW('I', 0, int32_t)
#endif
#define EVENTS_MAX (1U << 20)
#define SINGLE sizeof(struct inotify_event) /* without a name */
#define HEAD_MAX 128 /* bytes of the kernel's struct before the name */
#define IDLE IN_DELETE_SELF		    /* what a scratch file is watched for in between: never happens */
#define FILLER INT_MAX			    /* the number of that watch */
#define LIMIT "/proc/sys/fs/inotify/max_queued_events"

/* ---- dump ---- */

/* Where the parts are that the kernel keeps an event in. */
struct layout {
	int group, list, link, wd, mask, cookie, size, name;
};

static int find_layout(const struct kernel *k, struct layout *l)
{
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->group, "file", "private_data" },	       { &l->list, "fsnotify_group", "notification_list" },
		{ &l->link, "fsnotify_event", "list" },	       { &l->wd, "inotify_event_info", "wd" },
		{ &l->mask, "inotify_event_info", "mask" },    { &l->cookie, "inotify_event_info", "sync_cookie" },
		{ &l->size, "inotify_event_info", "name_len" }, { &l->name, "inotify_event_info", "name" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0)
			return -ENOTSUP;
	const int last = MAX(MAX(l->link + 4, l->wd), MAX(l->mask, MAX(l->cookie, l->size)));
	return kernel_offset(k, "inotify_event_info", "fse") || l->name > HEAD_MAX || last + 4 > l->name ? -ENOTSUP : 0;
}

/* One event; *at becomes the next one's link. */
static int read_event(struct kernel *k, const struct layout *l, uint64_t *at, InotifyEventEntry *e, size_t *ret_size)
{
	char bytes[HEAD_MAX];
	const uint64_t event = *at - (uint64_t)l->link;
	int32_t size;
	int r = kernel_read(k, event, bytes, (size_t)l->name);

	if (r)
		return r;
	memcpy(at, bytes + l->link, sizeof(*at));
	memcpy(&e->wd, bytes + l->wd, sizeof(e->wd));
	memcpy(&e->mask, bytes + l->mask, sizeof(e->mask));
	memcpy(&e->cookie, bytes + l->cookie, sizeof(e->cookie));
	memcpy(&size, bytes + l->size, sizeof(size));
	if (size < 0 || size > NAME_MAX)
		return -EBADMSG;
	e->mask &= IN_ALL_EVENTS | IN_ISDIR | IN_UNMOUNT | IN_IGNORED | IN_Q_OVERFLOW; /* as read(2) gives it */
	e->has_cookie = e->cookie != 0;
	*ret_size = SINGLE;
	if (!size)
		return 0;
	*ret_size += ALIGN_UP((size_t)size + 1, SINGLE);
	e->name = calloc(1, (size_t)size + 1);
	return e->name ? kernel_read(k, event + (uint64_t)l->name, e->name, (size_t)size) : -ENOMEM;
}

static int read_queue(struct kernel *k, int fd, InotifyFileEntry *e, size_t bytes)
{
	struct layout l;
	uint64_t group, at;
	VEC(InotifyEventEntry *) list = {};
	size_t read = 0;
	int r = find_layout(k, &l);

	if (!r)
		r = kernel_file(k, fd, &group);
	if (!r)
		r = kernel_read(k, group + (uint64_t)l.group, &group, sizeof(group));
	const uint64_t head = r ? 0 : group + (uint64_t)l.list;
	if (!r)
		r = kernel_read(k, head, &at, sizeof(at));
	while (!r && at != head && read < bytes) {
		InotifyEventEntry *event = malloc(sizeof(*event)), **slot = event ? VEC_PUSH(&list) : NULL;
		size_t size;
		if (!slot) {
			free(event);
			r = -ENOMEM;
			break;
		}
		*slot = event;
		inotify_event_entry__init(event);
		r = read_event(k, &l, &at, event, &size);
		read += r ? 0 : size;
	}
	e->event = list.data;
	e->n_event = list.count;
	return r ? r : read == bytes ? 0 : -EBADMSG;
}

int inotify_queue_capture(struct dump *d, struct descriptor *f, InotifyFileEntry *e)
{
	struct kernel *k;
	int bytes = 0;

	if (ioctl(f->own_fd, FIONREAD, &bytes) < 0 || !bytes)
		return 0;
	int r = kernel_open(&k);
	if (!r) {
		r = read_queue(k, f->own_fd, e, (size_t)bytes);
		kernel_close(k);
	}
	if (r)
		return fd_errno(d, f, r == -ENOMEM ? r : -EAGAIN, "has events that were not read yet, and this kernel does not let them be looked at (it takes "
				"BTF, BPF and CAP_BPF); try again when the program has read them");
	if (!inotify_queue_can_be(e))
		return fd_error(d, f, -EAGAIN, "has events that were not read yet, among them one that can't be made again (of a file system that was unmounted, behind others of the same watch); "
				"try again when the program has read them");
	return 0;
}

void inotify_queue_free(InotifyFileEntry *e)
{
	for (size_t i = 0; i < e->n_event; i++) {
		if (e->event[i]->name && e->event[i]->name[0])
			free(e->event[i]->name);
		free(e->event[i]);
	}
	free(e->event);
}

/* ---- restore ---- */

/* A file or directory of the scratch file system, watched under the number of events; "w17" for 17. */
struct object {
	int wd;
	bool dir, gone, unmounted;
	int fs; /* of one whose end is that its file system is unmounted: that; -1 */
};

struct scratch {
	int fd;	  /* the inotify descriptor */
	int root; /* of the file system */
	VEC(struct object) objects;
	uint32_t names; /* that were given out */
};

static bool has_name(const InotifyEventEntry *e)
{
	return e->name && e->name[0];
}

static bool is_overflow(const InotifyEventEntry *e)
{
	return e->mask & IN_Q_OVERFLOW;
}

static bool event_can_be(const InotifyEventEntry *e)
{
	const uint32_t what = e->mask & ~(uint32_t)IN_ISDIR;
	const char *name = e->name ? e->name : "";

	if (is_overflow(e))
		return true;
	if (e->wd <= 0 || e->wd == FILLER || strchr(name, '/') || strlen(name) > NAME_MAX || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	if (what == IN_IGNORED || what == IN_DELETE_SELF || what == IN_MOVE_SELF || what == IN_UNMOUNT)
		return !*name;
	if (what & (IN_CREATE | IN_DELETE | IN_MOVE) && !*name)
		return false;
	return what && !(what & (what - 1)) && what & IN_ALL_EVENTS && !(what & (IN_MODIFY | IN_CLOSE_WRITE) && e->mask & IN_ISDIR);
}

/* It is told together with the end of its watch, and the file system that is unmounted for it is nobody else's. */
static bool unmount_can_be(const InotifyFileEntry *e, size_t at)
{
	for (size_t i = 0; i < e->n_event; i++)
		if (i != at && i != at + 1 && e->event[i]->wd == e->event[at]->wd && !is_overflow(e->event[i]))
			return false;
	return at + 1 < e->n_event && e->event[at + 1]->wd == e->event[at]->wd && e->event[at + 1]->mask & IN_IGNORED;
}

bool inotify_queue_can_be(const InotifyFileEntry *e)
{
	for (size_t i = 0; i < e->n_event; i++)
		if (!event_can_be(e->event[i]) || (e->event[i]->mask & IN_UNMOUNT && !unmount_can_be(e, i)))
			return false;
	return e->n_event <= EVENTS_MAX;
}

int inotify_set_next(int fd, int wd)
{
	return ioctl(fd, INOTIFY_IOC_SETNEXTWD, wd) < 0 ? -errno : 0;
}

static int watch(struct scratch *s, const char *name, uint32_t mask)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", s->root, name);
	int wd = inotify_add_watch(s->fd, path, mask);
	return wd < 0 ? -errno : wd;
}

/* A new file or directory, which is not open. */
static int make(const struct scratch *s, const char *name, bool dir)
{
	return (dir ? mkdirat(s->root, name, 0700) : mknodat(s->root, name, S_IFREG | 0600, 0)) < 0 ? -errno : 0;
}

static int drop(const struct scratch *s, const char *name, bool dir)
{
	return unlinkat(s->root, name, dir ? AT_REMOVEDIR : 0) < 0 ? -errno : 0;
}

static int scratch_make(int *ret)
{
	_cleanup_close_ int fs = fsopen("tmpfs", FSOPEN_CLOEXEC);

	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	*ret = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	return *ret < 0 ? -errno : 0;
}

/* Watched under its number for nothing that happens. */
static int object_make(struct scratch *s, struct object *o)
{
	char name[32];
	int wd, r;

	if (o->unmounted) {
		struct scratch own = { .fd = s->fd };
		r = scratch_make(&o->fs);
		own.root = o->fs;
		if (!r && !o->dir)
			r = make(&own, "file", false);
		if (!r)
			r = inotify_set_next(s->fd, o->wd);
		wd = r ? r : watch(&own, o->dir ? "." : "file", IDLE);
	} else {
		snprintf(name, sizeof(name), "w%d", o->wd);
		r = make(s, name, o->dir);
		if (!r)
			r = inotify_set_next(s->fd, o->wd);
		wd = r ? r : watch(s, name, IDLE);
	}
	return wd == o->wd ? 0 : wd < 0 ? wd : -ENOTSUP;
}

static struct object *object_of(struct scratch *s, int wd)
{
	VEC_FOREACH(&s->objects, o)
		if (o->wd == wd)
			return o;
	return NULL;
}

/* What each number stands for, before there are any events. */
static int objects_make(struct scratch *s, const InotifyFileEntry *e)
{
	int r = 0;

	for (size_t i = 0; i < e->n_event; i++) {
		const InotifyEventEntry *event = e->event[i];
		struct object *o = is_overflow(event) ? NULL : object_of(s, event->wd);
		if (is_overflow(event))
			continue;
		if (!o) {
			if (!(o = VEC_PUSH(&s->objects)))
				return -ENOMEM;
			*o = (struct object){ .wd = event->wd, .fs = -1 };
		}
		o->dir |= has_name(event) || event->mask & IN_ISDIR;
		o->unmounted |= (event->mask & IN_UNMOUNT) != 0;
	}
	VEC_FOREACH(&s->objects, o)
		r = r ? r : object_make(s, o);
	return r;
}

/* How an event is made to happen to a file: opened before, as `flags` say, it is looked at only while `act` runs. */
static int act_read(int fd)
{
	char bytes[4096];
	long n = pread(fd, bytes, 1, 0);

	if (n < 0 && errno == EISDIR)
		n = syscall(__NR_getdents64, fd, bytes, sizeof(bytes));
	return n < 0 ? -errno : 0;
}

static int act_write(int fd)
{
	return pwrite(fd, "x", 1, 0) < 0 ? -errno : 0;
}

static int act_change(int fd)
{
	return fchmod(fd, 0700) < 0 ? -errno : 0;
}

static int act_close(int fd)
{
	return close(fd) < 0 ? -errno : 0;
}

/* An event of a file that is there before and after. */
static int happen_open(struct scratch *s, const char *object, const char *path, uint32_t what)
{
	const bool writes = what & (IN_MODIFY | IN_CLOSE_WRITE), closes = what & IN_CLOSE;
	int (*const act)(int) = what == IN_ACCESS ? act_read : what == IN_MODIFY ? act_write : what == IN_ATTRIB ? act_change : act_close;
	int fd = -1, r = 0;

	/* What is read must have something to give. */
	if (what == IN_ACCESS && (fd = openat(s->root, path, O_WRONLY | O_CLOEXEC)) >= 0) {
		r = act_write(fd);
		close(fd);
		fd = -1;
	}
	if (what != IN_OPEN && (fd = openat(s->root, path, (writes ? O_WRONLY : O_RDONLY) | O_CLOEXEC)) < 0)
		return -errno;
	if (!r)
		r = watch(s, object, what);
	if (r >= 0)
		r = what != IN_OPEN ? act(fd) : (fd = openat(s->root, path, O_RDONLY | O_CLOEXEC)) < 0 ? -errno : 0;
	int idle = watch(s, object, IDLE);
	if (fd >= 0 && (!closes || r))
		close(fd);
	return r ? r : MIN(idle, 0);
}

/* A name comes, goes, or goes elsewhere. `to`: where a move leads, watched too where `to_object` is not NULL. */
static int happen_move(struct scratch *s, const char *object, const char *from, const char *to_object, const char *to, uint32_t what)
{
	const uint32_t both = to_object && !strcmp(object, to_object) ? IN_MOVE : what;
	int r = watch(s, object, both);

	if (r >= 0 && to_object && both != IN_MOVE)
		r = watch(s, to_object, IN_MOVED_TO);
	if (r >= 0)
		r = renameat(s->root, from, s->root, to) < 0 ? -errno : 0;
	int idle = watch(s, object, IDLE), other = to_object ? watch(s, to_object, IDLE) : 0;
	return r ? r : MIN(idle, MIN(other, 0));
}

static int happen_name(struct scratch *s, const char *object, const char *path, uint32_t what, bool dir)
{
	int r = what == IN_DELETE ? make(s, path, dir) : 0;

	if (!r)
		r = watch(s, object, what);
	if (r >= 0)
		r = what == IN_CREATE ? make(s, path, dir) : drop(s, path, dir);
	int idle = watch(s, object, IDLE);
	if (!r && what == IN_CREATE)
		r = drop(s, path, dir);
	return r ? r : MIN(idle, 0);
}

/* A move with both halves in the queue, side by side. */
static bool is_pair(const InotifyEventEntry *a, const InotifyEventEntry *b)
{
	return a->mask & IN_MOVED_FROM && b->mask & IN_MOVED_TO && a->cookie == b->cookie && !((a->mask ^ b->mask) & IN_ISDIR);
}

static int happen_moves(struct scratch *s, const char *object, const InotifyEventEntry *e, const InotifyEventEntry *pair)
{
	char path[NAME_MAX + 32], other[NAME_MAX + 32], other_object[32];
	const bool dir = e->mask & IN_ISDIR;
	const uint32_t what = e->mask & IN_MOVE;

	snprintf(path, sizeof(path), "%s/%s", object, e->name);
	snprintf(other, sizeof(other), "m%u", s->names++);
	if (pair) {
		snprintf(other_object, sizeof(other_object), "w%d", pair->wd);
		snprintf(other, sizeof(other), "%s/%s", other_object, pair->name);
	}
	const char *from = what == IN_MOVED_FROM ? path : other, *to = what == IN_MOVED_FROM ? other : path;
	int r = make(s, from, dir);
	if (!r)
		r = happen_move(s, object, from, pair ? other_object : NULL, to, what);
	return r ? r : drop(s, to, dir);
}

static int happen_self(struct scratch *s, struct object *o, const char *object, uint32_t what)
{
	char moved[32];

	if (what == IN_IGNORED) { /* a deletion has told of it already */
		bool told = o->gone;
		o->gone = true;
		return told || inotify_rm_watch(s->fd, o->wd) == 0 ? 0 : -errno;
	}
	if (what == IN_DELETE_SELF) {
		o->gone = true;
		return drop(s, object, o->dir);
	}
	snprintf(moved, sizeof(moved), "m%u", s->names++);
	int r = happen_move(s, object, object, NULL, moved, what);
	/* It is watched under its new name until it is back. */
	if (r != -ENOENT)
		return r;
	r = watch(s, moved, IDLE);
	return r < 0 || renameat(s->root, moved, s->root, object) == 0 ? MIN(r, 0) : -errno;
}

/* Gives how many events it has made: two of a move. */
static int happen(struct scratch *s, const InotifyFileEntry *all, size_t i, size_t end)
{
	const InotifyEventEntry *e = all->event[i];
	const InotifyEventEntry *next = i + 1 < end ? all->event[i + 1] : NULL;
	struct object *o = object_of(s, e->wd);
	char object[32], path[NAME_MAX + 32];
	const uint32_t what = e->mask & ~(uint32_t)IN_ISDIR;
	const bool dir = e->mask & IN_ISDIR;
	int r;

	if (o->gone && what != IN_IGNORED)
		return -ENOTSUP;
	if (what == IN_UNMOUNT) { /* and the end of the watch */
		o->gone = true;
		return !next ? -ENOTSUP : close(TAKE_FD(o->fs)) < 0 ? -errno : 2;
	}
	snprintf(object, sizeof(object), "w%d", o->wd);
	snprintf(path, sizeof(path), "%s%s%s", object, has_name(e) ? "/" : "", has_name(e) ? e->name : "");
	if (what & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF))
		return (r = happen_self(s, o, object, what)) ? r : 1;
	if (what & IN_MOVE) {
		bool pair = next && is_pair(e, next) && !object_of(s, next->wd)->gone;
		r = happen_moves(s, object, e, pair ? next : NULL);
		return r ? r : 1 + pair;
	}
	if (what & (IN_CREATE | IN_DELETE))
		return (r = happen_name(s, object, path, what, dir)) ? r : 1;
	if (has_name(e) && (r = make(s, path, dir)))
		return r;
	r = happen_open(s, object, path, what);
	if (!r && has_name(e))
		r = drop(s, path, dir);
	return r ? r : 1;
}

static int happen_all(struct scratch *s, const InotifyFileEntry *e, size_t from, size_t to)
{
	while (from < to) {
		int n = happen(s, e, from, to);
		if (n < 0)
			return n;
		from += (size_t)n;
	}
	return 0;
}

/* `n` events that no two neighbours of are the same, which would be one. */
static int fill(const struct scratch *s, int filler, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char byte;
		if ((i % 2 ? pread(filler, &byte, 1, 0) : pwrite(filler, "x", 1, 0)) != 1)
			return errno ? -errno : -EIO;
	}
	return 0;
}

/* Takes `n` events without names from the front. */
static int skip(int fd, size_t n)
{
	char events[256 * SINGLE];

	while (n) {
		ssize_t got = read(fd, events, MIN(n * SINGLE, sizeof(events)));
		if (got <= 0 || (size_t)got % SINGLE)
			return got < 0 ? -errno : -EIO;
		n -= (size_t)got / SINGLE;
	}
	return 0;
}

static size_t read_limit(void)
{
	_cleanup_free_ char *text = NULL;

	return read_file_at(AT_FDCWD, LIMIT, 64, &text, NULL) ? 0 : strtoul(text, NULL, 10);
}

/* Which events go before an overflow, and which behind; where there is not room for all, an overflow says so. */
struct share {
	size_t before, behind, behind_at;
	bool overflow;
};

static struct share share_out(const InotifyFileEntry *e, size_t limit)
{
	size_t at = 0;

	while (at < e->n_event && !is_overflow(e->event[at]))
		at++;
	bool overflow = at < e->n_event;
	struct share s = { overflow ? at : 0, overflow ? e->n_event - at - 1 : e->n_event, overflow ? at + 1 : 0, overflow };
	if (s.before + s.behind + 1 <= limit)
		return s;
	return (struct share){ MIN(e->n_event, limit - 1), 0, 0, true };
}

static int end_watches(struct scratch *s)
{
	VEC_FOREACH(&s->objects, o)
		if (!o->gone && inotify_rm_watch(s->fd, o->wd) < 0)
			return -errno;
	return inotify_rm_watch(s->fd, FILLER) < 0 ? -errno : 0;
}

static int queue(struct scratch *s, const InotifyFileEntry *e, size_t limit, int filler)
{
	const struct share share = share_out(e, limit);
	int r = fill(s, filler, limit - share.before);

	if (!r)
		r = happen_all(s, e, 0, share.before);
	/* Of the other sort than the one before it. */
	if (!r)
		r = pread(filler, &(char){ 0 }, 1, 0) == 1 && pwrite(filler, "x", 1, 0) == 1 ? 0 : -EIO;
	if (!r)
		r = skip(s->fd, share.behind + 1);
	if (!r)
		r = happen_all(s, e, share.behind_at, share.behind_at + share.behind);
	if (!r)
		r = end_watches(s);
	return r ? r : skip(s->fd, limit - share.before - share.behind - 1 + !share.overflow);
}

int inotify_queue_restore(int fd, const InotifyFileEntry *e)
{
	struct scratch s = { .fd = fd, .root = -1 };
	size_t limit = read_limit();
	_cleanup_close_ int filler = -1;

	if (limit < 2)
		return -ENOTSUP;
	int r = scratch_make(&s.root);
	if (!r && (filler = openat(s.root, "filler", O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
		r = -errno;
	if (!r)
		r = fill(&s, filler, 1); /* so that there is something to read */
	if (!r)
		r = objects_make(&s, e);
	if (!r)
		r = inotify_set_next(fd, FILLER);
	if (!r)
		r = watch(&s, "filler", IN_ACCESS | IN_MODIFY);
	if (r >= 0)
		r = r == FILLER ? queue(&s, e, limit, filler) : -ENOTSUP;
	VEC_FOREACH(&s.objects, o)
		if (o->fs >= 0)
			close(o->fs);
	VEC_FREE(&s.objects);
	if (s.root >= 0)
		close(s.root);
	return r;
}
