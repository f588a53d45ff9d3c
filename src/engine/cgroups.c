/* See cgroups.h: hierarchies, and which of their settings are saved. */
#include "engine/cgroups.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>

/* In the order in which they are set: of two that bound each other the wider first. */
static const struct setting {
	const char *controller; /* "": version 2; NULL: every one of version 1 */
	const char *name;
} settings[] = {
	{ "", "cgroup.subtree_control" },
	{ "", "cgroup.max.descendants" },
	{ "", "cgroup.max.depth" },
	{ "", "cpuset.cpus" },
	{ "", "cpuset.mems" },
	{ "", "cpuset.cpus.partition" },
	{ "", "cpu.max" },
	{ "", "cpu.weight" },
	{ "", "cpu.idle" },
	{ "", "memory.max" },
	{ "", "memory.high" },
	{ "", "memory.low" },
	{ "", "memory.min" },
	{ "", "memory.swap.max" },
	{ "", "memory.oom.group" },
	{ "", "io.weight" },
	{ "", "io.max" },
	{ "", "pids.max" },
	{ "cpuset", "cpuset.cpus" },
	{ "cpuset", "cpuset.mems" },
	{ "cpuset", "cpuset.memory_migrate" },
	{ "cpuset", "cpuset.cpu_exclusive" },
	{ "cpuset", "cpuset.mem_exclusive" },
	{ "cpuset", "cpuset.mem_hardwall" },
	{ "cpuset", "cpuset.memory_spread_page" },
	{ "cpuset", "cpuset.memory_spread_slab" },
	{ "cpuset", "cpuset.sched_load_balance" },
	{ "cpuset", "cpuset.sched_relax_domain_level" },
	{ "cpu", "cpu.shares" },
	{ "cpu", "cpu.cfs_period_us" },
	{ "cpu", "cpu.cfs_quota_us" },
	{ "cpu", "cpu.rt_period_us" },
	{ "cpu", "cpu.rt_runtime_us" },
	{ "memory", "memory.limit_in_bytes" },
	{ "memory", "memory.memsw.limit_in_bytes" },
	{ "memory", "memory.soft_limit_in_bytes" },
	{ "memory", "memory.swappiness" },
	{ "blkio", "blkio.weight" },
	{ "blkio", "blkio.bfq.weight" },
	{ "net_cls", "net_cls.classid" },
	{ "net_prio", "net_prio.ifpriomap" },
	{ "pids", "pids.max" },
	{ "devices", "devices.list" },
	{ NULL, "cgroup.clone_children" },
	{ NULL, "notify_on_release" },
};

static bool has_controller(const char *names, const char *controller)
{
	const size_t size = strlen(controller);

	if (!names[0] || !size)
		return !names[0] && !size;
	for (const char *at = names; at; at = strchr(at, ',')) {
		at += *at == ',';
		if (!strncmp(at, controller, size) && (!at[size] || at[size] == ','))
			return true;
	}
	return false;
}

const char *cgroups_setting(const char *names, size_t i)
{
	for (size_t k = 0; k < ARRAY_SIZE(settings); k++) {
		const struct setting *s = &settings[k];
		if (s->controller ? has_controller(names, s->controller) : names[0] != '\0')
			if (!i--)
				return s->name;
	}
	return NULL;
}

static int configure(int fs, const char *names)
{
	_cleanup_free_ char *copy = strdup(names);
	char *rest = NULL;

	if (!copy)
		return -ENOMEM;
	if (!strncmp(names, "name=", 5))
		return syscall(__NR_fsconfig, fs, FSCONFIG_SET_STRING, "name", names + 5, 0) < 0 || syscall(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, "none", NULL, 0) < 0 ? -errno : 0;
	for (char *one = strtok_r(copy, ",", &rest); one; one = strtok_r(NULL, ",", &rest))
		if (syscall(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, one, NULL, 0) < 0)
			return -errno;
	return 0;
}

int cgroups_mount(const char *names)
{
	_cleanup_close_ int fs = (int)syscall(__NR_fsopen, names[0] ? "cgroup" : "cgroup2", FSOPEN_CLOEXEC);
	int r = fs < 0 ? -errno : configure(fs, names);

	if (r)
		return r;
	if (syscall(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	int fd = (int)syscall(__NR_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}
