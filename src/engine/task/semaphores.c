/*
 * System V semaphores, semop(2): what a process has to undo at its end (SEM_UNDO). The sets themselves live on outside the processes
 * (sysv_ipc.h). No call tells what is to be undone: kcmp(2) tells that a process has a list for it (one with threads always has), and the list
 * is looked at where the kernel keeps it (engine/kernel.h).
 *
 * A process that a dump ends undoes it then, so it can only be had again together with the values of the semaphores: with --host-ipc. Where
 * the kernel can't be looked at, one is refused that has a list and was the last to change some semaphore; left out is then one whose
 * semaphores others have changed since.
 */
#include "engine/task/state.h"

#include "base/apart.h"
#include "engine/kernel.h"
#include "engine/ns/ns.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define TABLE_MAX (16UL << 20)
#define LISTED_MAX 32000U /* sets there can be: SEMMNI */
#define SEMAPHORES_MAX 65536U
#define PIDFS_MAGIC 0x50494446

enum { HAS_LIST = 1, THREAD_DIFFERS = 2 };

/* In a process of its own, which has no list. */
static int call_kcmp(void *argument)
{
	const struct task *t = argument;
	int r = syscall(__NR_kcmp, (pid_t)syscall(__NR_getpid), t->proc, KCMP_SYSVSEM, 0, 0) ? HAS_LIST : 0;

	for (size_t i = 0; i < t->threads.count; i++)
		if (syscall(__NR_kcmp, t->proc, t->threads.data[i]->tid, KCMP_SYSVSEM, 0, 0))
			r |= THREAD_DIFFERS;
	return r;
}

/* ---- the list ---- */

/* Where the parts are that the kernel keeps it in. */
struct layout {
	int file, tasks, link, comm, list, first, next, set, values;
	bool apart; /* the values stand elsewhere (before Linux 6.8) */
};

static int find_layout(const struct kernel *k, bool pidfs, struct layout *l)
{
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->file, "file", pidfs ? "f_inode" : "private_data" }, { &l->tasks, "pid", "tasks" }, { &l->link, "task_struct", "pid_links" },
		{ &l->comm, "task_struct", "comm" }, { &l->list, "task_struct", "sysvsem" }, { &l->first, "sem_undo_list", "list_proc" },
		{ &l->next, "sem_undo", "list_proc" }, { &l->set, "sem_undo", "semid" }, { &l->values, "sem_undo", "semadj" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0)
			return -ENOTSUP;
	l->apart = kernel_is_pointer(k, "sem_undo", "semadj");
	return kernel_offset(k, "sysv_sem", "undo_list") ? -ENOTSUP : 0;
}

static int follow(struct kernel *k, uint64_t *at, int offset)
{
	return kernel_read(k, *at + (uint64_t)offset, at, sizeof(*at));
}

/* The process's own structure, by way of the descriptor that we have of it. */
static int find_task(struct kernel *k, const struct layout *l, const struct task *t, bool pidfs, uint64_t *ret)
{
	int private = kernel_offset(k, "inode", "i_private");
	char comm[17] = "";
	int r = kernel_file(k, t->pidfd, ret);

	if (!r)
		r = follow(k, ret, l->file);
	if (!r && pidfs)
		r = private < 0 ? -ENOTSUP : follow(k, ret, private);
	if (!r)
		r = follow(k, ret, l->tasks); /* the first of PIDTYPE_PID */
	if (r)
		return r;
	*ret -= (uint64_t)l->link;
	r = kernel_read(k, *ret + (uint64_t)l->comm, comm, 16);
	return r ? r : strncmp(comm, t->stat.comm, 15) ? -EBADMSG : 0;
}

static int take_values(struct kernel *k, struct task *t, int set, uint64_t at)
{
	struct semid_ds status;
	int16_t values[PAGE_SIZE / 2];

	if (semctl(set, 0, IPC_STAT, &status) < 0)
		return errno == EINVAL || errno == EIDRM ? 0 : -errno;
	if (status.sem_nsems > SEMAPHORES_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < status.sem_nsems; i++) {
		size_t in = i % ARRAY_SIZE(values), n = MIN(status.sem_nsems - i, ARRAY_SIZE(values));
		int r = in ? 0 : kernel_read(k, at + i * 2, values, n * 2);
		if (r)
			return r;
		struct semaphore_undo *u = values[in] ? VEC_PUSH(&t->undo) : NULL;
		if (values[in] && !u)
			return -ENOMEM;
		if (u)
			*u = (struct semaphore_undo){ set, (uint32_t)i, values[in] };
	}
	return 0;
}

