/* See fuzz.h. */
#include "fuzz.h"

#include "base/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);

#define REC 16384UL
#define PRIVATE (1UL << 18)
#define BIND 4096UL
#define REST (2UL | 4 | 8) /* nosuid, nodev, noexec */

static void need(bool good, const char *what)
{
	if (good)
		return;
	perror(what);
	_exit(77);
}

/* The rest runs in a child: a process enters a pid namespace only by birth, and the first one there is its init. */
static void enter(void)
{
	for (int i = 0; i < 2; i++) {
		int status = 0;
		pid_t pid = fork();
		need(pid >= 0, "fork");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			continue;
		}
		signal(SIGINT, SIG_IGN);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
}

static int set_attributes(const char *path, unsigned int flags, uint64_t set, uint64_t clear)
{
	struct mount_attr attributes = { .attr_set = set, .attr_clr = clear };

	return (int)syscall(__NR_mount_setattr, AT_FDCWD, path, flags, &attributes, sizeof(attributes));
}

/* Where libFuzzer writes: the directories among its arguments. */
static void each_directory(int argc, char **argv, void (*call)(const char *path))
{
	static const char artifacts[] = "-artifact_prefix=";
	struct stat st;

	for (int i = 1; i < argc; i++) {
		const char *path = strncmp(argv[i], artifacts, strlen(artifacts)) ? argv[i] : argv[i] + strlen(artifacts);
		if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			call(path);
	}
}

static void make_mount(const char *path)
{
	need(mount(path, path, NULL, BIND, NULL) == 0, path);
}

static void make_writable(const char *path)
{
	need(set_attributes(path, 0, 0, MOUNT_ATTR_RDONLY) == 0, path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static bool done;

	if (done)
		return 0;
	done = true;
	need(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWPID) == 0, "the sandbox needs root: unshare");
	enter();
	need(mount(NULL, "/", NULL, REC | PRIVATE, NULL) == 0, "mount /");
	each_directory(*argc, *argv, make_mount);
	need(mount("proc", "/proc", "proc", REST, NULL) == 0, "mount /proc");
	need(set_attributes("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, 0) == 0, "mount_setattr");
	each_directory(*argc, *argv, make_writable);
	need(mount("fuzz", SANDBOX, "tmpfs", REST, "size=256m") == 0, "mount tmpfs");
	fuzz_write(SANDBOX "/file", "", 0);
	need(truncate(SANDBOX "/file", 65536) == 0, "truncate");
	return 0;
}

void fuzz_write(const char *path, const void *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	need(fd >= 0 && write(fd, data, size) == (ssize_t)size, path);
	close(fd);
}

int fuzz_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int count = 0;

	need(dir, "/proc/self/fd");
	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

void fuzz_check_fds(int before)
{
	int now = fuzz_count_fds();

	if (now != before) {
		fprintf(stderr, "ERROR: %d descriptors are open that were not before\n", now - before);
		abort();
	}
}
