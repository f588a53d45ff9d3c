/*
 * fanotify(7): how the group was made, and its marks, from fdinfo: on files and directories, mounts and file systems. What is marked:
 * watched.c; a mount by where it is mounted. The marks are added last of all.
 *
 * Refused: events that were not read. They name the process, which can't be chosen when an event is made to happen again, and has often ended; and the
 * very file, by a descriptor that the kernel opens when they are read or by its handle, so that it would have to happen there (a file that is gone
 * can't be deleted once more), where other groups, inotify and the time of the file would tell of it too. A file system that nobody else sees, as for
 * inotify (inotify_queue.c), has other files.
 * Refused too: marks that ask for permission, which would hold up the machine while the tree stands still.
 *
 * Left out: whether a group was made without CAP_SYS_ADMIN, which is not told; it is made with it.
 */
#include "engine/kinds/anon.h"
#include "engine/kinds/watched.h"
#include "engine/path.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/fanotify.h>
#include <linux/stat.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef FAN_MARK_IGNORE
#define FAN_MARK_IGNORE 0x00000400
#endif
#ifndef FAN_MARK_EVICTABLE
#define FAN_MARK_EVICTABLE 0x00000200
#endif
#define PERMISSION (FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_OPEN_EXEC_PERM | 0x00100000 /* FAN_PRE_ACCESS */)
#define WHERE (FAN_ONDIR | FAN_EVENT_ON_CHILD) /* no events */

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "fanotify");
}

/* ---- dump ---- */

struct mark {
	FanotifyMarkEntry entry;
	FanotifyInodeMarkEntry inode;
	FanotifyMountMarkEntry mount;
	struct watched what;
};

/* Where a mount, or one of a file system, is. */
static int find_mount(struct dump *d, struct descriptor *f, bool by_id, uint32_t number, struct mark *m)
{
	_cleanup_free_ char *text = NULL;
	char *save = NULL, path[64];

	snprintf(path, sizeof(path), "/proc/%d/mountinfo", d->mounts ? f->task->proc : getpid());
	int r = read_file_at(AT_FDCWD, path, 64 << 20, &text, NULL);
	if (r)
		return error_errno(d->e, r, "cannot read %s", path);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned int id, maj, min;
		if (sscanf(line, "%u %*d %u:%u %*s %4095s", &id, &maj, &min, m->what.path) != 4 ||
		    (by_id ? id != number : ((maj << 20) | min) != number))
			continue;
		watched_unescape(m->what.path);
		fanotify_mount_mark_entry__init(&m->mount);
		m->mount.mnt_id = id;
		m->mount.path = m->what.path;
		m->entry.me = &m->mount;
		return 0;
	}
	return fd_error(d, f, -ENOENT, "marks a mount that is not to be found here");
}

/* One line: "fanotify ino:… sdev:… …", "fanotify mnt_id:… …" or "fanotify sdev:… …", then "mflags:… mask:… ignored_mask:… ". */
static int parse_mark(struct dump *d, struct descriptor *f, const char *line, struct mark *m)
{
	unsigned long long ino;
	unsigned int number;
	FanotifyMarkEntry *e = &m->entry;
	int used = 0, more = 0;

	fanotify_mark_entry__init(e);
	e->id = f->id;
	if (sscanf(line, "fanotify ino:%llx sdev:%x %n", &ino, &e->s_dev, &used) == 2 && used)
		e->type = MARK_TYPE__INODE;
	else if (sscanf(line, "fanotify mnt_id:%x %n", &number, &used) == 1 && used)
		e->type = MARK_TYPE__MOUNT;
	else if (sscanf(line, "fanotify sdev:%x %n", &e->s_dev, &used) == 1 && used)
		e->type = MARK_TYPE__FERMATA_FILESYSTEM;
	if (!used || sscanf(line + used, "mflags:%x mask:%x ignored_mask:%x%n", &e->mflags, &e->mask, &e->ignored_mask, &more) != 3 || !more)
		return fd_error(d, f, -ENOTSUP, "does not tell what it marks");
	if ((e->mask | e->ignored_mask) & PERMISSION)
		return fd_error(d, f, -ENOTSUP, "decides on what others may open (permission events), which would hold up the machine while it is saved; end it first");
	if (e->type != MARK_TYPE__INODE)
		return find_mount(d, f, e->type == MARK_TYPE__MOUNT, e->type == MARK_TYPE__MOUNT ? number : e->s_dev, m);
	fanotify_inode_mark_entry__init(&m->inode);
	m->inode.i_ino = ino;
	m->inode.f_handle = &m->what.handle;
	e->ie = &m->inode;
	line += used + more;
	int r = watched_capture(d, f, line + strspn(line, " "), e->s_dev, ino, &m->what);
	m->inode.has_file = m->what.file != 0;
	m->inode.file = m->what.file;
	return r;
}