static int take_list(struct kernel *k, const struct layout *l, struct task *t)
{
	const uint64_t head = t->undo_list + (uint64_t)l->first;
	uint64_t at = head;
	int r = follow(k, &at, 0);

	for (unsigned n = 0; !r && at != head; n++) {
		uint64_t values = at - (uint64_t)l->next + (uint64_t)l->values;
		int set;
		r = n < LISTED_MAX ? kernel_read(k, at - (uint64_t)l->next + (uint64_t)l->set, &set, sizeof(set)) : -EBADMSG;
		if (!r && l->apart)
			r = follow(k, &values, 0);
		if (!r && set >= 0)
			r = take_values(k, t, set, values);
		if (!r)
			r = follow(k, &at, 0);
	}
	return r;
}

static int read_list(struct task *t)
{
	struct kernel *k;
	struct statfs fs;
	struct layout l;
	uint64_t task = 0;
	int r = kernel_open(&k);

	if (r)
		return r;
	bool pidfs = fstatfs(t->pidfd, &fs) == 0 && fs.f_type == PIDFS_MAGIC;
	r = find_layout(k, pidfs, &l);
	if (!r)
		r = find_task(k, &l, t, pidfs, &task);
	if (!r)
		r = kernel_read(k, task + (uint64_t)l.list, &t->undo_list, sizeof(t->undo_list));
	if (!r)
		r = t->undo_list ? take_list(k, &l, t) : -EBADMSG;
	kernel_close(k);
	return r;
}

/* ---- what it means ---- */

static bool changed_last(int set, unsigned long count, pid_t pid)
{
	for (unsigned long i = 0; i < count; i++)
		if (semctl(set, (int)i, GETPID) == pid)
			return true;
	return false;
}

/* A set that this process was the last to change something in; -1: there is none. */
static int find_changed(const char *text, pid_t pid)
{
	unsigned long count;
	int set;

	for (const char *line = strchr(text, '\n'); line; line = strchr(line + 1, '\n'))
		if (sscanf(line, "%*d %d %*o %lu", &set, &count) == 2 && changed_last(set, count, pid))
			return set;
	return -1;
}

static int refuse_shared(struct dump *d, const struct task *t)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		if (d->tasks.data[i] != t && d->tasks.data[i]->undo_list == t->undo_list)
			return task_error(d, t, -ENOTSUP, "it shares with process %d what System V semaphores have to undo (CLONE_SYSVSEM), which is not saved; "
					  "let the program use semaphores of POSIX", d->tasks.data[i]->pid);
	return 0;
}

int semaphores_check(struct dump *d, struct task *t)
{
	_cleanup_free_ char *text = NULL;

	if (d->semaphores < 0 || read_file_at(AT_FDCWD, "/proc/sysvipc/sem", TABLE_MAX, &text, NULL))
		return 0;
	const bool saved = d->request->host_ipc || ns_is_own(d, CLONE_NEWIPC);
	/* All tasks are stopped: what is not there was not changed by any of them. */
	const char *end = strchr(text, '\n');
	d->semaphores = end && end[1] ? 1 : -1;
	int changed = find_changed(text, t->pid);
	if (d->semaphores < 0 || (changed < 0 && !saved))
		return 0;
	int lists = run_apart(NULL, call_kcmp, t), r = -ENOTSUP;
	if (!lists)
		return 0;
	if (lists == HAS_LIST && !t->leader_gone && t->pidfd >= 0)
		r = read_list(t);
	if (!r && !t->undo.count)
		return 0;
	if (!r && saved)
		return refuse_shared(d, t);
	if (!r)
		return task_error(d, t, -ENOTSUP, "it has changes of the System V semaphores %d to undo at its end (SEM_UNDO); use --host-ipc to save the "
				  "semaphores with it", t->undo.data[0].set);
	if (changed < 0)
		return 0;
	return task_error(d, t, -ENOTSUP, "it may have changes of the System V semaphores %d to undo at its end (SEM_UNDO), which this kernel does not let be "
			  "looked at (it takes BTF, BPF and CAP_BPF) or which a thread has apart; let the program use semaphores of POSIX", changed);
}
