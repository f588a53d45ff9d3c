/*
 * Files in /proc/PID. Those of the tree's own processes are opened by the task that holds them, once all processes are there, and those of
 * threads once the threads are. Of a process that had ended the file is opened while a process of that number is there, which then ends
 * likewise: reading it fails as before.
 *
 * Names are followed without links: /proc/PID/cwd, root, exe, fd and map_files lead anywhere.
 */
#include "engine/kinds/procfile.h"

#include "engine/path.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* "/proc/PID/task/TID/comm": both numbers (0: none), and the rest of the name. False: it is something else. */
static bool split(const char *name, pid_t *pid, pid_t *tid, const char **rest)
{
	int used = 0, more = 0;

	*tid = 0;
	if (sscanf(name, "/proc/%d%n", pid, &used) != 1 || *pid <= 0 || (name[used] && name[used] != '/'))
		return false;
	if (sscanf(name + used, "/task/%d%n", tid, &more) == 1 && *tid > 0 && (!name[used + more] || name[used + more] == '/'))
		used += more;
	else
		*tid = 0;
	*rest = name + used;
	return true;
}

bool procfile_is_dead(const struct descriptor *f, pid_t *ret)
{
	struct statfs fs;
	const char *rest;
	pid_t tid;

	if (f->own_fd < 0 || fstatfs(f->own_fd, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC || !split(f->target, ret, &tid, &rest))
		return false;
	*ret = tid ? tid : *ret;
	return true;
}

struct rtask *procfile_task(struct restore *s, const RegFileEntry *reg)
{
	const char *rest;
	pid_t pid, tid;

	if (!split(reg->name, &pid, &tid, &rest))
		return NULL;
	for (size_t i = 0; i < s->tasks.count; i++)
		if (s->tasks.data[i]->pid == pid)
			return s->tasks.data[i];
	return NULL;
}

bool procfile_after_threads(struct restore *s, const RegFileEntry *reg)
{
	const char *rest;
	pid_t pid, tid;

	return split(reg->name, &pid, &tid, &rest) && tid && tid != pid;
}

int procfile_prepare(struct restore *s, const RegFileEntry *reg)
{
	struct rtask *t = procfile_task(s, reg);

	if (!path_is_canonical(reg->name))
		return path_error(s->e, -EBADMSG, reg->name);
	if (procfile_after_threads(s, reg) && !t->threads_made && !(t->threads_made = arena_take(&s->arena, sizeof(*t->threads_made))))
		return error_set(s->e, -ENOMEM, "out of memory");
	return 0;
}

uint64_t procfile_plan_open(struct restore *s, struct rtask *t, const RegFileEntry *reg, uint32_t flags)
{
	struct open_how how = { .flags = flags & O_PATH ? flags & (uint32_t)(O_PATH | O_DIRECTORY | O_NOFOLLOW) : flags,
				.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
	struct batch *b = &t->threads.data[0].batch;

	batch_what(b, "open %s in process %d", reg->name, t->pid);
	struct agent_op *op = OP(b, __NR_openat2, AT_FDCWD, arena_place(&s->arena, reg->name, strlen(reg->name) + 1),
				 arena_place(&s->arena, &how, sizeof(how)), sizeof(how));
	return (uint64_t)(op - b->ops.data);
}

int procfile_plan(struct restore *s, struct file *f, struct rtask *t, int fd, uint32_t flags)
{
	const RegFileEntry *reg = f->entry->reg;
	struct batch *b = &t->threads.data[0].batch;
	int aside = s->fd_base - 1, cloexec = 0, first = -1;

	for (size_t i = 0; i < t->fds.count; i++) {
		const FdinfoEntry *e = t->fds.data[i];
		if (e->id == f->id && first < 0)
			first = (int)e->fd;
		if ((int)e->fd == fd && e->flags & FD_CLOEXEC)
			cloexec = O_CLOEXEC;
	}
	if (first != fd) { /* a duplicate */
		batch_what(b, "take descriptor %d of process %d", fd, t->pid);
		OP(b, __NR_dup3, first, fd, cloexec);
		return 0;
	}
	uint64_t opened = procfile_plan_open(s, t, reg, flags);
	if (reg->pos && !(reg->flags & O_PATH))
		OP(b, __NR_lseek, opened, reg->pos, SEEK_SET)->flags |= AGENT_OP_REF_ARG0 | AGENT_OP_MAY_FAIL;
	/* It may have come at the very number: by way of another. */
	OP(b, __NR_dup3, opened, aside, 0)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_close, opened)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_dup3, aside, fd, cloexec);
	OP(b, __NR_close, aside);
	return 0;
}

/* Nobody waits before its own threads are made, so nobody waits in a circle. */
int procfile_plan_threads(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;
	int r = 0;

	if (t->threads_made && !t->table_of)
		OP(b, AGENT_OP_ARRIVE, (uint64_t)t->threads_made);
	for (size_t i = 0; !r && !t->files_owner && i < t->fds.count; i++) {
		struct file *f = file_find(s, t->fds.data[i]->id);
		const RegFileEntry *reg = f && f->fd == FILE_IN_TASK ? f->entry->reg : NULL;
		if (!reg || !procfile_after_threads(s, reg))
			continue;
		batch_what(b, "wait for the thread of %s", reg->name);
		OP(b, AGENT_OP_AWAIT, (uint64_t)procfile_task(s, reg)->threads_made, 1);
		r = procfile_plan(s, f, t, (int)t->fds.data[i]->fd, reg->flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC));
	}
	return r;
}

/* In the child, which has the coordinator's descriptors and memory of its own: what is open of it shows nothing of ours. */
static _Noreturn void open_own(int root, const char *rest, bool thread, int flags, int slot)
{
	char path[PATH_MAX];
	long self = syscall(__NR_getpid);

	if (thread)
		snprintf(path, sizeof(path), "/proc/%ld/task/%ld%s", self, self, rest);
	else
		snprintf(path, sizeof(path), "/proc/%ld%s", self, rest);
	int fd = path_open(root, path, flags);
	long r = fd < 0 ? -fd : syscall(__NR_dup3, fd, slot, O_CLOEXEC) < 0 ? errno : 0;
	if (fd >= 0)
		close(fd);
	syscall(__NR_exit_group, r);
	__builtin_unreachable();
}

int procfile_open_dead(struct restore *s, const RegFileEntry *reg, pid_t pid, int flags)
{
	struct clone_args args = { .flags = CLONE_FILES | CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1 };
	const char *rest;
	pid_t named, thread;
	sigset_t all, before;
	int status = 0;

	if (!split(reg->name, &named, &thread, &rest) || !path_is_canonical(reg->name) || pid <= 0)
		return path_error(s->e, -EBADMSG, reg->name);
	int slot = open("/", O_PATH | O_CLOEXEC);
	if (slot < 0)
		return error_errno(s->e, -errno, "cannot open /");
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	long child = syscall(__NR_clone3, &args, sizeof(args));
	if (child < 0 && errno == EEXIST) { /* any dead process will do */
		args.set_tid = args.set_tid_size = 0;
		child = syscall(__NR_clone3, &args, sizeof(args));
	}
	if (child == 0)
		open_own(s->root_fd, rest, thread != 0, flags, slot);
	int r = child < 0 ? -errno : 0;
	if (!r && waitpid((pid_t)child, &status, 0) > 0)
		r = WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (!r)
		return slot;
	close(slot);
	return path_error(s->e, r, reg->name);
}
