/* Probes of what makes processes and of what they are asked. */
#include "engine/constants.h"
#include "engine/kernel.h"
#include "engine/probe/probe.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2
#endif
#ifndef __NR_close_range
#define __NR_close_range 436
#endif

/* A pid that was free a moment ago is asked for again. */
int probe_clone3(struct probe_ground *g)
{
	for (int tries = 0; tries < 20; tries++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) < 0)
			return -errno;
		struct clone_args args = { .exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1 };
		long child = syscall(__NR_clone3, &args, sizeof(args));
		if (child == 0)
			_exit(0);
		if (child > 0)
			return waitpid((pid_t)child, NULL, 0) < 0 ? -errno : child == pid ? 0 : -ENOTSUP;
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

int probe_kcmp(struct probe_ground *g)
{
	_cleanup_close_ int copy = dup(0);
	long same = syscall(__NR_kcmp, getpid(), getpid(), KCMP_FILE, 0, copy >= 0 ? copy : 0);

	return same < 0 && errno != EBADF ? -errno : 0;
}

static int take_descriptor(pid_t pid)
{
	_cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int pidfd = (int)syscall(__NR_pidfd_open, getpid(), 0);
	_cleanup_close_ int copy = pidfd < 0 ? -1 : (int)syscall(__NR_pidfd_getfd, pidfd, fd, 0);

	return copy < 0 ? -errno : 0;
}

int probe_pidfd(struct probe_ground *g)
{
	return take_descriptor(getpid());
}

int probe_children(struct probe_ground *g)
{
	struct proc_pids children = {};
	int r = proc_list_children(getpid(), getpid(), &children);

	VEC_FREE(&children);
	return r;
}

int probe_timers_file(struct probe_ground *g)
{
	struct proc_timers timers = {};
	int r = proc_read_timers(getpid(), &timers);

	VEC_FREE(&timers);
	return r;
}

int probe_mm_map(struct probe_ground *g)
{
	unsigned int size = 0;

	return prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) < 0 ? -errno : 0;
}

int probe_close_range(struct probe_ground *g)
{
	return syscall(__NR_close_range, ~0U, ~0U, 0) < 0 ? -errno : 0;
}

int probe_timer_ids(struct probe_ground *g)
{
	return prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) < 0 ? -errno : 0;
}

/* A child gets clocks of its own, which stand a second ahead. */
int probe_clocks(struct probe_ground *g)
{
	static const char ahead[] = "monotonic 1 0\n";
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		_cleanup_close_ int fd = unshare(CLONE_NEWTIME) < 0 ? -1 : open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
		_exit(fd >= 0 && write(fd, ahead, sizeof(ahead) - 1) == (ssize_t)sizeof(ahead) - 1 ? 0 : errno);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
}

int probe_mdwe(struct probe_ground *g)
{
	return prctl(PR_GET_MDWE, 0, 0, 0, 0) < 0 ? -errno : 0;
}

int probe_memory_merge(struct probe_ground *g)
{
	return prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) < 0 ? -errno : 0;
}

/* Our own name, as it stands there. */
int probe_kernel_memory(struct probe_ground *g)
{
	_cleanup_close_ int fd = open("/proc/thread-self", O_PATH | O_CLOEXEC);
	char comm[16] = "";
	struct kernel *k;
	uint64_t task;

	if (fd < 0 || prctl(PR_GET_NAME, comm) < 0)
		return -errno;
	int r = kernel_open(&k);
	if (r)
		return r;
	r = kernel_task(k, fd, comm, &task);
	kernel_close(k);
	return r;
}
