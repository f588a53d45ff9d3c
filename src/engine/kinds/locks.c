/*
 * Locks on files: flock(2), POSIX and OFD locks of fcntl(2), leases; from the "lock:" lines of fdinfo (Linux 4.1), into
 * filelocks.img. POSIX locks belong to the descriptor table, the others to the open file description, however many descriptors of
 * however many tasks refer to it.
 *
 * Restored by the task, through its own descriptor, as the last thing that it does with descriptors. Who waits for a lock asks
 * again, as after any signal. A lock whose description lives on in mappings only is found in /proc/locks, and taken by the coordinator
 * through the file that is mapped again; where a file has several such descriptions, its mappings share one then.
 *
 * Left out: without --file-locks, a lock that only a mapping keeps; a lease that is being broken, a lease for writing on a deleted file
 * (reading its content would break it).
 */
#include "engine/kinds/locks.h"

#include "engine/task/task.h"
#include "file_lock.pb-c.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* How the images name the kinds. */
enum { FL_POSIX = 1, FL_FLOCK = 2, FL_OFD = 4, FL_LEASE = 8 };
static const uint32_t flags[] = {
	[PROC_LOCK_POSIX] = FL_POSIX, [PROC_LOCK_FLOCK] = FL_FLOCK, [PROC_LOCK_OFD] = FL_OFD, [PROC_LOCK_LEASE] = FL_LEASE,
};

struct lock {
	struct proc_lock lock;
	uint32_t file; /* the id of the description */
	dev_t dev;
	struct task *task; /* who takes it again */
	int fd;		   /* the number there; -1: it is only under way in a socket as yet, or mapped */
	bool mapped;	   /* only mappings are left of the description */
};

struct lock_table {
	VEC(struct lock) locks;
};

/* Whether another descriptor has told of it; then that who took it is preferred for taking it again. */
static bool known(struct lock_table *table, const struct descriptor *f, const struct proc_lock *lock)
{
	VEC_FOREACH(&table->locks, l) {
		if (l->file != f->id || l->lock.kind != lock->kind || l->lock.start != lock->start || l->lock.len != lock->len)
			continue;
		if (lock->kind == PROC_LOCK_POSIX) {
			if (l->task != f->task)
				continue;
			return true;
		}
		if (l->fd < 0 || (f->fd >= 0 && l->task != f->task && f->task->pid == lock->pid)) {
			l->task = f->task;
			l->fd = f->fd;
		}
		return true;
	}
	return false;
}

static int take(struct dump *d, struct descriptor *f, const char *line)
{
	struct proc_lock lock;
	int r = proc_parse_lock(line, &lock);

	if (r)
		return fd_error(d, f, r, "holds a lock of a kind that has no way to be saved: %.*s", (int)strcspn(line, "\n"), line);
	if (lock.breaking)
		return fd_error(d, f, -EAGAIN, "has a lease that another process is breaking; try again when it is given up");
	if (lock.kind == PROC_LOCK_LEASE && lock.type == F_WRLCK && f->st.st_nlink == 0)
		return fd_error(d, f, -ENOTSUP, "has a lease for writing on a deleted file, which has no way to be saved; give it up first");
	if (known(d->locks, f, &lock))
		return 0;
	struct lock *l = VEC_PUSH(&d->locks->locks);
	if (!l)
		return error_set(d->e, -ENOMEM, "out of memory");
	*l = (struct lock){ .lock = lock, .file = f->id, .dev = f->st.st_dev, .task = f->task, .fd = f->fd };
	return 0;
}

int locks_capture(struct dump *d, struct descriptor *f)
{
	char link[64];
	int r = 0;

	/* For messages: known only where the description is new. */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", f->own_fd);
	if (!f->target[0] && readlink(link, f->target, sizeof(f->target) - 1) < 0)
		f->target[0] = '\0';
	if (!d->request->file_locks)
		return fd_error(d, f, -ENOTSUP, "holds a file lock; use --file-locks to save it");
	if (!d->locks && !(d->locks = calloc(1, sizeof(*d->locks))))
		return error_set(d->e, -ENOMEM, "out of memory");
	for (const char *line = f->fdinfo; !r && (line = strstr(line, "\nlock:")); line++)
		r = take(d, f, line + strlen("\nlock:"));
	return r;
}

