/*
 * Freezing a tree: every thread of every process is seized and stopped with ptrace(2), the lists are read again until
 * nothing new turns up. A thread that is being created while its creator is stopped appears on the next reading; once all
 * threads of all processes are stopped nothing new can.
 *
 * Children are found through /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN); whether there are any shows in the kernel's memory, too.
 */
#include "base/log.h"
#include "base/workers.h"
#include "engine/kinds/kind.h"
#include "engine/task/calls.h"
#include "engine/task/insight.h"
#include "proc/freezer.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PF_KTHREAD 0x00200000
#define TIMEOUT_S 10 /* as criu has it */
#define PF_WORKERS 0x4010 /* PF_USER_WORKER, PF_IO_WORKER: threads that the kernel has made in the process */

void thread_free(struct thread *th)
{
	free(th->status);
	free(th);
}

int thread_read_status(struct thread *th)
{
	int r = thread_make_status(th) ? proc_read_thread_status(th->task->pid, th->tid, th->status) : -ENOMEM;

	th->status_read = !r;
	return r;
}

/* Lets go of its threads. */
static void release_threads(struct task *t)
{
	for (size_t k = t->threads.count; k-- > 0;) {
		tracee_detach(&t->threads.data[k]->tracee);
		files_table_free(t->threads.data[k]->table);
		thread_free(t->threads.data[k]);
	}
	t->threads.count = 0;
	t->leader_gone = false;
}

static void task_free(struct task *t)
{
	release_threads(t);
	VEC_FREE(&t->threads);
	free(t->descriptions);
	free(t->schedule);
	free(t->insight.open);
	VEC_FREE(&t->insight.areas);
	VEC_FREE(&t->timers);
	VEC_FREE(&t->rings);
	VEC_FREE(&t->urings);
	VEC_FREE(&t->undo);
	proc_maps_finish(&t->maps);
	task_ask_free(t);
	task_view_free(t);
	if (t->mem_fd >= 0)
		close(t->mem_fd);
	if (t->pagemap_fd >= 0)
		close(t->pagemap_fd);
	if (t->pidfd >= 0)
		close(t->pidfd);
	free(t);
}

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

static int dump_timeout(const struct dump *d)
{
	return d->request->timeout_s > 0 ? d->request->timeout_s : TIMEOUT_S;
}

static void take_ids(struct task *t)
{
	t->ppid = t->stat.ppid;
	t->pgid = t->stat.pgrp;
	t->sid = t->stat.session;
}

