/*
 * Descriptor tables and what they have in common: open file descriptions are found with kcmp(2) and captured once each.
 *
 * A duplicate of the description is taken with pidfd_getfd(2) (Linux 5.6) and closed again once it is described.
 */
#include "engine/constants.h"
#include "engine/cuda/cuda.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/regfile.h"
#include "engine/kinds/sock.h"
#include "engine/task/task.h"
#include "fs.pb-c.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* A description that was captured: where it was seen first. */
struct description {
	pid_t pid;
	int fd;
	int own; /* a duplicate that stays open, of one that no task has in its table; or -1 */
	uint32_t id, type;
	bool unlocked; /* it has no lock, and no process has a POSIX lock on the file */
	dev_t dev;
	ino_t ino;
	struct description *next; /* in its bucket */
};

/* A file that was captured by name: mappings, cwd, root, exe. */
struct by_name {
	char *name;
	uint64_t inode;
	uint32_t flags, id;
	struct by_name *next;
};

#define BUCKETS 4096
struct file_table {
	struct description *bucket[BUCKETS];
	struct by_name *names[BUCKETS];
};

static struct file_table *table_of(struct dump *d)
{
	if (!d->descriptions)
		d->descriptions = calloc(1, sizeof(*d->descriptions));
	return d->descriptions;
}

static size_t bucket_of(uint64_t a, uint64_t b)
{
	return (size_t)((a * 0x9e3779b97f4a7c15ULL ^ b * 0xc2b2ae3d27d4eb4fULL) >> 40) % BUCKETS;
}

static struct description *find_description(struct file_table *table, pid_t pid, int fd, dev_t dev, ino_t ino)
{
	for (struct description *x = table->bucket[bucket_of(dev, ino)]; x; x = x->next)
		if (x->dev == dev && x->ino == ino &&
		    syscall(__NR_kcmp, x->pid, pid, KCMP_FILE, x->fd, fd) == 0)
			return x;
	return NULL;
}

uint32_t files_find(struct dump *d, struct task *t, int fd)
{
	char path[64];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", t->proc, fd);
	if (stat(path, &st) < 0 || !table_of(d))
		return 0;
	struct description *x = find_description(table_of(d), t->proc, fd, st.st_dev, st.st_ino);
	return x ? x->id : 0;
}

int file_entry_write(struct dump *d, FileEntry *entry, const struct descriptor *f, uint32_t type)
{
	entry->id = f->id;
	entry->type = (FdTypes)type;
	int r = image_write_message(d->files, &entry->base);
	return r ? error_errno(d->e, r, "cannot write files.img") : 0;
}

struct fd_label fd_label(const struct descriptor *f)
{
	struct fd_label label;

	if (f->fd >= 0)
		snprintf(label.text, sizeof(label.text), "descriptor %d (%s)", f->fd, f->target);
	else
		snprintf(label.text, sizeof(label.text), "its mapped file or directory %s", f->target);
	return label;
}

static void take_owner(struct descriptor *f, FownEntry *fown)
{
	struct f_owner_ex owner = {};

	if (f->flags & O_PATH || f->own_fd < 0)
		return;
	int sig = fcntl(f->own_fd, F_GETSIG);
	fown->signum = sig > 0 ? (uint32_t)sig : 0;
	if (fcntl(f->own_fd, F_GETOWN_EX, &owner) < 0 || !owner.pid)
		return;
	fown->pid = (uint32_t)owner.pid;
	fown->pid_type = owner.type == F_OWNER_TID ? 0 : owner.type == F_OWNER_PID ? 1 : 2;
	uint32_t uids[2] = {};
#ifdef F_GETOWNER_UIDS
	fcntl(f->own_fd, F_GETOWNER_UIDS, uids);
#endif
	fown->uid = uids[0];
	fown->euid = uids[1];
}