static bool in_tree(struct dump *d, pid_t pid)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == pid)
			return true;
	return false;
}

/* What a process outside the tree has of a locked description keeps the lock, and would keep the restored tree from it. */
static int check_outsider(struct dump *d, pid_t pid)
{
	struct proc_fds fds = {};

	if (proc_list_fds(pid, &fds))
		return 0; /* it has ended */
	const struct lock *found = NULL;
	for (size_t i = 0; !found && i < fds.count; i++) {
		char path[64];
		struct stat st;
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fds.data[i]);
		if (stat(path, &st) < 0)
			continue;
		VEC_FOREACH(&d->locks->locks, l)
			if (l->lock.kind != PROC_LOCK_POSIX && l->dev == st.st_dev && l->lock.inode == st.st_ino && l->fd >= 0 &&
			    syscall(__NR_kcmp, l->task->proc, pid, KCMP_FILE, l->fd, fds.data[i]) == 0)
				found = l;
	}
	VEC_FREE(&fds);
	return found ? task_error(d, found->task, -ENOTSUP,
				  "descriptor %d is locked and shared with process %d, which is outside the tree and would keep the lock",
				  found->fd, pid) :
		       0;
}

static int check_outside(struct dump *d)
{
	struct dirent *entry;
	bool needed = false;
	int r = 0;

	VEC_FOREACH(&d->locks->locks, l)
		needed |= l->lock.kind != PROC_LOCK_POSIX;
	DIR *proc = needed ? opendir("/proc") : NULL;
	if (!proc)
		return needed ? error_errno(d->e, -errno, "cannot list the processes") : 0;
	while (!r && (entry = readdir(proc))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (pid > 0 && pid != getpid() && !in_tree(d, pid))
			r = check_outsider(d, pid);
	}
	closedir(proc);
	return r;
}

static bool same_lock(const struct proc_lock *a, const struct proc_lock *b)
{
	return a->kind == b->kind && a->type == b->type && a->inode == b->inode && a->start == b->start && a->len == b->len;
}

/* Whether a descriptor of the process tells of the lock. */
static bool tells_of(pid_t pid, const struct proc_lock *lock)
{
	struct proc_fds fds = {};
	bool found = false;

	if (proc_list_fds(pid, &fds))
		return false;
	for (size_t i = 0; !found && i < fds.count; i++) {
		_cleanup_free_ char *text = NULL;
		struct proc_lock other;
		struct stat st;
		char path[64];
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fds.data[i]);
		if (stat(path, &st) < 0 || st.st_ino != lock->inode)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fds.data[i]);
		if (read_file_at(AT_FDCWD, path, 16 << 20, &text, NULL))
			continue;
		for (const char *line = text; !found && (line = strstr(line, "\nlock:")); line++)
			found = !proc_parse_lock(line + strlen("\nlock:"), &other) && same_lock(&other, lock);
	}
	VEC_FREE(&fds);
	return found;
}

static bool is_outsiders(struct dump *d, const struct proc_lock *lock)
{
	struct dirent *entry;
	bool found = false;
	DIR *proc = opendir("/proc");

	while (proc && !found && (entry = readdir(proc))) {
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		found = pid > 0 && pid != getpid() && !in_tree(d, pid) && tells_of(pid, lock);
	}
	if (proc)
		closedir(proc);
	return found;
}

/* The area of a task that may keep the lock; NULL: none. */
static const struct proc_vma *find_mapped(const struct task *t, const struct proc_lock *lock)
{
	for (size_t i = 0; i < t->maps.count; i++) {
		const struct proc_vma *v = &t->maps.data[i];
		if (v->inode == lock->inode && v->dev_major == lock->dev_major && v->dev_minor == lock->dev_minor)
			return v;
	}
	return NULL;
}

