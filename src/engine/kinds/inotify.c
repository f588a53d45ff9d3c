/*
 * inotify(7): its watches, from fdinfo. What is watched is found by the file handle that fdinfo gives, with
 * open_by_handle_at(2), and saved by its path. Watch numbers are the same again: the kernel counts them up.
 *
 * Events that were not read yet can neither be read without taking them away nor be queued again: refused, with the advice
 * to try again.
 */
#include "engine/kinds/anon.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#define HANDLE_MAX 128
#define WATCH_MAX 1000000
#define SETTABLE (IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONESHOT)

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "inotify") || !strcmp(f->target, "anon_inode:inotify");
}

/* A directory on the file system with that device number: where it is mounted. */
static int open_mount(uint32_t dev)
{
	_cleanup_free_ char *text = NULL;
	char *line, *save = NULL;

	if (read_file_at(AT_FDCWD, "/proc/self/mountinfo", 16 << 20, &text, NULL))
		return -1;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned int maj, min;
		char point[4096];
		if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &maj, &min, point) != 3 || ((maj << 20) | min) != dev)
			continue;
		int fd = open(point, O_RDONLY | O_CLOEXEC);
		if (fd >= 0)
			return fd;
	}
	return -1;
}

static int find_path(uint32_t dev, struct file_handle *handle, char *path, size_t size)
{
	char link[64];
	_cleanup_close_ int mount = open_mount(dev);
	_cleanup_close_ int fd = mount < 0 ? -1 : open_by_handle_at(mount, handle, O_PATH | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, size - 1);
	if (n < 0)
		return -errno;
	path[n] = '\0';
	return 0;
}

struct watch {
	InotifyWdEntry entry;
	FhEntry handle;
	uint64_t words[HANDLE_MAX / 8];
	char path[4096];
};

/* One line: "inotify wd:1 ino:… sdev:… mask:… ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:…" */
static int parse_watch(struct dump *d, struct descriptor *f, const char *line, struct watch *w)
{
	unsigned int wd, dev, mask, ignored, bytes, type;
	unsigned long long ino;
	int used = 0;
	struct {
		struct file_handle head;
		unsigned char bytes[HANDLE_MAX];
	} handle;

	inotify_wd_entry__init(&w->entry);
	fh_entry__init(&w->handle);
	if (sscanf(line, "inotify wd:%x ino:%llx sdev:%x mask:%x ignored_mask:%x fhandle-bytes:%x fhandle-type:%x f_handle:%n", &wd, &ino,
		   &dev, &mask, &ignored, &bytes, &type, &used) != 7 || !used || bytes > HANDLE_MAX)
		return fd_error(d, f, -ENOTSUP, "does not tell what it watches (CONFIG_FHANDLE)");
	handle.head.handle_bytes = bytes;
	handle.head.handle_type = (int)type;
	for (unsigned int i = 0; i < bytes; i++) {
		unsigned int byte;
		if (sscanf(line + used + 2 * i, "%2x", &byte) != 1)
			return fd_error(d, f, -EBADMSG, "has a file handle that can't be read");
		handle.bytes[i] = ((unsigned char *)w->words)[i] = (unsigned char)byte;
	}
	int r = find_path(dev, &handle.head, w->path, sizeof(w->path));
	if (r || w->path[0] != '/' || strstr(w->path, " (deleted)"))
		return fd_errno(d, f, r ? r : -ENOENT, "watches a file (inode %llu) that can't be found", ino);
	w->handle.bytes = bytes;
	w->handle.type = type;
	w->handle.handle = w->words;
	w->handle.n_handle = (bytes + 7) / 8;
	w->handle.path = w->path;
	w->entry.id = f->id;
	w->entry.wd = wd;
	w->entry.i_ino = ino;
	w->entry.s_dev = dev;
	w->entry.mask = mask;
	w->entry.ignored_mask = ignored;
	w->entry.f_handle = &w->handle;
	return 0;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	InotifyFileEntry e = INOTIFY_FILE_ENTRY__INIT;
	VEC(struct watch *) watches = {};
	VEC(InotifyWdEntry *) list = {};
	int waiting = 0, r = 0;

	if (ioctl(f->own_fd, FIONREAD, &waiting) == 0 && waiting)
		return fd_error(d, f, -EAGAIN, "has events that were not read yet; try again when the program has read them");
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
	return r;
}

static int by_number(const void *a, const void *b)
{
	const InotifyWdEntry *x = *(InotifyWdEntry *const *)a, *y = *(InotifyWdEntry *const *)b;

	return x->wd < y->wd ? -1 : x->wd > y->wd;
}

static int add_watch(struct restore *s, int fd, const InotifyWdEntry *e, int *next)
{
	const char *path = e->f_handle ? e->f_handle->path : NULL;

	if (!path || e->wd > WATCH_MAX || (int)e->wd < *next)
		return error_set(s->e, -EBADMSG, "an inotify watch has no path, or a number that can't be");
	for (;;) {
		int wd = inotify_add_watch(fd, path, e->mask & SETTABLE);
		if (wd < 0)
			return error_errno(s->e, -errno, "cannot watch %s", path);
		*next = wd + 1;
		if (wd == (int)e->wd)
			return 0;
		if (wd > (int)e->wd || inotify_rm_watch(fd, wd) < 0)
			return error_set(s->e, -ENOTSUP, "cannot give the watch of %s its number %u (two that watch one file?)", path, e->wd);
	}
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const InotifyFileEntry *e = f->entry->ify;
	char drop[4096];
	int next = 1, r = 0;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make an inotify descriptor");
	qsort(e->wd, e->n_wd, sizeof(*e->wd), by_number);
	for (size_t i = 0; !r && i < e->n_wd; i++)
		r = add_watch(s, fd, e->wd[i], &next);
	/* What the numbers in between have left. */
	while (!r && read(fd, drop, sizeof(drop)) > 0)
		;
	if (!r && fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0)
		r = error_errno(s->e, -errno, "cannot set the flags of an inotify descriptor");
	if (r) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

const struct kind kind_inotify = {
	.name = "an inotify descriptor",
	.summary = "inotify: watches with their numbers",
	.type = FD_TYPES__INOTIFY,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
