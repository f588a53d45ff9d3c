/* Probes of what a tracer may do, and of our privileges. */
#include "engine/probe/probe.h"
#include "proc/proc.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

struct capability {
	int number;
	const char *name;
};

static const struct capability basic[] = {
	{ CAP_SYS_ADMIN, "SYS_ADMIN" }, { CAP_SYS_PTRACE, "SYS_PTRACE" }, { CAP_DAC_OVERRIDE, "DAC_OVERRIDE" },
	{ CAP_SETUID, "SETUID" },	{ CAP_SETGID, "SETGID" },	  { CAP_SETPCAP, "SETPCAP" },
	{ CAP_KILL, "KILL" },
};

static const struct capability further[] = {
	{ CAP_SYS_RESOURCE, "SYS_RESOURCE" }, { CAP_CHOWN, "CHOWN" },	      { CAP_DAC_READ_SEARCH, "DAC_READ_SEARCH" },
	{ CAP_FOWNER, "FOWNER" },	      { CAP_NET_ADMIN, "NET_ADMIN" }, { CAP_SYS_CHROOT, "SYS_CHROOT" },
	{ CAP_SYS_NICE, "SYS_NICE" },	      { CAP_IPC_LOCK, "IPC_LOCK" },   { CAP_MKNOD, "MKNOD" },
};

static int check_capabilities(struct probe_ground *g, const struct capability *list, size_t count)
{
	struct proc_status status;
	char missing[400] = "";
	int r = proc_read_status(getpid(), &status);

	for (size_t i = 0; !r && i < count; i++)
		if (!(status.cap_eff >> list[i].number & 1)) {
			size_t used = strlen(missing);
			snprintf(missing + used, sizeof(missing) - used, " CAP_%s", list[i].name);
		}
	return r ? r : *missing ? error_set(g->e, -EPERM, "not held:%s", missing) : 0;
}

int probe_capabilities(struct probe_ground *g)
{
	return check_capabilities(g, basic, ARRAY_SIZE(basic));
}

int probe_further_capabilities(struct probe_ground *g)
{
	return check_capabilities(g, further, ARRAY_SIZE(further));
}

int probe_on_tracee(int (*fn)(pid_t pid))
{
	int status;
	pid_t parent = getpid(), pid = fork();

	if (pid < 0)
		return -errno;
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	int r = ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_EXITKILL) < 0 || ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0 ? -errno : 0;
	if (!r && (waitpid(pid, &status, __WALL) < 0 || !WIFSTOPPED(status)))
		r = -ECHILD;
	if (!r)
		r = fn(pid);
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, __WALL) == pid && WIFSTOPPED(status))
		;
	return r;
}

static int read_mask(pid_t pid)
{
	uint64_t mask;

	return ptrace(PTRACE_GETSIGMASK, pid, sizeof(mask), &mask) < 0 || ptrace(PTRACE_SETSIGMASK, pid, sizeof(mask), &mask) < 0 ? -errno : 0;
}

int probe_ptrace(struct probe_ground *g)
{
	return probe_on_tracee(read_mask);
}

static int read_xstate(pid_t pid)
{
	static unsigned char area[1 << 16];
	struct iovec v = { area, sizeof(area) };

	return ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &v) < 0 ? -errno : 0;
}

int probe_xstate(struct probe_ground *g)
{
	return probe_on_tracee(read_xstate);
}

static int read_siginfo(pid_t pid)
{
	struct __ptrace_peeksiginfo_args args = { .nr = 1 };
	siginfo_t info;

	return ptrace(PTRACE_PEEKSIGINFO, pid, &args, &info) < 0 ? -errno : 0;
}

int probe_siginfo(struct probe_ground *g)
{
	return probe_on_tracee(read_siginfo);
}

/* Memory that the process itself can't write: the agent's way in is in the vdso. */
static const char unwritable[] = "unwritable";

static int write_unwritable(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 || pwrite(fd, "w", 1, (off_t)(uintptr_t)unwritable) < 0 ? -errno : 0;
}

int probe_force_write(struct probe_ground *g)
{
	return probe_on_tracee(write_unwritable);
}

static int read_rseq(pid_t pid)
{
	struct __ptrace_rseq_configuration rseq;

	return ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, sizeof(rseq), &rseq) < 0 ? -errno : 0;
}

int probe_rseq(struct probe_ground *g)
{
	return probe_on_tracee(read_rseq);
}

static int read_filter(pid_t pid)
{
	/* It has none: a kernel that knows the request says EINVAL or ENOENT, others EIO. */
	return ptrace(PTRACE_SECCOMP_GET_FILTER, pid, 0, 0) < 0 && errno != EINVAL && errno != ENOENT ? -errno : 0;
}

int probe_seccomp_filters(struct probe_ground *g)
{
	return probe_on_tracee(read_filter);
}

static int suspend(pid_t pid)
{
	return ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_SUSPEND_SECCOMP) < 0 ? -errno : 0;
}

int probe_seccomp_suspend(struct probe_ground *g)
{
	return probe_on_tracee(suspend);
}