/* A lock that no descriptor of the tree tells of: where nobody else's does either, a mapping of the file keeps it. */
static int take_mapped(struct dump *d, const struct proc_lock *lock)
{
	const struct proc_vma *vma = NULL;
	struct task *t = NULL;

	for (size_t i = 0; d->locks && i < d->locks->locks.count; i++)
		if (same_lock(&d->locks->locks.data[i].lock, lock))
			return 0;
	for (size_t i = 0; !vma && i < d->tasks.count; i++)
		if ((vma = find_mapped(d->tasks.data[i], lock)))
			t = d->tasks.data[i];
	if (!vma || is_outsiders(d, lock))
		return 0;
	if (lock->kind == PROC_LOCK_LEASE)
		return task_error(d, t, -ENOTSUP, "it maps a file (inode %llu) with a lease, with no descriptor left for it; such a lock has no way to be saved",
				  (unsigned long long)lock->inode);
	if (!d->locks && !(d->locks = calloc(1, sizeof(*d->locks))))
		return error_set(d->e, -ENOMEM, "out of memory");
	struct lock *l = VEC_PUSH(&d->locks->locks);
	if (!l)
		return error_set(d->e, -ENOMEM, "out of memory");
	*l = (struct lock){ .lock = *lock, .task = t, .fd = -1, .mapped = true };
	return files_capture_mapping(d, t, vma, &l->file);
}

/*
 * A description whose last descriptor was closed can live on, with its lock, in a mapping: fdinfo does not tell of that. Only with
 * --file-locks: reading /proc/locks waits for an RCU grace period, which the frozen tree would pay for.
 */
static int capture_mapped(struct dump *d)
{
	_cleanup_free_ char *text = NULL;
	struct proc_lock lock;
	int r = read_file_at(AT_FDCWD, "/proc/locks", 64 << 20, &text, NULL);

	if (r)
		return r == -ENOENT ? 0 : error_errno(d->e, r, "cannot read /proc/locks");
	for (const char *line = text; !r && *line; line += strcspn(line, "\n"), line += *line == '\n')
		if (!proc_parse_lock(line, &lock) && !lock.waiting && lock.kind != PROC_LOCK_POSIX)
			r = take_mapped(d, &lock);
	return r;
}

static int write_locks(struct dump *d)
{
	struct image_file *file;
	int r = image_create(d->dir, "filelocks.img", IMAGE_MAGIC_FILE_LOCKS, &file);

	if (r)
		return error_errno(d->e, r, "cannot create filelocks.img");
	VEC_FOREACH(&d->locks->locks, l) {
		FileLockEntry entry = FILE_LOCK_ENTRY__INIT;
		entry.flag = flags[l->lock.kind];
		entry.type = (uint32_t)l->lock.type;
		entry.pid = l->task->pid;
		entry.fd = l->fd;
		entry.start = l->lock.start;
		entry.len = l->lock.len;
		entry.has_file = l->mapped;
		entry.file = l->file;
		entry.has_table = l->task->table_of != 0;
		entry.table = (uint32_t)l->task->table_of;
		if (!r)
			r = image_write_message(file, &entry.base);
	}
	int s = image_close(file);
	r = r ? r : s;
	return r ? error_errno(d->e, r, "cannot write filelocks.img") : 0;
}

int locks_finish(struct dump *d, bool success)
{
	int r = success && d->request->file_locks ? capture_mapped(d) : 0;

	if (!d->locks)
		return r;
	for (size_t i = 0; success && !r && i < d->locks->locks.count; i++) {
		const struct lock *l = &d->locks->locks.data[i];
		if (l->fd < 0 && !l->mapped)
			r = task_error(d, l->task, -ENOTSUP, "a locked file is under way in one of its sockets, which is not saved");
	}
	if (success && !r)
		r = check_outside(d);
	if (success && !r)
		r = write_locks(d);
	VEC_FREE(&d->locks->locks);
	free(d->locks);
	d->locks = NULL;
	return r;
}

/* ---- restore ---- */

static void plan_lock(struct restore *s, struct rtask *t, const FileLockEntry *l)
{
	static const int operations[] = { [F_RDLCK] = LOCK_SH, [F_WRLCK] = LOCK_EX };
	struct batch *b = &t->threads.data[0].batch;
	struct flock range = { .l_type = (short)l->type, .l_whence = SEEK_SET, .l_start = l->start, .l_len = l->len };

	if (l->flag == FL_FLOCK)
		OP(b, __NR_flock, l->fd, operations[l->type] | LOCK_NB);
	else if (l->flag == FL_LEASE)
		OP(b, __NR_fcntl, l->fd, F_SETLEASE, l->type);
	else
		OP(b, __NR_fcntl, l->fd, l->flag == FL_OFD ? F_OFD_SETLK : F_SETLK, arena_place(&s->arena, &range, sizeof(range)));
}

