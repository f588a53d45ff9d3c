/* See fork.h. */
#include "base/fork.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

/* What the C library's own fork does beside the call: it keeps the id of each thread in memory, where robust mutexes take it from, and the kernel forgets the list
 * of these. */
pid_t fork_with(uint64_t flags, pid_t pid)
{
	struct clone_args args = { .flags = flags | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD };
	struct robust_list_head *robust = NULL;
	uint64_t id_address = 0;
	size_t size = 0;

	if (prctl(PR_GET_TID_ADDRESS, &id_address) < 0 || syscall(__NR_get_robust_list, 0, &robust, &size) < 0)
		return -errno;
	args.child_tid = id_address;
	if (pid) {
		args.set_tid = (uint64_t)&pid;
		args.set_tid_size = 1;
	}
	fflush(NULL);
	long child = syscall(__NR_clone3, &args, sizeof(args));
	if (child == 0 && robust)
		syscall(__NR_set_robust_list, robust, size);
	return child < 0 ? -errno : (pid_t)child;
}
