/*
 * PR_SET_SYSCALL_USER_DISPATCH before Linux 6.4, where neither ptrace(2) nor the thread itself can ask for it: a process that has it is refused. It
 * can't be given the agent either, whose calls would be sent to the process's own handler. The kernel's structs tell (kernel.h). Only
 * processes that catch SIGSYS are looked at, since that is how they get their calls.
 */
#include "engine/kernel.h"
#include "engine/task/task.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_OFF 0
#endif
#define THREADS_MAX (1U << 22)

struct layout {
	int context, tasks, links, signal, head, node, pid, info, work;
	int bit; /* of the work */
};

static int find_layout(const struct kernel *k, struct layout *l)
{
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->context, "file", "private_data" },      { &l->tasks, "pid", "tasks" },
		{ &l->links, "task_struct", "pid_links" },    { &l->signal, "task_struct", "signal" },
		{ &l->head, "signal_struct", "thread_head" }, { &l->node, "task_struct", "thread_node" },
		{ &l->pid, "task_struct", "pid" },	      { &l->info, "task_struct", "thread_info" },
		{ &l->work, "thread_info", "syscall_work" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0)
			return -ENOTSUP;
	l->bit = kernel_enumerator(k, "syscall_work_bit", "SYSCALL_WORK_BIT_SYSCALL_USER_DISPATCH");
	return l->bit < 0 || l->bit > 31 ? -ENOTSUP : 0;
}

static int follow(struct kernel *k, uint64_t *at, int offset)
{
	return kernel_read(k, *at + (uint64_t)offset, at, sizeof(*at));
}

/* The task_struct of a process: a pidfd's file has its struct pid, whose first list has it alone. */
static int find_leader(struct kernel *k, const struct layout *l, pid_t pid, uint64_t *ret)
{
	_cleanup_close_ int fd = (int)syscall(__NR_pidfd_open, pid, 0);
	int32_t seen = 0;
	int r = fd < 0 ? -errno : kernel_file(k, fd, ret);

	if (!r)
		r = follow(k, ret, l->context);
	if (!r)
		r = follow(k, ret, l->tasks);
	*ret -= (uint64_t)l->links;
	if (!r)
		r = kernel_read(k, *ret + (uint64_t)l->pid, &seen, sizeof(seen));
	return r ? r : seen == pid ? 0 : -ENOTSUP;
}

/* Gives the first thread that has it switched on, or 0. `count`: how many threads there are to be found. */
static int find_thread(struct kernel *k, pid_t pid, size_t count, pid_t *ret)
{
	struct layout l;
	uint64_t leader = 0;
	size_t seen = 0;
	int r = find_layout(k, &l);

	if (!r)
		r = find_leader(k, &l, pid, &leader);
	uint64_t head = leader;
	if (!r)
		r = follow(k, &head, l.signal);
	head += (uint64_t)l.head;
	uint64_t at = head;
	*ret = 0;
	while (!r && !(r = follow(k, &at, 0)) && at != head && seen++ < THREADS_MAX) {
		const uint64_t task = at - (uint64_t)l.node;
		int32_t tid = 0;
		uint32_t work = 0;
		r = kernel_read(k, task + (uint64_t)l.pid, &tid, sizeof(tid));
		if (!r)
			r = kernel_read(k, task + (uint64_t)l.info + (uint64_t)l.work, &work, sizeof(work));
		if (!r && work & 1U << l.bit && !*ret)
			*ret = tid;
	}
	return r ? r : seen == count ? 0 : -ENOTSUP;
}

int dispatch_refuse_untold(struct dump *d, struct task *t)
{
	struct kernel *k = NULL;
	pid_t found = 0;

	if (!(t->threads.data[0]->status->sig_cgt & 1ULL << (SIGSYS - 1)) ||
	    prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) < 0) /* before 5.11 there is no such thing */
		return 0;
	int r = kernel_open(&k);
	if (!r)
		r = find_thread(k, t->proc, t->threads.count, &found);
	kernel_close(k);
	if (r == -ENOMEM)
		return task_errno(d, t, r, "cannot look for its dispatch of system calls");
	if (r)
		return task_errno(d, t, -ENOTSUP, "it catches SIGSYS, and before Linux 6.4 nothing tells whether its system calls are dispatched to it, but BTF, BPF and "
				  "CAP_BPF, which are missing (%s)", strerror(-r));
	if (found)
		return task_error(d, t, -ENOTSUP, "system calls of its thread %d are dispatched to it (PR_SET_SYSCALL_USER_DISPATCH), which can't be saved before Linux 6.4",
				  found);
	return 0;
}