/* The file that a lock is on; NULL: the task has no such descriptor. */
static const struct file *find_locked(struct restore *s, const struct rtask *t, const FileLockEntry *l)
{
	for (size_t i = 0; i < t->fds.count; i++)
		if (t->fds.data[i]->fd == (uint32_t)l->fd)
			return file_find(s, t->fds.data[i]->id);
	return NULL;
}

int locks_plan(struct restore *s, struct rtask *t)
{
	for (size_t i = 0; i < s->locks.count; i++) {
		const FileLockEntry *l = s->locks.data[i];
		if (l->pid != t->pid || l->has_file || l->table != (uint32_t)t->table_of)
			continue;
		const struct file *f = l->fd >= 0 ? find_locked(s, t, l) : NULL;
		bool known = l->flag == FL_FLOCK || l->flag == FL_LEASE || l->flag == FL_POSIX || l->flag == FL_OFD;
		if (!f || !known || l->start < 0 || l->len < 0 || (l->type != F_RDLCK && l->type != F_WRLCK))
			return error_set(s->e, f && !known ? -ENOTSUP : -EBADMSG, "filelocks.img has a lock of process %d that can't be", t->pid);
		const char *what = l->flag == FL_LEASE ? "take the lease" : "take the lock";
		if (f->entry->reg)
			batch_what(&t->threads.data[0].batch, "%s on %s for process %d", what, f->entry->reg->name,
				   t->pid);
		else
			batch_what(&t->threads.data[0].batch, "%s on descriptor %d of process %d", what, l->fd,
				   t->pid);
		plan_lock(s, t, l);
	}
	return 0;
}

static bool has_table(struct restore *s, const FileLockEntry *l)
{
	struct rtask *t = NULL, *table;

	for (size_t i = 0; i < s->tasks.count && !t; i++)
		t = s->tasks.data[i]->pid == l->pid ? s->tasks.data[i] : NULL;
	for (size_t i = 0; t && (table = rtask_table(t, i)); i++)
		if ((uint32_t)table->table_of == l->table)
			return true;
	return false;
}

static bool can_be_mapped_lock(struct restore *s, const FileLockEntry *l)
{
	const struct file *f = file_find(s, l->file);

	return (l->flag == FL_FLOCK || l->flag == FL_OFD) && (l->type == F_RDLCK || l->type == F_WRLCK) && l->start >= 0 && l->len >= 0 && f &&
	       f->entry->reg;
}

int locks_check(struct restore *s)
{
	for (size_t i = 0; i < s->locks.count; i++) {
		const FileLockEntry *l = s->locks.data[i];
		if (!has_table(s, l) || (l->has_file && !can_be_mapped_lock(s, l)))
			return error_set(s->e, -EBADMSG, "filelocks.img has a lock of process %d that can't be", l->pid);
	}
	return 0;
}

int locks_settle(struct restore *s)
{
	static const int operations[] = { [F_RDLCK] = LOCK_SH, [F_WRLCK] = LOCK_EX };

	for (size_t i = 0; i < s->locks.count; i++) {
		const FileLockEntry *l = s->locks.data[i];
		struct flock range = { .l_type = (short)l->type, .l_whence = SEEK_SET, .l_start = l->start, .l_len = l->len };
		if (!l->has_file)
			continue;
		const struct file *f = file_find(s, l->file);
		int r = f->fd < 0 ? -EBADMSG :
			(l->flag == FL_FLOCK ? flock(f->fd, operations[l->type] | LOCK_NB) : fcntl(f->fd, F_OFD_SETLK, &range)) < 0 ? -errno : 0;
		if (r)
			return error_errno(s->e, r, "cannot take the lock on %s, which process %d maps", f->entry->reg->name, l->pid);
	}
	return 0;
}
