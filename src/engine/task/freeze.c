/*
 * Freezing a tree: every thread of every process is seized and stopped with ptrace(2), the lists are read again until
 * nothing new turns up. A thread that is being created while its creator is stopped appears on the next reading; once all
 * threads of all processes are stopped nothing new can.
 *
 * Children are found through /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN).
 */
#include "base/log.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL /* Linux 6.9 */
#endif
#define PF_KTHREAD 0x00200000
#define USER_CS_32 0x23

static struct task *find_task(struct dump *d, pid_t pid)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == pid)
			return d->tasks.data[i];
	return NULL;
}

static int add_task(struct dump *d, pid_t pid, struct task *parent, struct task **ret)
{
	struct task *t = calloc(1, sizeof(*t)), **slot = t ? VEC_PUSH(&d->tasks) : NULL;

	if (!slot) {
		free(t);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	*slot = t;
	*t = (struct task){ .pid = pid, .proc = pid, .parent = parent, .state = TASK_ALIVE, .mem_fd = -1, .pagemap_fd = -1, .pidfd = -1 };
	*ret = t;
	return 0;
}

static void take_ids(struct task *t)
{
	t->ppid = t->stat.ppid;
	t->pgid = t->stat.pgrp;
	t->sid = t->stat.session;
}

/* Seizes the threads that are not held yet and waits until they are stopped. Gives how many there were. */
static int seize_threads(struct dump *d, struct task *t)
{
	struct proc_pids tids = {};
	size_t first = t->threads.count;
	int r = proc_list_threads(t->pid, &tids);

	if (r)
		return task_errno(d, t, r, "cannot list its threads");
	for (size_t i = 0; !r && i < tids.count; i++) {
		struct error ignored;
		bool known = t->leader_gone && tids.data[i] == t->pid;
		for (size_t k = 0; k < t->threads.count && !known; k++)
			known = t->threads.data[k]->tid == tids.data[i];
		if (known)
			continue;
		struct thread *thread = calloc(1, sizeof(*thread)), **slot = thread ? VEC_PUSH(&t->threads) : NULL;
		if (!slot) {
			free(thread);
			r = error_set(d->e, -ENOMEM, "out of memory");
			break;
		}
		*thread = (struct thread){ .task = t, .tid = tids.data[i] };
		*slot = thread;
		int s = tracee_seize(&thread->tracee, t->pid, thread->tid, 0, &ignored);
		if (!s)
			s = tracee_interrupt(&thread->tracee);
		struct proc_stat now;
		if (s == -EPERM && (proc_read_thread_stat(t->pid, thread->tid, &now) || now.state == 'Z' || now.state == 'X'))
			s = -ESRCH;
		if (s == -ESRCH && thread->tid != t->pid) { /* it has ended meanwhile */
			t->threads.count--;
			free(thread);
		} else if (s == -EPERM && proc_read_status(t->pid, &thread->status) == 0 && thread->status.tracer_pid) {
			r = task_error(d, t, -EBUSY, "it is being debugged by process %d; end that first",
				       (int)thread->status.tracer_pid);
		} else if (s) {
			r = task_errno(d, t, s, "cannot stop its thread %d", thread->tid);
		}
	}
	VEC_FREE(&tids);
	/* The leader last: the end of a process that is killed meanwhile is told by its leader, once its other threads were waited for. */
	for (size_t i = t->threads.count; i-- > first;) {
		struct thread *thread = t->threads.data[i];
		struct error why = {};
		int s = thread->tracee.seized ? tracee_wait_stop(&thread->tracee, &why) : 0;
		if (s == -ESRCH && thread->tid != t->pid) {
			memmove(&t->threads.data[i], &t->threads.data[i + 1], (t->threads.count - i - 1) * sizeof(thread));
			t->threads.count--;
			free(thread);
			continue;
		}
		if (s && !r)
			r = task_error(d, t, s, "%s", why.text);
	}
	return r ? r : (int)(t->threads.count - first);
}

/*
 * A thread inside a restartable sequence (rseq(2)) goes on at the sequence's abort handler, as the kernel would have it
 * after any preemption: once the agent has run in it the kernel no longer knows that it was in one.
 */
static int leave_sequence(struct task *t, struct thread *thread)
{
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} sequence;
	uint64_t at = 0;

	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof(thread->rseq), &thread->rseq) < 0)
		return errno == EIO || errno == EINVAL ? 0 : -errno; /* before Linux 5.13, or without CONFIG_RSEQ */
	if (!thread->rseq.rseq_abi_pointer)
		return 0;
	if (pread(t->mem_fd, &at, sizeof(at), (off_t)thread->rseq.rseq_abi_pointer + 8) != sizeof(at) || !at)
		return 0;
	if (pread(t->mem_fd, &sequence, sizeof(sequence), (off_t)at) != sizeof(sequence))
		return 0;
	if (thread->tracee.regs.rip - sequence.start < sequence.length)
		thread->tracee.regs.rip = sequence.abort;
	return 0;
}

