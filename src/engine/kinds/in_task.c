/* See in_task.h. */
#include "engine/kinds/in_task.h"

#include "engine/constants.h"

#include <fcntl.h>
#include <sys/syscall.h>

/* The first descriptor of the task that refers to the description. */
static const FdinfoEntry *first_of(const struct rtask *t, uint32_t id)
{
	for (size_t i = 0; i < t->fds.count; i++)
		if (t->fds.data[i]->id == id)
			return t->fds.data[i];
	return NULL;
}

static const FdinfoEntry *entry_of(const struct rtask *t, int fd)
{
	for (size_t i = 0; i < t->fds.count; i++)
		if ((int)t->fds.data[i]->fd == fd)
			return t->fds.data[i];
	return NULL;
}

uint64_t in_task_index(const struct batch *b, const struct agent_op *op)
{
	return (uint64_t)(op - b->ops.data);
}

/* What an operation opened goes to `fd`; it may have come at that very number, so by way of another. */
static void move(struct restore *s, struct batch *b, uint64_t opened, int fd, int cloexec)
{
	int aside = s->fd_base - 1;

	OP(b, __NR_dup3, opened, aside, 0)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_close, opened)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_dup3, aside, fd, cloexec);
	OP(b, __NR_close, aside);
}

int in_task_late(struct restore *s, struct file *f, struct rtask *t, int fd, uint64_t (*make)(struct restore *s, struct file *f, struct rtask *t))
{
	struct batch *b = &t->threads.data[0].batch;
	const FdinfoEntry *first = first_of(t, f->id), *theirs = first_of(f->owner, f->id);
	int cloexec = entry_of(t, fd)->flags & FD_CLOEXEC ? O_CLOEXEC : 0;

	if (!f->own && !(f->own = arena_take(&s->arena, sizeof(uint32_t)))) /* not 0 once its owner has it */
		return error_set(s->e, -ENOMEM, "out of memory");
	if (first->fd != (uint32_t)fd) {
		batch_what(b, "take descriptor %d of process %d", fd, t->pid);
		OP(b, __NR_dup3, first->fd, fd, cloexec);
		return 0;
	}
	/* It is there only when those who share with its process have what they need. */
	if (f->owner->table_of && f->owner->pid != t->pid && t->fs_owner)
		return error_set(s->e, -ENOTSUP, "descriptor %d of process %d is first of all one of thread %d, which has a table of its own, and the process shares its directories", fd, t->pid,
				 f->owner->table_of);
	batch_what(b, "make %s, descriptor %d of process %d", f->kind->name, fd, t->pid);
	if (f->owner == t) {
		move(s, b, make(s, f, t), fd, cloexec);
		OP(b, AGENT_OP_ARRIVE, (uint64_t)f->own);
		return 0;
	}
	/* Only ever for a task that stands before this one in the tree's order: nobody waits in a circle. */
	OP(b, AGENT_OP_AWAIT, (uint64_t)f->own, 1);
	uint64_t owner = in_task_index(b, OP(b, __NR_pidfd_open, f->owner->table_of ? f->owner->table_of : f->owner->pid, f->owner->table_of ? PIDFD_THREAD : 0));
	struct agent_op *op = OP(b, __NR_pidfd_getfd, owner, theirs->fd, 0);
	op->flags |= AGENT_OP_REF_ARG0;
	uint64_t fetched = in_task_index(b, op);
	OP(b, __NR_close, owner)->flags |= AGENT_OP_REF_ARG0;
	move(s, b, fetched, fd, cloexec);
	return 0;
}

int in_task_fetch(struct restore *s, struct file *f, int *ret_fd)
{
	const struct rtask *owner = f->owner;

	if (!owner)
		return f->kind->fly ? f->kind->fly(s, f, ret_fd) : error_set(s->e, -ENOTSUP, "file %u (%s) can't travel in a socket", f->id, f->kind->name);
	_cleanup_close_ int process = (int)syscall(__NR_pidfd_open, owner->table_of ? owner->table_of : owner->pid, owner->table_of ? PIDFD_THREAD : 0);
	*ret_fd = process < 0 ? -1 : (int)syscall(__NR_pidfd_getfd, process, first_of(owner, f->id)->fd, 0);
	return *ret_fd < 0 ? error_errno(s->e, -errno, "cannot fetch file %u from process %d", f->id, owner->pid) : 0;
}
