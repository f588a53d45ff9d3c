/*
 * inotify(7): its watches, from fdinfo; what is watched: watched.c. Watch numbers are the same again. Events that wait: inotify_queue.c.
 *
 * The watches are added last of all, so that nothing is told of what restore itself does.
 */
#include "engine/kinds/anon.h"
#include "engine/kinds/inotify_queue.h"
#include "engine/kinds/watched.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#define COUNT_MAX 1000000 /* numbers are counted up so far where they can't be set */
#define SETTABLE (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "inotify") || !strcmp(f->target, "anon_inode:inotify");
}

struct watch {
	InotifyWdEntry entry;
	struct watched what;
};

/* One line: "inotify wd:1 ino:… sdev:… mask:… ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:…" */
static int parse_watch(struct dump *d, struct descriptor *f, const char *line, struct watch *w)
{
	unsigned int wd, dev, mask, ignored;
	unsigned long long ino;
	int used = 0;

	inotify_wd_entry__init(&w->entry);
	if (sscanf(line, "inotify wd:%x ino:%llx sdev:%x mask:%x ignored_mask:%x %n", &wd, &ino, &dev, &mask, &ignored, &used) != 5 || !used)
		return fd_error(d, f, -ENOTSUP, "does not tell what it watches (CONFIG_FHANDLE)");
	w->entry.id = f->id;
	w->entry.wd = wd;
	w->entry.i_ino = ino;
	w->entry.s_dev = dev;
	w->entry.mask = mask;
	w->entry.ignored_mask = ignored;
	w->entry.f_handle = &w->what.handle;
	int r = watched_capture(d, f, line + used, dev, ino, &w->what);
	w->entry.has_file = w->what.file != 0;
	w->entry.file = w->what.file;
	return r;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	InotifyFileEntry e = INOTIFY_FILE_ENTRY__INIT;
	VEC(struct watch *) watches = {};
	VEC(InotifyWdEntry *) list = {};
	int r = inotify_queue_capture(d, f, &e);

	for (const char *line = f->fdinfo; line && !r; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, "inotify wd:", 11))
			continue;
		struct watch *w = calloc(1, sizeof(*w)), **slot = w ? VEC_PUSH(&watches) : NULL;
		InotifyWdEntry **item = slot ? VEC_PUSH(&list) : NULL;
		if (!item) {
			free(w);
			r = error_set(d->e, -ENOMEM, "out of memory");
			break;
		}
		*slot = w;
		*item = &w->entry;
		r = parse_watch(d, f, line, w);
	}
	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	e.wd = list.data;
	e.n_wd = list.count;
	entry.ify = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__INOTIFY);
	for (size_t i = 0; i < watches.count; i++)
		free(watches.data[i]);
	VEC_FREE(&watches);
	VEC_FREE(&list);
	inotify_queue_free(&e);
	return r;
}

static int by_number(const void *a, const void *b)
{
	const InotifyWdEntry *x = *(InotifyWdEntry *const *)a, *y = *(InotifyWdEntry *const *)b;

	return x->wd < y->wd ? -1 : x->wd > y->wd;
}

static int open_watched(struct restore *s, const InotifyWdEntry *e)
{
	return watched_open(s, e->f_handle, e->has_file ? e->file : 0, e->s_dev, e->i_ino);
}

/* Under its number: that is asked for, or counted up to where the kernel can't be. */
static int add_watch(struct restore *s, int fd, const InotifyWdEntry *e, int *next)
{
	_cleanup_close_ int file = open_watched(s, e);
	char path[64];

	if (file < 0)
		return file;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	if (inotify_set_next(fd, (int)e->wd) == 0)
		*next = (int)e->wd;
	else if (e->wd > COUNT_MAX)
		return error_set(s->e, -ENOTSUP, "an inotify watch has the number %u, which this kernel can't give (CONFIG_CHECKPOINT_RESTORE)", e->wd);
	for (;;) {
		int wd = inotify_add_watch(fd, path, e->mask & SETTABLE);
		if (wd < 0)
			return error_errno(s->e, -errno, "cannot watch the file of inotify watch %u", e->wd);
		*next = wd + 1;
		if (wd == (int)e->wd)
			return 0;
		if (wd > (int)e->wd || inotify_rm_watch(fd, wd) < 0)
			return error_set(s->e, -ENOTSUP, "cannot give an inotify watch its number %u (two that watch one file?)", e->wd);
	}
}

static int check(struct restore *s, const InotifyFileEntry *e)
{
	for (size_t i = 0; i < e->n_wd; i++)
		if (!e->wd[i]->wd || e->wd[i]->wd >= INT32_MAX || (i && e->wd[i]->wd == e->wd[i - 1]->wd))
			return error_set(s->e, -EBADMSG, "an inotify watch has a number that can't be");
	return inotify_queue_can_be(e) ? 0 : error_set(s->e, -EBADMSG, "an inotify descriptor has events that can't be");
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	InotifyFileEntry *e = f->entry->ify;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	if (e->n_wd)
		qsort(e->wd, e->n_wd, sizeof(*e->wd), by_number);
	int r = check(s, e);
	for (size_t i = 0; !r && i < e->n_wd; i++) { /* whether it is there, before anything runs */
		_cleanup_close_ int file = open_watched(s, e->wd[i]);
		r = MIN(file, 0);
	}
	if (r)
		return r;
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make an inotify descriptor");
	*ret_fd = fd;
	return 0;
}

/* The numbers that were given out go on behind all that the program may know. */
static void set_next(int fd, const InotifyFileEntry *e)
{
	int next = 0;

	for (size_t i = 0; i < e->n_wd; i++)
		next = MAX(next, (int)e->wd[i]->wd);
	for (size_t i = 0; i < e->n_event; i++)
		next = MAX(next, e->event[i]->wd);
	if (next < INT32_MAX)
		inotify_set_next(fd, next + 1);
}

static int settle(struct restore *s, struct file *f)
{
	const InotifyFileEntry *e = f->entry->ify;
	char drop[4096];
	int next = 1, r = 0;

	/* Events that were not read: after the counting up of numbers they could not be told from what that leaves. */
	if (e->n_event && (r = inotify_queue_restore(f->fd, e)))
		return error_errno(s->e, r, "cannot queue the events again that an inotify descriptor had");
	for (size_t i = 0; !r && i < e->n_wd; i++)
		r = add_watch(s, f->fd, e->wd[i], &next);
	/* What the numbers in between have left. */
	while (!r && !e->n_event && read(f->fd, drop, sizeof(drop)) > 0)
		;
	set_next(f->fd, e);
	if (!r && fcntl(f->fd, F_SETFL, (int)e->flags & (O_NONBLOCK | O_ASYNC)) < 0)
		r = error_errno(s->e, -errno, "cannot set the flags of an inotify descriptor");
	return r;
}

const struct kind kind_inotify = {
	.name = "an inotify descriptor",
	.summary = "inotify: watches with their numbers, of deleted files too, and events that were not read (BTF and BPF, Linux 5.14)",
	.type = FD_TYPES__INOTIFY,
	.recognise = recognise,
	.capture = capture,
	.create = create,
	.settle = settle,
};