/* Lets the first kind that knows it capture it; gives the type it was captured as. */
static int capture(struct dump *d, struct descriptor *f, uint32_t *ret_type)
{
	FownEntry fown = FOWN_ENTRY__INIT;

	fown.pid_type = 1;
	take_owner(f, &fown);
	f->fown = &fown;
	if (regfile_is_external(d, f)) {
		*ret_type = FD_TYPES__REG;
		return regfile_capture_external(d, f);
	}
	for (size_t i = 0; i < kinds_count; i++) {
		if (!kinds[i]->recognise(f))
			continue;
		*ret_type = kinds[i]->type;
		return kinds[i]->capture(d, f);
	}
	if (S_ISCHR(f->st.st_mode) && cuda_releases(d, f->task->pid)) {
		*ret_type = FD_TYPES__EXT;
		return 0;
	}
	return fd_error(d, f, -ENOTSUP, "is %s, which has no way to be saved yet; close it first", unknown_kind_name(f));
}

static int read_link(struct task *t, const char *link, struct descriptor *f)
{
	char path[96];

	snprintf(path, sizeof(path), "/proc/%d/%s", t->proc, link);
	ssize_t n = readlink(path, f->target, sizeof(f->target) - 1);
	if (n < 0)
		return -errno;
	f->target[n] = '\0';
	return 0;
}

/* What the file at own_fd is, as /proc/`owner`/fd/N has it. */
static int describe(struct dump *d, struct descriptor *f, pid_t owner, int number, struct proc_fdinfo *info)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", owner, number);
	int r = f->fdinfo ? 0 : read_small_at(AT_FDCWD, path, 16 << 20, &f->fdinfo, NULL);
	if (!r)
		r = proc_parse_fdinfo(f->fdinfo, info);
	if (!r && fstat(f->own_fd, &f->st) < 0)
		r = -errno;
	if (r)
		return task_errno(d, f->task, r, "cannot examine descriptor %d", f->fd);
	f->flags = info->flags & ~(uint32_t)O_CLOEXEC;
	f->pos = (uint64_t)info->pos;
	return 0;
}