int thread_stopped_again(struct task *t, struct thread *thread)
{
	return leave_sequence(t, thread);
}

static int open_task(struct dump *d, struct task *t)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", t->proc);
	t->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", t->proc);
	t->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	t->pidfd = (int)syscall(__NR_pidfd_open, t->proc, t->leader_gone ? PIDFD_THREAD : 0);
	if (t->pidfd < 0 && t->leader_gone && errno == EINVAL)
		return task_error(d, t, -ENOTSUP, "its main thread has ended and others run on, which can't be saved before Linux 6.9");
	if (t->mem_fd < 0 || t->pagemap_fd < 0 || t->pidfd < 0)
		return task_errno(d, t, -errno, "cannot open its memory");
	return 0;
}

/* Of a leader that has gone, name and exit code are all that is left. */
static int read_stat(struct task *t)
{
	struct proc_stat leader;
	int r = proc_read_stat(t->pid, &leader);

	if (!r && t->leader_gone)
		r = proc_read_stat(t->proc, &t->stat);
	if (r)
		return r;
	if (!t->leader_gone)
		t->stat = leader;
	memcpy(t->stat.comm, leader.comm, sizeof(leader.comm));
	if (t->leader_gone)
		t->exit_code = leader.exit_code;
	return 0;
}

/* What the kernel says of a process that is stopped. */
static int read_task(struct dump *d, struct task *t)
{
	int r = read_stat(t);

	if (r)
		return task_errno(d, t, r, "it ended while it was being stopped");
	take_ids(t);
	r = open_task(d, t);
	if (r)
		return r;
	for (size_t i = 0; i < t->threads.count; i++) {
		struct thread *thread = t->threads.data[i];
		r = leave_sequence(t, thread);
		if (r)
			return task_errno(d, t, r, "cannot read the rseq area of its thread %d", thread->tid);
		r = proc_read_thread_status(t->pid, thread->tid, &thread->status);
		if (r)
			return task_errno(d, t, r, "cannot read the status of its thread %d", thread->tid);
		if (thread->tracee.regs.cs == USER_CS_32)
			return task_error(d, t, -ENOTSUP, "it is a 32-bit program, which is not supported; run a 64-bit build of it");
		if (thread->tracee.stop_signal != t->threads.data[0]->tracee.stop_signal)
			return task_error(d, t, -EAGAIN, "it is being stopped by a signal at this moment; try again");
		r = tracee_get_dispatch(&thread->tracee, &thread->tracee.dispatch);
		if (r)
			return task_errno(d, t, r, "cannot read the dispatch of system calls of its thread %d", thread->tid);
		struct proc_status *s = &thread->status;
		if (s->seccomp && t->leader_gone)
			return task_error(d, t, -ENOTSUP, "its main thread has ended and others run on under seccomp, which has no way to be saved");
		thread->tracee.quiet_signal =
			agent_quiet_signal(s->sig_cgt, s->sig_ign, thread->tracee.sigmask, s->sig_pnd | s->shd_pnd);
		if (s->seccomp && ptrace(PTRACE_SETOPTIONS, thread->tid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP) < 0)
			return task_errno(d, t, -errno, "cannot put its seccomp filter aside");
	}
	if (t->threads.data[0]->tracee.stop_signal) {
		t->state = TASK_STOPPED;
		t->stop_signal = t->threads.data[0]->tracee.stop_signal;
	}
	return 0;
}