static int add_thread(struct dump *d, struct task *t, pid_t tid)
{
	struct thread *thread = calloc(1, sizeof(*thread)), **slot = thread ? VEC_PUSH(&t->threads) : NULL;

	if (!slot) {
		free(thread);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	thread->task = t;
	thread->tid = tid;
	*slot = thread;
	return 0;
}

static void drop_last_thread(struct task *t)
{
	thread_free(t->threads.data[--t->threads.count]);
}

/* Seizes it and lets it stop. */
static int hold_thread(struct thread *thread)
{
	struct error ignored;
	int r = tracee_seize(&thread->tracee, thread->task->pid, thread->tid, 0, &ignored);

	return r ? r : tracee_interrupt(&thread->tracee);
}

static int seize_thread(struct dump *d, struct task *t, pid_t tid)
{
	struct proc_stat now;
	int r = add_thread(d, t, tid);

	if (r)
		return r;
	struct thread *thread = t->threads.data[t->threads.count - 1];
	r = hold_thread(thread);
	if (r == -EPERM && (proc_read_thread_stat(t->pid, tid, &now) || now.state == 'Z' || now.state == 'X'))
		r = -ESRCH;
	if (r == -ESRCH) { /* it has ended meanwhile */
		drop_last_thread(t);
		return tid != t->pid ? 0 : task_errno(d, t, r, "cannot stop its thread %d", tid);
	}
	if (r == -EPERM && thread_make_status(thread) && proc_read_status(t->pid, thread->status) == 0 && thread->status->tracer_pid)
		return task_error(d, t, -EBUSY, "it is being debugged by process %d; end that first", (int)thread->status->tracer_pid);
	return r ? task_errno(d, t, r, "cannot stop its thread %d", tid) : 0;
}

/*
 * Whether the kernel has made it, to do the process's io_uring requests: it must not be interrupted, which would end the request that it is
 * at. Such a thread has no robust list, as most others have; so only few need to be looked at.
 */
static bool is_worker(const struct task *t, pid_t tid)
{
	uint64_t list = 0;
	size_t size;
	struct proc_stat stat;

	if (tid == t->pid || (syscall(__NR_get_robust_list, tid, &list, &size) == 0 && list))
		return false;
	return !proc_read_thread_stat(t->pid, tid, &stat) && stat.flags & PF_WORKERS;
}

/* The child that a thread waits for in vfork(2), which nothing interrupts; or 0. */
static pid_t vfork_child(const struct task *t, pid_t tid)
{
	struct proc_pids children = {};
	pid_t found = 0;

	if (!proc_list_children(t->pid, tid, &children))
		for (size_t i = 0; i < children.count && !found; i++)
			if (syscall(__NR_kcmp, tid, children.data[i], KCMP_VM, 0, 0) == 0)
				found = children.data[i];
	VEC_FREE(&children);
	return found;
}

/* Seizes the threads that are not held yet, and lets them stop. Gives how many there were. */
static int seize_threads(struct dump *d, struct task *t)
{
	struct proc_pids tids = {};
	size_t before = t->threads.count;
	int r = proc_list_threads(t->pid, &tids);

	if (r)
		return task_errno(d, t, r, "cannot list its threads");
	for (size_t i = 0; !r && i < tids.count; i++) {
		bool known = t->leader_gone && tids.data[i] == t->pid;
		for (size_t k = 0; k < before && !known; k++)
			known = t->threads.data[k]->tid == tids.data[i];
		if (!known && !is_worker(t, tids.data[i]))
			r = seize_thread(d, t, tids.data[i]);
	}
	VEC_FREE(&tids);
	return r ? r : (int)(t->threads.count - before);
}

/* Waits until those that were seized have stopped. The leader last: the end of a process that is killed meanwhile is told by its leader,
 * once its other threads were waited for. */
static int wait_threads(struct dump *d, struct task *t)
{
	int r = 0;

	for (size_t i = t->threads.count; i-- > 0;) {
		struct thread *thread = t->threads.data[i];
		struct error why = {};
		thread->tracee.deadline = &d->deadline;
		int s = thread->tracee.stopping ? tracee_wait_stop(&thread->tracee, &why) : 0;
		if (!s)
			calls_mend(&thread->tracee);
		thread->tracee.deadline = NULL;
		if (s == -ETIMEDOUT) {
			pid_t waits_for = vfork_child(t, thread->tid);
			s = waits_for ? error_set(&why, -EBUSY, "its thread %d can't be stopped: it has called vfork and waits until process %d calls exec or ends; "
						  "try again then", thread->tid, waits_for) :
				error_set(&why, s, "its thread %d does not stop within %d s (it waits in the kernel for a disk or the network); "
					  "try again, or with a longer --timeout", thread->tid, dump_timeout(d));
			d->deadline = (struct timespec){}; /* nor are others waited for */
		}
		if (s == -ESRCH && thread->tid != t->pid) {
			memmove(&t->threads.data[i], &t->threads.data[i + 1], (t->threads.count - i - 1) * sizeof(thread));
			t->threads.count--;
			thread_free(thread);
		} else if (s && !r) {
			r = task_error(d, t, s, "%s", why.text);
		}
	}
	return r;
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

static bool leader_is_gone(const struct task *t)
{
	struct proc_stat stat;

	return !proc_read_stat(t->pid, &stat) && stat.state == 'Z' && stat.num_threads > 1;
}

static void drop_leader(struct task *t)
{
	t->leader_gone = true;
	if (t->pidfd >= 0) /* of the leader */
		close(t->pidfd);
	t->pidfd = -1;
	if (!t->threads.count || t->threads.data[0]->tid != t->pid)
		return;
	thread_free(t->threads.data[0]);
	t->threads.count--;
	memmove(&t->threads.data[0], &t->threads.data[1], t->threads.count * sizeof(t->threads.data[0]));
}

/*
 * A process that the freezer holds (`fermata freeze`) stops for us only once it is let go, and then before it runs: so first all of its
 * threads are seized, of which there are no new ones.
 */
static int take_from_freezer(struct dump *d, struct task *t)
{
	/* Many are in the groups that the one before is in. */
	const uint64_t group = insight_group(d, t);
	if (group && group == d->free_group)
		return 0;
	if (!freezer_holds(t->pid)) {
		d->free_group = group;
		return 0;
	}
	int r = seize_threads(d, t);
	if (r >= 0 && (r = freezer_release(t->pid)) < 0)
		return task_errno(d, t, r, "it is frozen, and cannot be taken out of the freezer");
	t->was_frozen |= r > 0;
	return MIN(r, 0);
}

/* As it was found, before it may run again. */
static void return_to_freezer(struct task *t)
{
	int r = t->was_frozen ? freezer_hold(t->pid) : 0;

	if (r)
		log_warning("process %d was frozen and runs again: it cannot be put back (%s)", t->pid, strerror(-r));
}

/* Begins to stop a process. Gives 1 for one that has gone. */
static int freeze_begin(struct dump *d, struct task *t)
{
	/* One that lets itself be seized is alive and has a state of its own: its other threads are for later. */
	int r = add_thread(d, t, t->pid);
	if (r || !hold_thread(t->threads.data[0]))
		return r ? r : take_from_freezer(d, t);
	drop_last_thread(t);
	r = proc_read_stat(t->pid, &t->stat);
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
	r = seize_threads(d, t);
	if (r >= 0)
		r = take_from_freezer(d, t);
	return r == -ESRCH ? 0 : MIN(r, 0); /* freeze_end looks again */
}

/* Until all threads that there are stand still. -ESRCH: there are none. */
static int stop_threads(struct dump *d, struct task *t)
{
	int r;

	for (;;) {
		struct proc_stat now;
		r = wait_threads(d, t);
		if (!r && (r = proc_read_stat(t->pid, &now)) && r != -ESRCH && r != -ENOENT)
			return task_errno(d, t, r, "cannot read its stat");
		/* None is born any more: as many as are held are all. */
		if (!r && t->threads.count && now.num_threads == t->threads.count + t->leader_gone) {
			t->stat = now;
			return 0;
		}
		if (!r)
			r = seize_threads(d, t);
		if (r == -ESRCH && !t->leader_gone && leader_is_gone(t)) /* in this moment */
			drop_leader(t);
		else if (r <= 0)
			break;
	}
	if (!r && t->threads.count)
		r = read_stat(t) ? -ESRCH : 0;
	return !r && !t->threads.count ? -ESRCH : r;
}

/* Waits until the process stands still. */
static int freeze_end(struct dump *d, struct task *t)
{
	int r = 0;

	for (int tries = 0; t->state != TASK_DEAD; tries++) {
		r = stop_threads(d, t);
		if (r != -ESRCH)
			break;
		if (tries == 100)
			return task_error(d, t, r, "it ended while it was being stopped");
		/* It ended just now: look again. */
		release_threads(t);
		r = freeze_begin(d, t);
		if (r)
			return r;
	}
	if (r || t->state == TASK_DEAD)
		return r;
	if (t->leader_gone) {
		t->proc = t->threads.data[0]->tid;
		if (read_stat(t))
			return task_error(d, t, -EAGAIN, "its threads ended while it was being stopped; try again");
	}
	take_ids(t);
	task_look_early(d, t);
	return 0;
}

/* Begins with the children of one process that are not known yet. */
static int freeze_children(struct dump *d, struct task *t)
{
	int r = 0;

	insight_look_for_children(d, t);
	for (size_t i = 0; !r && i < t->threads.count; i++) {
		struct proc_pids children = {};
		if (t->threads.data[i]->insight.childless)
			continue;
		r = proc_list_children(t->pid, t->threads.data[i]->tid, &children);
		if (r)
			r = task_errno(d, t, r, "cannot list its children");
		for (size_t k = 0; !r && k < children.count; k++) {
			struct task *child;
			if (find_task(d, children.data[k]))
				continue;
			r = add_task(d, children.data[k], t, &child);
			if (!r)
				r = freeze_begin(d, child);
			if (r == 1) { /* gone and reaped in between */
				d->tasks.count--;
				free(child);
				r = 0;
			} else if (r && !(r = dump_part(d, r))) {
				child->refused = true;
			}
		}
		VEC_FREE(&children);
	}
	return r;
}

/* Waits for those from `first` on. */
static int freeze_new(struct dump *d, size_t first)
{
	int r = 0;

	for (size_t i = first; !r && i < d->tasks.count;) {
		struct task *t = d->tasks.data[i];
		r = t->refused ? 0 : freeze_end(d, t);
		if (r == 1) {
			memmove(&d->tasks.data[i], &d->tasks.data[i + 1], (d->tasks.count - i - 1) * sizeof(t));
			d->tasks.count--;
			task_free(t);
			r = 0;
			continue;
		}
		if (r && !(r = dump_part(d, r)))
			t->refused = true;
		i++;
	}
	return r;
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
		r = freeze_begin(d, root);
	if (!r)
		r = freeze_end(d, root);
	if (r >= 0 || !root->threads.count)
		return r;
	root->refused = true;
	return dump_part(d, r);
}

/* The children of those from `first` on, theirs, and so on: a generation at once. */
static int freeze_generations(struct dump *d, size_t first)
{
	int r = 0;

	for (size_t end = d->tasks.count; !r && first < end; first = end, end = d->tasks.count) {
		for (size_t i = first; !r && i < end; i++)
			r = freeze_children(d, d->tasks.data[i]);
		if (!r)
			r = freeze_new(d, end);
	}
	return r;
}

int tree_freeze(struct dump *d)
{
	struct timespec now;
	size_t before = 1;
	int r;

	clock_gettime(CLOCK_MONOTONIC, &d->deadline);
	d->deadline.tv_sec += dump_timeout(d);
	r = check_root(d);
	if (!r)
		r = freeze_generations(d, 0);
	/* A child that is found late may have come from a process that was looked at before: until a whole round is quiet. */
	while (!r && d->tasks.count != before) {
		before = d->tasks.count;
		r = freeze_generations(d, 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (!r && d->tasks.count != before && now.tv_sec > d->deadline.tv_sec)
			r = error_set(d->e, -ETIMEDOUT, "the tree has new processes as fast as they are stopped, for %d s; try again, or with a longer --timeout",
				      dump_timeout(d));
	}
	if (r)
		return r;
	size_t threads = 0;
	for (size_t i = 0; i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i];
		threads += t->threads.count;
		/* What could not be stopped may have changed since. */
		if (t->state == TASK_DEAD || t->refused) {
			r = read_stat(t);
			if (r)
				return task_errno(d, t, r, "it ended");
			take_ids(t);
		}
		t->parent = i ? find_task(d, t->ppid) : NULL;
		if (i && !t->parent)
			return task_error(d, t, -EAGAIN, "its parent changed while the tree was being stopped; try again");
	}
	log_info("Stopped %zu processes with %zu threads", d->tasks.count, threads);
	return 0;
}

int tree_check_whole(struct dump *d)
{
	unsigned long message;

	for (size_t i = 0; i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i];
		if (t->state == TASK_DEAD || t->refused || !t->threads.count)
			continue;
		/* Whoever has been sent SIGKILL is not to be traced any more, long before it can be waited for. */
		if (ptrace(PTRACE_GETEVENTMSG, t->threads.data[0]->tid, 0, &message) < 0)
			return task_error(d, t, -errno, "it was killed while it was being saved");
	}
	return 0;
}

void tree_let_go(struct dump *d)
{
	if (d->workers) /* who may look at a task */
		workers_wait(d->workers);
	for (size_t i = d->tasks.count; i-- > 0;) {
		struct task *t = d->tasks.data[i];
		return_to_freezer(t);
		for (size_t k = t->threads.count; k-- > 0;)
			tracee_detach(&t->threads.data[k]->tracee);
	}
}

void tree_thaw(struct dump *d)
{
	if (d->workers) /* who may look at a task */
		workers_wait(d->workers);
	for (size_t i = d->tasks.count; i-- > 0;) {
		return_to_freezer(d->tasks.data[i]);
		task_free(d->tasks.data[i]);
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
		t->was_frozen = false;
		for (size_t k = t->threads.count; k-- > 0;) {
			int status;
			while (waitpid(t->threads.data[k]->tid, &status, __WALL) > 0 && !WIFEXITED(status) && !WIFSIGNALED(status))
				;
			t->threads.data[k]->tracee.seized = false;
		}
	}
}