/* Asked for the description, so that the POSIX locks of every process are in the way. */
static bool is_unlocked(int own_fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	return fcntl(own_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

/* A description that is seen for the first time. It is in the table before its kind looks at it: a socket may carry itself. */
static int capture_new(struct dump *d, struct descriptor *f, pid_t pid, int fd, struct description **ret)
{
	char link[64];
	struct description *x;

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", pid, fd);
	ssize_t n = readlink(link, f->target, sizeof(f->target) - 1);
	if (n < 0)
		return task_errno(d, f->task, -errno, "cannot read descriptor %d", f->fd);
	f->target[n] = '\0';
	x = calloc(1, sizeof(*x));
	if (!x)
		return error_set(d->e, -ENOMEM, "out of memory");
	*x = (struct description){ .pid = pid, .fd = fd, .own = -1, .dev = f->st.st_dev, .ino = f->st.st_ino };
	struct description **bucket = &d->descriptions->bucket[bucket_of(x->dev, x->ino)];
	x->next = *bucket;
	*bucket = x;
	x->id = f->id = ++d->next_file_id;
	*ret = x;
	return capture(d, f, &x->type);
}

/*
 * A slave that TIOCGPTPEER opened with O_CLOEXEC shows that flag for all its descriptors, whatever they have. A standard
 * stream is meant to be passed on.
 */
static bool closes_on_exec(int own_fd, int number, uint32_t flags)
{
	bool of_file = fcntl(own_fd, F_GETFL) & O_CLOEXEC;

	return flags & O_CLOEXEC && !(of_file && number <= STDERR_FILENO);
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Most that a process has it has from its parent: what is not there already is one flag. */
static struct description *find_inherited(const struct task *t, size_t index)
{
	const struct task *p = t->parent;
	int fd = t->view.fds.data[index];

	if (!t->view.fd_flags || !t->view.inherited || !t->view.inherited[index] || t->view.fd_flags[index] < 0 || !p->descriptions)
		return NULL;
	const int *at = bsearch(&fd, p->view.fds.data, p->view.fds.count, sizeof(fd), by_number);
	struct description *x = at ? p->descriptions[at - p->view.fds.data] : NULL;
	return x && x->unlocked ? x : NULL;
}

static int write_fd(struct dump *d, struct image_file *table, const struct description *x, int fd, bool closes)
{
	FdinfoEntry entry = FDINFO_ENTRY__INIT;

	entry.id = x->id;
	entry.fd = (uint32_t)fd;
	entry.flags = closes ? FD_CLOEXEC : 0;
	entry.type = (FdTypes)x->type;
	int r = image_write_message(table, &entry.base);
	return r ? error_errno(d->e, r, "cannot write the descriptor table") : 0;
}

static int capture_fd(struct dump *d, struct task *t, size_t index, struct image_file *table)
{
	struct proc_fdinfo info;
	const int fd = t->view.fds.data[index];
	struct descriptor f = { .task = t, .fd = fd };
	struct description *x = find_inherited(t, index);

	if (x) {
		t->descriptions[index] = x;
		return write_fd(d, table, x, fd, t->view.fd_flags[index] & FD_CLOEXEC);
	}
	f.fdinfo = t->view.fdinfos ? TAKE_PTR(t->view.fdinfos[index]) : NULL;
	_cleanup_close_ int own = f.own_fd = (int)syscall(__NR_pidfd_getfd, t->pidfd, fd, 0);
	int r = own < 0 ? task_errno(d, t, -errno, "cannot duplicate descriptor %d", fd) : describe(d, &f, t->proc, fd, &info);
	if (!r && !(x = find_description(d->descriptions, t->proc, fd, f.st.st_dev, f.st.st_ino))) {
		r = capture_new(d, &f, t->proc, fd, &x);
		if (!r)
			x->unlocked = !info.locked && d->tasks.count > 1 && is_unlocked(own);
	}
	if (!r && info.locked) {
		f.id = x->id;
		r = locks_capture(d, &f);
	}
	free(f.fdinfo);
	if (r)
		return r;
	t->descriptions[index] = x;
	return write_fd(d, table, x, fd, closes_on_exec(own, fd, info.flags));
}

int files_capture_flying(struct dump *d, struct task *t, int own_fd, uint32_t *ret_id)
{
	struct proc_fdinfo info;
	struct descriptor f = { .task = t, .fd = -1, .own_fd = own_fd };
	struct description *x;
	int r = describe(d, &f, getpid(), own_fd, &info);

	if (!r && !(x = find_description(d->descriptions, getpid(), own_fd, f.st.st_dev, f.st.st_ino))) {
		r = capture_new(d, &f, getpid(), own_fd, &x);
		if (!r)
			r = (x->own = fcntl(own_fd, F_DUPFD_CLOEXEC, 0)) < 0 ? error_errno(d->e, -errno, "cannot hold a descriptor") : 0;
		if (!r)
			x->fd = x->own;
	}
	if (!r && info.locked) {
		f.id = x->id;
		r = locks_capture(d, &f);
	}
	free(f.fdinfo);
	if (!r)
		*ret_id = x->id;
	return r;
}

static int capture_named(struct dump *d, struct task *t, const char *link, int own_fd, const struct proc_vma *vma, const char *name,
			 uint64_t inode, uint32_t flags, uint32_t *ret_id)
{
	struct by_name **bucket = &table_of(d)->names[bucket_of(inode, flags)];
	uint32_t type;

	for (struct by_name *n = *bucket; n; n = n->next)
		if (n->inode == inode && n->flags == flags && !strcmp(n->name, name)) {
			*ret_id = n->id;
			return 0;
		}
	struct descriptor f = { .task = t, .fd = -1, .own_fd = own_fd, .flags = flags, .vma = vma };
	_cleanup_close_ int opened = -1;
	char path[128];
	snprintf(path, sizeof(path), "/proc/%d/%s", t->proc, link);
	int r = read_link(t, link, &f);
	if (!r && own_fd < 0) {
		f.own_fd = opened = open(path, O_PATH | O_CLOEXEC);
		r = opened < 0 ? -errno : 0;
	}
	if (!r && fstat(f.own_fd, &f.st) < 0)
		r = -errno;
	if (r)
		return task_errno(d, t, r, "cannot examine its %s", link);
	f.id = ++d->next_file_id;
	r = capture(d, &f, &type);
	if (r)
		return r;
	struct by_name *n = calloc(1, sizeof(*n));
	if (!n || !(n->name = strdup(name))) {
		free(n);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	n->inode = inode;
	n->flags = flags;
	n->id = *ret_id = f.id;
	n->next = *bucket;
	*bucket = n;
	return 0;
}

/* One of a thread's own, which nobody has read ahead. */
static int capture_thread_link(struct dump *d, struct task *t, const char *link, uint32_t flags, uint32_t *ret_id)
{
	struct descriptor f;
	struct stat st;
	char path[96];

	snprintf(path, sizeof(path), "/proc/%d/%s", t->proc, link);
	int r = read_link(t, link, &f);
	if (!r && stat(path, &st) < 0)
		r = -errno;
	return r ? task_errno(d, t, r, "cannot read its %s", link) : capture_named(d, t, link, -1, NULL, f.target, st.st_ino, flags, ret_id);
}

int files_capture_link(struct dump *d, struct task *t, const char *link, uint32_t flags, uint32_t *ret_id)
{
	const struct task_link *l = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(task_links); i++) {
		const struct task *has = t;
		if (strcmp(task_links[i], link))
			continue;
		while (has->view.links[i].is_parents)
			has = has->parent;
		l = &has->view.links[i];
	}
	if (!table_of(d))
		return error_set(d->e, -ENOMEM, "out of memory");
	if (!l)
		return capture_thread_link(d, t, link, flags, ret_id);
	if (!l->target)
		return task_error(d, t, -ENOENT, "cannot read its %s", link);
	return capture_named(d, t, link, -1, NULL, l->target, l->ino, flags, ret_id);
}

int files_capture_mapping(struct dump *d, struct task *t, const struct proc_vma *vma, uint32_t *ret_id)
{
	uint32_t flags = vma->shared && vma->prot & PROT_WRITE ? O_RDWR : O_RDONLY;
	char link[64], path[96];

	if (!table_of(d))
		return error_set(d->e, -ENOMEM, "out of memory");
	snprintf(link, sizeof(link), "map_files/%lx-%lx", (unsigned long)vma->start, (unsigned long)vma->end);
	_cleanup_close_ int own = -1;
	if (vma->deleted) {
		snprintf(path, sizeof(path), "/proc/%d/%s", t->proc, link);
		own = open(path, (int)flags | O_CLOEXEC);
		if (own < 0)
			own = open(path, O_RDONLY | O_CLOEXEC);
		if (own < 0)
			return task_errno(d, t, -errno, "cannot open what is mapped at %lx", (unsigned long)vma->start);
	}
	/* The device takes part through the name; inode numbers are few enough to tell files of one name apart. */
	return capture_named(d, t, link, own, vma, vma->name, vma->inode, flags, ret_id);
}

/* The directories of the process, `th` NULL, or those that a thread has of its own. */
static int capture_fs_of(struct dump *d, struct task *t, const struct thread *th)
{
	FsEntry fs = FS_ENTRY__INIT;
	char name[32], cwd[32] = "cwd", root[32] = "root";

	if (th) {
		snprintf(cwd, sizeof(cwd), "task/%d/cwd", th->tid);
		snprintf(root, sizeof(root), "task/%d/root", th->tid);
	}
	int r = dump_part(d, files_capture_link(d, t, cwd, O_DIRECTORY, &fs.cwd_id));
	if (!r)
		r = dump_part(d, files_capture_link(d, t, root, O_DIRECTORY, &fs.root_id));
	fs.has_umask = 1;
	fs.umask = (uint32_t)thread_status(th ? th : t->threads.data[0])->umask;
	snprintf(name, sizeof(name), "fs-%d.img", th ? th->tid : t->pid);
	return r ? r : dump_write_one(d, name, IMAGE_MAGIC_FS, &fs.base);
}

static int capture_fs(struct dump *d, struct task *t)
{
	int r = capture_fs_of(d, t, NULL);

	for (size_t i = 0; !r && i < t->threads.count; i++)
		if (t->threads.data[i]->own_fs)
			r = capture_fs_of(d, t, t->threads.data[i]);
	return r;
}

static int capture_table(struct dump *d, struct task *t, const char *name)
{
	struct image_file *table;

	if (t->view.fds_result)
		return task_errno(d, t, t->view.fds_result, "cannot list its descriptors");
	t->descriptions = calloc(t->view.fds.count + 1, sizeof(*t->descriptions));
	if (!t->descriptions)
		return error_set(d->e, -ENOMEM, "out of memory");
	int r = image_create(d->dir, name, IMAGE_MAGIC_FDINFO, &table);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	for (size_t i = 0; !r && i < t->view.fds.count; i++)
		r = dump_part(d, capture_fd(d, t, i, table));
	int closed = image_close(table);
	if (!r && closed)
		r = error_errno(d->e, closed, "cannot write %s", name);
	return r;
}

int files_thread_table(struct dump *d, struct task *t, struct thread *th)
{
	struct task *x = th->table = calloc(1, sizeof(*x));

	if (!x)
		return error_set(d->e, -ENOMEM, "out of memory");
	*x = *t;
	x->view = (struct task_view){};
	x->proc = x->table_of = th->tid;
	x->pidfd = (int)syscall(__NR_pidfd_open, th->tid, PIDFD_THREAD);
	if (x->pidfd < 0)
		return task_error(d, t, -ENOTSUP, "its thread %d has a descriptor table of its own (unshare), which can't be saved before Linux 6.9", th->tid);
	x->view.fds_result = proc_list_fds(th->tid, &x->view.fds);
	return 0;
}

struct task *files_table(struct task *t, size_t index)
{
	for (size_t i = 0; index && i < t->threads.count; i++)
		if (t->threads.data[i]->table && --index == 0)
			return t->threads.data[i]->table;
	return index ? NULL : t;
}

/* A thread with a table of its own: as a task that has this table, and all else of the process as that is by now. */
static int capture_thread_table(struct dump *d, struct task *t, struct thread *th)
{
	struct task *x = th->table, own = *x;
	char name[40];

	*x = *t;
	x->view = own.view;
	x->proc = x->table_of = own.proc;
	x->pidfd = own.pidfd;
	x->descriptions = NULL;
	snprintf(name, sizeof(name), "fdinfo-thread-%d.img", th->tid);
	return capture_table(d, x, name);
}

void files_table_free(struct task *x)
{
	if (!x)
		return;
	free(x->descriptions);
	VEC_FREE(&x->view.fds);
	if (x->pidfd >= 0)
		close(x->pidfd);
	free(x);
}

int files_capture(struct dump *d, struct task *t)
{
	char name[32];
	int r = 0;

	if (!table_of(d))
		return error_set(d->e, -ENOMEM, "out of memory");
	snprintf(name, sizeof(name), "fdinfo-%u.img", t->files_id);
	if (t->files_id == t->id) /* not its parent's */
		r = capture_table(d, t, name);
	for (size_t i = 0; !r && i < t->threads.count; i++)
		if (t->threads.data[i]->table)
			r = dump_part(d, capture_thread_table(d, t, t->threads.data[i]));
	return r ? r : capture_fs(d, t);
}

int files_finish(struct dump *d, bool success)
{
	int r = locks_finish(d, success);

	for (size_t i = 0; i < kinds_count; i++)
		if (kinds[i]->finish) {
			bool good = success && !r;
			int s = kinds[i]->finish(d, &d->kind_state[i], good);
			r = good ? dump_part(d, s) : r;
		}
	int s = sock_packets_finish(d);
	r = r ? r : s;
	for (size_t i = 0; d->descriptions && i < BUCKETS; i++) {
		for (struct description *x = d->descriptions->bucket[i], *next; x; x = next) {
			next = x->next;
			if (x->own >= 0)
				close(x->own);
			free(x);
		}
		for (struct by_name *n = d->descriptions->names[i], *next; n; n = next) {
			next = n->next;
			free(n->name);
			free(n);
		}
	}
	free(d->descriptions);
	d->descriptions = NULL;
	return r;
}