static bool leader_is_gone(const struct task *t)
{
	struct proc_stat stat;

	return !proc_read_stat(t->pid, &stat) && stat.state == 'Z' && stat.num_threads > 1;
}

static void drop_leader(struct task *t)
{
	t->leader_gone = true;
	if (!t->threads.count || t->threads.data[0]->tid != t->pid)
		return;
	free(t->threads.data[0]);
	t->threads.count--;
	memmove(&t->threads.data[0], &t->threads.data[1], t->threads.count * sizeof(t->threads.data[0]));
}

static int freeze_task(struct dump *d, struct task *t)
{
	int r = proc_read_stat(t->pid, &t->stat);

	if (r == -ENOENT || r == -ESRCH)
		return t->parent ? 1 : error_set(d->e, -ESRCH, "there is no process %d; see ps for those that are running", t->pid);
	if (r)
		return task_errno(d, t, r, "cannot read its stat");
	if (t->stat.flags & PF_KTHREAD)
		return task_error(d, t, -EINVAL, "it is a kernel thread, which has no state of its own to save; name the process of a program");
	take_ids(t);
	if (t->stat.state == 'Z' && t->stat.num_threads <= 1) {
		if (!t->parent)
			return task_error(d, t, -EINVAL, "it has already ended (zombie): there is nothing to save, its parent has to reap it");
		t->state = TASK_DEAD;
		t->exit_code = (int)t->stat.exit_code;
		return 0;
	}
	if (t->stat.state == 'Z')
		drop_leader(t);
	do {
		r = seize_threads(d, t);
		if (r == -ESRCH && !t->leader_gone && leader_is_gone(t)) { /* in this moment */
			drop_leader(t);
			r = 1;
		}
	} while (r > 0);
	if (r == -ESRCH || (!r && !t->threads.count)) { /* it ended just now: look again */
		t->threads.count = 0;
		t->leader_gone = false;
		return freeze_task(d, t);
	}
	if (!r && t->leader_gone)
		t->proc = t->threads.data[0]->tid;
	return r ? r : read_task(d, t);
}

/* The children of one process that are not known yet: frozen and added. Gives how many. */
static int freeze_children(struct dump *d, struct task *t)
{
	int found = 0, r = 0;

	for (size_t i = 0; !r && i < t->threads.count; i++) {
		struct proc_pids children = {};
		r = proc_list_children(t->pid, t->threads.data[i]->tid, &children);
		if (r)
			r = task_errno(d, t, r, "cannot list its children");
		for (size_t k = 0; !r && k < children.count; k++) {
			struct task *child;
			if (find_task(d, children.data[k]))
				continue;
			r = add_task(d, children.data[k], t, &child);
			if (!r)
				r = freeze_task(d, child);
			if (r == 1) { /* gone and reaped in between */
				d->tasks.count--;
				free(child);
				r = 0;
			} else if (!r) {
				found++;
			} else if (!(r = dump_part(d, r))) {
				child->refused = true;
				found++;
			}
		}
		VEC_FREE(&children);
	}
	return r ? r : found;
}