static int capture_marks(struct dump *d, struct descriptor *f, FanotifyFileEntry *e)
{
	VEC(FanotifyMarkEntry *) list = {};
	int r = 0;

	for (const char *line = f->fdinfo; line && !r; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, "fanotify ", 9) || !strncmp(line, "fanotify flags:", 15))
			continue;
		struct mark *m = calloc(1, sizeof(*m));
		FanotifyMarkEntry **slot = m ? VEC_PUSH(&list) : NULL;
		if (!slot) {
			free(m);
			r = error_set(d->e, -ENOMEM, "out of memory");
			break;
		}
		*slot = &m->entry;
		r = parse_mark(d, f, line, m);
	}
	e->mark = list.data;
	e->n_mark = list.count;
	return r;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	FanotifyFileEntry e = FANOTIFY_FILE_ENTRY__INIT;
	const char *flags = f->fdinfo ? strstr(f->fdinfo, "fanotify flags:") : NULL;
	int waiting = 0;

	if (!flags || sscanf(flags, "fanotify flags:%x event-flags:%x", &e.faflags, &e.evflags) != 2)
		return fd_error(d, f, -ENOTSUP, "does not tell how it was made");
	if (ioctl(f->own_fd, FIONREAD, &waiting) == 0 && waiting)
		return fd_error(d, f, -EAGAIN, "has events that were not read yet, of files that the kernel opens only when they are; try again when the program has read them");
	e.id = f->id;
	e.flags = f->flags;
	e.fown = f->fown;
	int r = capture_marks(d, f, &e);
	entry.ffy = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__FANOTIFY);
	for (size_t i = 0; i < e.n_mark; i++)
		free(e.mark[i]); /* the first member of its mark */
	free(e.mark);
	return r;
}

/* ---- restore ---- */

/* What a mark is on; a mount only by its root, or another one would be marked. */
static int open_marked(struct restore *s, const FanotifyMarkEntry *e)
{
	struct statx st;

	if (e->type == MARK_TYPE__INODE && e->ie)
		return watched_open(s, e->ie->f_handle, e->ie->has_file ? e->ie->file : 0, e->s_dev, e->ie->i_ino);
	if ((e->type != MARK_TYPE__MOUNT && e->type != MARK_TYPE__FERMATA_FILESYSTEM) || !e->me || !e->me->path)
		return error_set(s->e, -EBADMSG, "a fanotify mark is on nothing");
	int fd = path_open(s->root_fd, e->me->path, O_PATH | O_NOFOLLOW);
	if (fd < 0)
		return path_error(s->e, fd, e->me->path);
	if (statx(fd, "", AT_EMPTY_PATH, 0, &st) == 0 && st.stx_attributes & STATX_ATTR_MOUNT_ROOT)
		return fd;
	close(fd);
	return error_set(s->e, -ESTALE, "nothing is mounted at %s any more, which is marked by fanotify; mount it again", e->me->path);
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const FanotifyFileEntry *e = f->entry->ffy;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	for (size_t i = 0; i < e->n_mark; i++) {
		_cleanup_close_ int marked = (e->mark[i]->mask | e->mark[i]->ignored_mask) & PERMISSION ? -EBADMSG : open_marked(s, e->mark[i]);
		if (marked < 0)
			return marked == -EBADMSG ? error_set(s->e, marked, "a fanotify mark is damaged") : marked;
	}
	int fd = (int)syscall(__NR_fanotify_init, e->faflags | FAN_CLOEXEC, e->evflags);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make a fanotify group");
	if (fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0) {
		close(fd);
		return error_errno(s->e, -errno, "cannot set the flags of a fanotify group");
	}
	*ret_fd = fd;
	return 0;
}

static int mark(int fd, unsigned int flags, uint64_t mask, const char *path)
{
	return mask & ~(uint64_t)WHERE && syscall(__NR_fanotify_mark, fd, FAN_MARK_ADD | flags, mask, AT_FDCWD, path) < 0 ? -errno : 0;
}

static int add_mark(struct restore *s, int fd, const FanotifyMarkEntry *e)
{
	_cleanup_close_ int marked = open_marked(s, e);
	unsigned int on = e->type == MARK_TYPE__MOUNT ? FAN_MARK_MOUNT : e->type == MARK_TYPE__INODE ? 0 : FAN_MARK_FILESYSTEM;
	char path[64];

	if (marked < 0)
		return marked;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", marked);
	int r = mark(fd, on | (e->mflags & FAN_MARK_EVICTABLE), e->mask, path);
	on |= e->mflags & (FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE);
	if (!r && e->mflags & FAN_MARK_IGNORE)
		r = mark(fd, on | FAN_MARK_IGNORE, e->ignored_mask, path);
	else if (!r)
		r = mark(fd, on | FAN_MARK_IGNORED_MASK, e->ignored_mask & ~(uint64_t)WHERE, path);
	return r ? error_errno(s->e, r, "cannot set a fanotify mark again") : 0;
}

static int settle(struct restore *s, struct file *f)
{
	const FanotifyFileEntry *e = f->entry->ffy;
	int r = 0;

	for (size_t i = 0; !r && i < e->n_mark; i++)
		r = add_mark(s, f->fd, e->mark[i]);
	return r;
}

const struct kind kind_fanotify = {
	.name = "a fanotify group",
	.summary = "fanotify: groups and their marks on files, mounts and file systems",
	.type = FD_TYPES__FANOTIFY,
	.recognise = recognise,
	.capture = capture,
	.create = create,
	.settle = settle,
};
