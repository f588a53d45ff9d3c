/*
 * Restore: every open file description is made once, in the coordinator, above the numbers that tasks use; then each task, which
 * inherits them all, puts them at its own numbers.
 */
#include "engine/kinds/tcp.h"
#include "engine/kinds/external.h"
#include "engine/kinds/ghost.h"
#include "engine/kinds/shmfile.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/procfile.h"
#include "engine/kinds/tty.h"
#include "engine/kinds/tun.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ioctl.h>

struct file *file_find(struct restore *s, uint32_t id)
{
	size_t low = 0, high = s->files.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		struct file *f = &s->files.data[middle];
		if (f->id == id)
			return f;
		if (f->id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

int restore_hold(struct restore *s, int fd)
{
	if (fd >= s->fd_base && fd < s->fd_top)
		return fd;
	int high = fcntl(fd, F_DUPFD_CLOEXEC, s->fd_base);
	int r = high < 0 ? -errno : high;
	if (high >= s->fd_top) {
		close(high);
		r = -EMFILE;
	}
	close(fd);
	return r;
}

static const FownEntry *owner_of(const FileEntry *e)
{
	return e->reg ? e->reg->fown : e->pipe ? e->pipe->fown : e->isk ? e->isk->fown : e->nlsk ? e->nlsk->fown : e->psk ? e->psk->fown : e->usk ? e->usk->fown : e->efd ? e->efd->fown :
	       e->epfd ? e->epfd->fown : e->sgfd ? e->sgfd->fown : e->tfd ? e->tfd->fown : e->ify ? e->ify->fown : e->ffy ? e->ffy->fown :
	       e->tty ? e->tty->fown : e->memfd ? e->memfd->fown : e->uring ? e->uring->fown : e->mqueue ? e->mqueue->fown :
	       e->vsock ? e->vsock->fown : e->tunf ? e->tunf->fown : NULL;
}

/* By its kind; or, a socket of the network, the caller's in its place. */
static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const InetSkEntry *e = f->entry->isk;
	int given = e ? external_given(s->request, "socket", e->ino) : -1;

	if (given < 0)
		return f->kind->create(s, f, ret_fd);
	*ret_fd = external_open(s, given, O_RDWR, "a socket");
	if (*ret_fd >= 0 && fcntl(*ret_fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0)
		return error_errno(s->e, -errno, "cannot set the flags of descriptor %d, given for a socket", given);
	return MIN(*ret_fd, 0);
}

static int make(struct restore *s, struct file *f)
{
	int fd = -1;
	int r = create(s, f, &fd);

	if (r)
		return r;
	if (fd < 0) { /* the task that holds it makes it */
		f->fd = FILE_IN_TASK;
		return 0;
	}
	fd = restore_hold(s, fd);
	if (fd < 0)
		return error_errno(s->e, fd, "cannot hold file %u", f->id);
	f->fd = fd;
	const FownEntry *own = owner_of(f->entry);
	if (own && own->signum && fcntl(fd, F_SETSIG, (int)own->signum) < 0)
		return error_errno(s->e, -errno, "cannot set the signal of file %u", f->id);
	return 0;
}

int file_fd(struct restore *s, uint32_t id)
{
	struct file *f = file_find(s, id);

	if (!f)
		return error_set(s->e, -EBADMSG, "files.img lacks file %u", id);
	if (f->fd == -1) {
		int r = make(s, f);
		if (r)
			return r;
	}
	return f->fd;
}

int file_fd_early(struct restore *s, uint32_t id)
{
	int fd = file_fd(s, id);

	if (fd != FILE_IN_TASK)
		return fd;
	const FileEntry *e = file_find(s, id)->entry;
	return error_set(s->e, -ENOTSUP, "file %u (%s) belongs to a process that is restored, and is needed before that", id, e->reg ? e->reg->name : "?");
}

struct rtask *rtask_table(struct rtask *t, size_t index)
{
	for (size_t i = 0; index && i < t->threads.count; i++)
		if (t->threads.data[i].table && --index == 0)
			return t->threads.data[i].table;
	return index ? NULL : t;
}

bool rtask_holds(struct restore *s, struct rtask *t, bool (*is)(const struct rtask *t, const struct file *f))
{
	const struct rtask *table;

	for (size_t i = 0; (table = rtask_table(t, i)); i++)
		VEC_FOREACH(&table->fds, e) {
			const struct file *f = file_find(s, (*e)->id);
			if (f && is(t, f))
				return true;
		}
	return false;
}

/* Tables of threads have all else that the process has; what is planned for them goes into the thread's batch. */
static void complete_tables(struct rtask *t)
{
	for (size_t i = 1; i < t->threads.count; i++) {
		struct rtask *table = t->threads.data[i].table, own;
		if (!table)
			continue;
		own = *table;
		*table = *t;
		table->table_of = own.table_of;
		memcpy(&table->fds, &own.fds, sizeof(own.fds));
		table->threads.data = &t->threads.data[i];
		table->threads.count = 1;
		table->leader_gone = false;
	}
}

static int make_table(struct restore *s, struct rtask *t)
{
	VEC_FOREACH(&t->fds, e) {
		struct file *f = file_find(s, (*e)->id);
		if (f && !f->owner)
			f->owner = t;
		int fd = file_fd(s, (*e)->id);
		if (fd < 0 && fd != FILE_IN_TASK)
			return fd;
	}
	return 0;
}

int files_make(struct restore *s)
{
	int r = tty_prepare_external(s);

	if (!r)
		r = tun_prepare(s);
	/* What some descriptor refers to; mappings are opened when they are planned. */
	for (size_t i = 0; !r && i < s->tasks.count; i++) {
		struct rtask *table;
		complete_tables(s->tasks.data[i]);
		for (size_t k = 0; !r && (table = rtask_table(s->tasks.data[i], k)); k++)
			r = make_table(s, table);
	}
	for (size_t i = 0; !r && i < s->files.count; i++)
		if (s->files.data[i].fd >= 0 && s->files.data[i].kind->connect)
			r = s->files.data[i].kind->connect(s, &s->files.data[i]);
	for (size_t i = 0; !r && i < s->files.count; i++)
		if (s->files.data[i].fd >= 0 && s->files.data[i].kind->fill)
			r = s->files.data[i].kind->fill(s, &s->files.data[i]);
	return r ? r : tcp_build_waiting(s);
}

/* The owner of F_SETOWN, and O_ASYNC, which tells it: once all processes are there. */
static void plan_owner(struct restore *s, struct rtask *t, struct batch *b, struct file *f, int fd)
{
	const FownEntry *own = owner_of(f->entry);

	if (!own || !own->pid)
		return;
	struct f_owner_ex owner = { own->pid_type == 0 ? F_OWNER_TID : own->pid_type == 2 ? F_OWNER_PGRP : F_OWNER_PID, (pid_t)own->pid };
	batch_what(b, "set the owner of descriptor %d of process %d", fd, t->pid);
	OP_MAY_FAIL(b, __NR_fcntl, fd, F_SETOWN_EX, arena_place(&s->arena, &owner, sizeof(owner)));
	int flags = fcntl(f->fd, F_GETFL);
	uint32_t wanted = f->entry->reg	   ? f->entry->reg->flags :
			  f->entry->pipe   ? f->entry->pipe->flags :
			  f->entry->usk	   ? f->entry->usk->flags :
			  f->entry->isk	   ? f->entry->isk->flags :
			  f->entry->tty	   ? f->entry->tty->flags :
						     0;
	if (wanted & O_ASYNC)
		OP(b, __NR_fcntl, fd, F_SETFL, flags | O_ASYNC);
}

/* Where a table has the description; -1: it has not. */
static int number_in(const struct rtask *t, uint32_t id)
{
	VEC_FOREACH(&t->fds, e)
		if ((*e)->id == id)
			return (int)(*e)->fd;
	return -1;
}

/* The same of what the process has made for itself when its threads begin. */
static int number_made(struct restore *s, const struct rtask *process, uint32_t id)
{
	const struct file *f = file_find(s, id);

	return !f || f->fd != FILE_IN_TASK || (f->entry->reg && procfile_after_threads(s, f->entry->reg)) ? -1 : number_in(process, id);
}

/* In two rounds: what the task makes for itself, then what may refer to that. Of a thread's table `process` is whose it began as a copy of. */
static int plan_late(struct restore *s, struct rtask *t, const struct rtask *process, bool made_here)
{
	for (size_t i = 0; i < t->fds.count; i++) {
		struct file *f = file_find(s, t->fds.data[i]->id);
		if (f && made_here != (f->fd == FILE_IN_TASK))
			continue;
		if (made_here && process && number_made(s, process, t->fds.data[i]->id) >= 0)
			continue;
		/* Once for each description, in its first holder; what a task makes for itself, each does. */
		if (!f || (f->fd >= 0 && (f->owner != t || f->planned == t)))
			continue;
		f->planned = t;
		plan_owner(s, t, &t->threads.data[0].batch, f, (int)t->fds.data[i]->fd);
		if (!f->kind->late)
			continue;
		int r = f->kind->late(s, f, t, (int)t->fds.data[i]->fd);
		if (r)
			return r;
	}
	return 0;
}

/* All but ours. */
static void plan_empty(struct restore *s, struct batch *b)
{
	OP(b, __NR_close_range, 0, s->fd_base - 1, 0);
	if (s->fd_top < INT_MAX)
		OP(b, __NR_close_range, s->fd_top, ~0U, 0);
}

static int plan_table(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;

	batch_what(b, "take the descriptors of process %d", t->pid);
	if (t->files_owner) {
		OP(b, AGENT_OP_AWAIT, (uint64_t)t->files_owner->table_ready, 1);
		return 0;
	}
	plan_empty(s, b);
	for (size_t i = 0; i < t->fds.count; i++) {
		const FdinfoEntry *e = t->fds.data[i];
		int fd = file_fd(s, e->id);
		if (fd == FILE_IN_TASK)
			continue;
		if (fd < 0)
			return fd;
		batch_what(b, "take descriptor %u of process %d", e->fd, t->pid);
		OP(b, __NR_dup3, fd, e->fd, e->flags & FD_CLOEXEC ? O_CLOEXEC : 0);
	}
	int r = plan_late(s, t, NULL, true);

	if (!r)
		r = plan_late(s, t, NULL, false);
	if (t->sharers)
		OP(b, AGENT_OP_ARRIVE, (uint64_t)t->table_ready);
	return r;
}

/* New processes have our root: most have no other, and not everybody may set it. */
static bool is_our_root(const struct restore *s, int fd)
{
	struct statx ours, its;

	return !statx(s->root_fd ? s->root_fd : AT_FDCWD, s->root_fd ? "" : "/", s->root_fd ? AT_EMPTY_PATH : 0, STATX_INO | STATX_MNT_ID, &ours) && !statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &its) &&
	       ours.stx_mask & its.stx_mask & STATX_MNT_ID && ours.stx_mnt_id == its.stx_mnt_id && ours.stx_ino == its.stx_ino &&
	       ours.stx_dev_major == its.stx_dev_major && ours.stx_dev_minor == its.stx_dev_minor;
}

/* `t`: the task whose leader it is, or NULL for another thread. */
static int plan_directories(struct restore *s, struct rtask *t, struct batch *b, const FsEntry *fs, pid_t tid)
{
	const bool leader = t != NULL;
	int cwd = file_fd(s, fs->cwd_id), root = file_fd_early(s, fs->root_id);
	uint64_t opened = 0;

	if (root < 0 || (cwd < 0 && (cwd != FILE_IN_TASK || !leader)))
		return root < 0 ? root : cwd == FILE_IN_TASK ? file_fd_early(s, fs->cwd_id) : cwd;
	if (cwd == FILE_IN_TASK) /* while its name still leads there */
		opened = procfile_plan_open(s, t, file_find(s, fs->cwd_id)->entry->reg, O_PATH | O_DIRECTORY);
	batch_what(b, "change to the root and working directory of process or thread %d", tid);
	if (!is_our_root(s, root)) {
		OP(b, __NR_fchdir, root);
		OP(b, __NR_chroot, arena_place(&s->arena, ".", 2));
	}
	if (cwd == FILE_IN_TASK) {
		OP(b, __NR_fchdir, opened)->flags |= AGENT_OP_REF_ARG0;
		OP(b, __NR_close, opened)->flags |= AGENT_OP_REF_ARG0;
	} else {
		OP(b, __NR_fchdir, cwd);
	}
	OP(b, __NR_umask, fs->umask);
	return 0;
}

/* A table of the thread's own begins as a copy of the process's, with what is held above. What the process has made for itself is put aside in it. */
static int plan_thread_table(struct restore *s, struct rtask *t, struct rthread *th)
{
	struct rtask *x = th->table;
	struct batch *b = &th->batch;
	_cleanup_free_ uint64_t *aside = calloc(x->fds.count + 1, sizeof(*aside));

	if (!aside)
		return error_set(s->e, -ENOMEM, "out of memory");
	batch_what(b, "take the descriptors of thread %d", th->tid);
	OP(b, __NR_unshare, CLONE_FILES);
	for (size_t i = 0; i < x->fds.count; i++) {
		const int number = number_made(s, t, x->fds.data[i]->id);
		if (number >= 0)
			aside[i] = (uint64_t)(OP(b, __NR_fcntl, number, F_DUPFD_CLOEXEC, s->fd_base) - b->ops.data);
	}
	plan_empty(s, b);
	for (size_t i = 0; i < x->fds.count; i++) {
		const FdinfoEntry *e = x->fds.data[i];
		const struct file *f = file_find(s, e->id);
		const int cloexec = e->flags & FD_CLOEXEC ? O_CLOEXEC : 0;
		batch_what(b, "take descriptor %u of thread %d", e->fd, th->tid);
		if (f->fd != FILE_IN_TASK)
			OP(b, __NR_dup3, f->fd, e->fd, cloexec);
		else if (number_made(s, t, e->id) >= 0)
			OP(b, __NR_dup3, aside[i], e->fd, cloexec)->flags |= AGENT_OP_REF_ARG0;
	}
	int r = plan_late(s, x, t, true);
	if (!r)
		r = plan_late(s, x, t, false);
	if (!r)
		r = procfile_plan_threads(s, x);
	OP(b, __NR_close_range, s->fd_base, s->fd_top - 1, 0);
	return r ? r : locks_plan(s, x);
}

int files_plan_thread(struct restore *s, struct rtask *t, struct rthread *th)
{
	int r = 0;

	if (th->fs) {
		OP(&th->batch, __NR_unshare, CLONE_FS);
		r = plan_directories(s, NULL, &th->batch, th->fs, th->tid);
	}
	if (!r && th->table)
		r = plan_thread_table(s, t, th);
	if (th->fs || th->table)
		OP(&th->batch, AGENT_OP_ARRIVE, (uint64_t)t->owners_done);
	return r;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

void files_plan_close(struct restore *s, struct rtask *t, bool keep)
{
	struct batch *b = &t->threads.data[0].batch;
	size_t count = 0, room = 2 * t->threads.count;
	int from = s->fd_base;

	for (size_t i = 0; i < t->threads.count; i++)
		room += t->threads.data[i].table ? t->threads.data[i].table->fds.count : 0;
	_cleanup_free_ int *kept = calloc(room, sizeof(*kept));
	b->failed |= !kept;
	for (size_t i = 0; kept && keep && i < t->threads.count; i++) {
		const struct rthread *th = &t->threads.data[i];
		for (int k = 0; th->fs && k < 2; k++)
			if ((kept[count] = file_fd_early(s, k ? th->fs->root_id : th->fs->cwd_id)) >= 0)
				count++;
		for (size_t k = 0; th->table && k < th->table->fds.count; k++)
			if ((kept[count] = file_fd(s, th->table->fds.data[k]->id)) >= 0)
				count++;
	}
	qsort(kept, count, sizeof(*kept), by_number);
	for (size_t i = 0; i < count; i++) {
		if (from < kept[i])
			OP(b, __NR_close_range, from, kept[i] - 1, 0);
		from = MAX(from, kept[i] + 1);
	}
	OP(b, __NR_close_range, from, s->fd_top - 1, 0);
}

/* Whoever shares something with others changes it, and closes what was only for building, once they have what they need. */
int files_plan(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;
	int r = plan_table(s, t);
	batch_what(b, "wait for those who share with process %d", t->pid);
	if (t->fs_owner)
		OP(b, AGENT_OP_ARRIVE, (uint64_t)t->fs_owner->sharers_done);
	if (t->sharers)
		OP(b, AGENT_OP_AWAIT, (uint64_t)t->sharers_done, t->sharers);
	if (!r && !t->fs_owner)
		r = plan_directories(s, t, b, t->fs, t->pid);
	if (t->files_owner) /* only now: it closes what stands above the task's own */
		OP(b, AGENT_OP_ARRIVE, (uint64_t)t->files_owner->sharers_done);
	return r;
}

int files_settle(struct restore *s)
{
	int r = 0;

	ghosts_release(s); /* now, so that their end is told to nobody */
	for (size_t i = 0; !r && i < s->files.count; i++)
		if (s->files.data[i].fd >= 0 && s->files.data[i].kind->settle)
			r = s->files.data[i].kind->settle(s, &s->files.data[i]);
	return r;
}

void files_release(struct restore *s)
{
	VEC_FOREACH(&s->files, f) {
		if (f->kind && f->kind->release)
			f->kind->release(s, f);
		if (f->fd >= 0)
			close(f->fd);
	}
	ghosts_release(s);
	shmfile_release(s);
	tty_release(s, NULL); /* of a terminal that only sessions have */
	VEC_FOREACH(&s->memfds, m)
		close(m->fd);
	VEC_FREE(&s->memfds);
}