/* The tree would hold us, who can't save ourselves. */
static int refuse_ancestor(struct dump *d, struct task *root)
{
	struct proc_stat stat = {};
	pid_t pid = getpid();

	while (pid > 0 && pid != root->pid)
		pid = proc_read_stat(pid, &stat) ? 0 : stat.ppid;
	if (pid <= 0)
		return 0;
	if (pid == getpid())
		return error_set(d->e, -EINVAL, "it is this command itself; name another process");
	return error_set(d->e, -EINVAL, "this command runs below it and would be saved with it; run it from elsewhere, by another session");
}

static int check_root(struct dump *d)
{
	struct task *root;
	int r = add_task(d, d->request->pid, NULL, &root);

	if (!r)
		r = refuse_ancestor(d, root);
	if (r)
		return r;
	r = proc_read_stat(root->pid, &root->stat);
	if (!r && root->stat.session != root->pid && !d->request->shell_job && !(root->stat.flags & PF_KTHREAD))
		r = dump_part(d, task_error(d, root, -EINVAL, "it belongs to session %d, which is not saved with it; use --shell-job",
					    (int)root->stat.session));
	else
		r = 0;
	if (!r)
		r = freeze_task(d, root);
	if (r >= 0 || !root->threads.count)
		return r;
	root->refused = true;
	return dump_part(d, r);
}

int tree_freeze(struct dump *d)
{
	int found, r = check_root(d);

	if (r)
		return r;
	/* A child that is found late may have come from a process that was looked at before: until a whole round is quiet. */
	do {
		found = 0;
		for (size_t i = 0; i < d->tasks.count; i++) {
			int n = freeze_children(d, d->tasks.data[i]);
			if (n < 0)
				return n;
			found += n;
		}
	} while (found);
	size_t threads = 0;
	for (size_t i = 0; i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i];
		threads += t->threads.count;
		/* Zombies may have died, and parents changed, while others were being stopped. */
		r = read_stat(t);
		if (r)
			return task_errno(d, t, r, "it ended");
		take_ids(t);
		t->parent = i ? find_task(d, t->ppid) : NULL;
		if (i && !t->parent)
			return task_error(d, t, -EAGAIN, "its parent changed while the tree was being stopped; try again");
	}
	log_info("Stopped %zu processes with %zu threads", d->tasks.count, threads);
	return 0;
}

static void task_free(struct task *t)
{
	for (size_t i = 0; i < t->threads.count; i++)
		free(t->threads.data[i]);
	VEC_FREE(&t->threads);
	VEC_FREE(&t->timers);
	VEC_FREE(&t->rings);
	proc_maps_finish(&t->maps);
	if (t->mem_fd >= 0)
		close(t->mem_fd);
	if (t->pagemap_fd >= 0)
		close(t->pagemap_fd);
	if (t->pidfd >= 0)
		close(t->pidfd);
	free(t);
}

void tree_thaw(struct dump *d)
{
	for (size_t i = d->tasks.count; i-- > 0;) {
		struct task *t = d->tasks.data[i];
		for (size_t k = t->threads.count; k-- > 0;)
			tracee_detach(&t->threads.data[k]->tracee);
		task_free(t);
	}
	VEC_FREE(&d->tasks);
}

void tree_kill(struct dump *d)
{
	/* Children first: a parent that is still there does not get to see them end, all are stopped. */
	for (size_t i = d->tasks.count; i-- > 0;)
		if (d->tasks.data[i]->state != TASK_DEAD)
			kill(d->tasks.data[i]->pid, SIGKILL);
	/* They are gone when this returns: whoever restores at once finds their ids free, once their parents have reaped them. */
	for (size_t i = d->tasks.count; i-- > 0;) {
		struct task *t = d->tasks.data[i];
		for (size_t k = t->threads.count; k-- > 0;) {
			int status;
			while (waitpid(t->threads.data[k]->tid, &status, __WALL) > 0 && !WIFEXITED(status) && !WIFSIGNALED(status))
				;
			t->threads.data[k]->tracee.seized = false;
		}
	}
}
