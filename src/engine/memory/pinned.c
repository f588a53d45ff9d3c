/* See pinned.h. */
#include "engine/memory/pinned.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Devices that copy, as files do: memory (null, zero, full, random …) and terminals. */
static bool copies(dev_t device)
{
	unsigned int n = major(device);

	return n == 1 || n == 4 || n == 5 || (n >= 136 && n <= 143);
}

static const char *of_descriptor(pid_t pid, int fd)
{
	char path[64], target[64] = "";
	struct proc_fdinfo info;
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	if (readlink(path, target, sizeof(target) - 1) < 0)
		return NULL;
	if (!strncmp(target, "anon_inode:[io_uring]", sizeof(target)))
		return "io_uring";
	if (target[0] != '/' || stat(path, &st) < 0)
		return NULL;
	if (S_ISBLK(st.st_mode) || (S_ISCHR(st.st_mode) && !copies(st.st_rdev)))
		return "a device";
	return S_ISREG(st.st_mode) && proc_read_fdinfo(pid, fd, &info) == 0 && info.flags & O_DIRECT ? "a file opened with O_DIRECT" : NULL;
}

static const char *of_table(pid_t pid)
{
	struct proc_fds fds = {};
	const char *found = NULL;

	if (proc_list_fds(pid, &fds))
		return NULL; /* it has ended */
	for (size_t i = 0; !found && i < fds.count; i++)
		found = of_descriptor(pid, fds.data[i]);
	VEC_FREE(&fds);
	return found;
}

/* A thread may have a table of its own. */
static const char *of_threads(pid_t pid)
{
	struct proc_pids threads = {};
	const char *found = NULL;

	if (proc_list_threads(pid, &threads))
		return NULL;
	for (size_t i = 0; !found && i < threads.count; i++)
		if (threads.data[i] != pid && syscall(__NR_kcmp, pid, threads.data[i], KCMP_FILES, 0, 0) > 0)
			found = of_table(threads.data[i]);
	VEC_FREE(&threads);
	return found;
}

const char *pinned_by(pid_t pid, const struct proc_maps *maps)
{
	const char *found;

	for (size_t i = 0; i < maps->count; i++) {
		const char *name = maps->data[i].name ? maps->data[i].name : "";
		if (!strncmp(name, "/[aio]", 6))
			return "a ring for asynchronous i/o";
		if (!strncmp(name, "anon_inode:", 11) || !strncmp(name, "socket:", 7))
			return name[0] == 's' ? "a packet socket" : "a device";
		if (!strncmp(name, "/dev/", 5) && strncmp(name, "/dev/shm/", 9) && strncmp(name, "/dev/zero", 9) && strncmp(name, "/dev/hugepages", 14))
			return "a device";
	}
	found = of_table(pid);
	return found ? found : of_threads(pid);
}

bool pinned_is_watched(pid_t pid)
{
	static const char name[] = "anon_inode:[userfaultfd]";
	struct proc_fds fds = {};
	bool found = false;

	if (proc_list_fds(pid, &fds))
		return false;
	for (size_t i = 0; !found && i < fds.count; i++) {
		char path[64], target[64] = "";
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fds.data[i]);
		found = readlink(path, target, sizeof(target) - 1) > 0 && !strcmp(target, name);
	}
	VEC_FREE(&fds);
	return found;
}
