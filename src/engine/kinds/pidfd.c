/*
 * pidfd_open(2): of which process, from fdinfo (Linux 5.4). Made in the task that holds it first, once all processes are there;
 * other holders fetch the same description from that one with pidfd_getfd(2). One of a process that was waited for refers to nobody any more,
 * and is made with a child that ends at once.
 *
 * Left out: the exit status that such a one can tell since Linux 6.15 (PIDFD_GET_INFO), and inode numbers, which are the process's
 * own since 6.9. Processes outside the tree and threads other than the main one are refused.
 */
#include "engine/constants.h"
#include "engine/kinds/anon.h"
#include "engine/kinds/in_task.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sys/wait.h>

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "pidfd") || !strncmp(f->target, "pidfd:", 6);
}

static bool in_tree(const struct dump *d, pid_t pid)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == pid)
			return true;
	return false;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	PidfdEntry e = PIDFD_ENTRY__INIT;
	const char *text = fdinfo_value(f, "Pid");

	if (!text)
		return fd_error(d, f, -ENOTSUP, "does not tell its process (Linux 5.4)");
	int pid = atoi(text);
	if (pid >= 0 && !in_tree(d, pid))
		return fd_error(d, f, -ENOTSUP, "is a pidfd of process or thread %d, which is no process of the tree; close it, or dump a parent of both", pid);
	e.id = f->id;
	e.flags = f->flags & (O_NONBLOCK | PIDFD_THREAD);
	e.pid = pid > 0 ? (uint32_t)pid : 0;
	entry.pidfd = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__FERMATA_PIDFD);
}

/* A child that ends at once, and is waited for. */
static int of_nobody(void)
{
	int fd = -1;
	struct clone_args args = { .flags = CLONE_PIDFD, .pidfd = (uint64_t)&fd };
	long child = syscall(__NR_clone3, &args, sizeof(args));

	if (child == 0)
		_exit(0);
	if (child < 0)
		return -errno;
	while (waitpid((pid_t)child, NULL, __WALL) < 0 && errno == EINTR)
		;
	return fd;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const PidfdEntry *e = f->entry->pidfd;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	for (size_t i = 0; e->pid && i < s->tasks.count; i++)
		if (s->tasks.data[i]->pid == (pid_t)e->pid)
			return 0; /* the task that holds it makes it: late() */
	if (e->pid)
		return error_set(s->e, -EBADMSG, "file %u is a pidfd of process %u, which is not in the tree", f->id, e->pid);
	int fd = of_nobody();
	if (fd < 0 || fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0) {
		int r = error_errno(s->e, fd < 0 ? fd : -errno, "cannot make a pidfd");
		if (fd >= 0)
			close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static uint64_t make(struct restore *s, struct file *f, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;

	return in_task_index(b, OP(b, __NR_pidfd_open, f->entry->pidfd->pid, f->entry->pidfd->flags));
}

static int late(struct restore *s, struct file *f, struct rtask *t, int fd)
{
	return f->entry->pidfd->pid ? in_task_late(s, f, t, fd, make) : 0;
}

static int fly(struct restore *s, struct file *f, int *ret_fd)
{
	*ret_fd = (int)syscall(__NR_pidfd_open, f->entry->pidfd->pid, f->entry->pidfd->flags);
	return *ret_fd < 0 ? error_errno(s->e, -errno, "cannot make a pidfd of process %u, which is under way in a socket", f->entry->pidfd->pid) : 0;
}

const struct kind kind_pidfd = {
	.name = "a pidfd",
	.summary = "pidfds of processes in the tree, living, ended or waited for; also under way in a socket",
	.type = FD_TYPES__FERMATA_PIDFD,
	.recognise = recognise,
	.capture = capture,
	.create = create,
	.late = late,
	.fly = fly,
};
