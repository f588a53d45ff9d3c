/* See fuzz.h. */
#include "fuzz.h"

#include "base/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/mount.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);

#define NEXT_ID "/proc/sys/kernel/shm_next_id"
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

/* The directory that an argument is, or is in, where libFuzzer reads and writes; or NULL. */
static const char *directory_of(const char *argument)
{
	static const char artifacts[] = "-artifact_prefix=";
	const char *path = strncmp(argument, artifacts, strlen(artifacts)) ? argument : argument + strlen(artifacts);
	static char above[4096];
	struct stat st;

	if (argument[0] == '-' && path == argument)
		return NULL;
	if (stat(path, &st) < 0)
		return NULL;
	if (S_ISDIR(st.st_mode))
		return path;
	snprintf(above, sizeof(above), "%s", path);
	return dirname(above);
}

static void make_directories(const char *path)
{
	char part[4096];

	snprintf(part, sizeof(part), "%s", path);
	for (char *at = strchr(part + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		mkdir(part, 0700);
		*at = '/';
	}
	mkdir(part, 0700);
}

/* An empty /tmp, into which the directories that are needed come back. */
static void hide_tmp(int argc, char **argv)
{
	struct {
		char *path;
		int fd;
	} kept[64];
	int count = 0;

	for (int i = 1; i < argc && count < 64; i++) {
		const char *path = directory_of(argv[i]);
		if (!path)
			continue;
		kept[count].path = realpath(path, NULL);
		kept[count].fd = open(path, O_PATH | O_CLOEXEC);
		need(kept[count].path && kept[count].fd >= 0, path);
		count++;
	}
	char *here = realpath(".", NULL);
	need(mount("fuzz", "/tmp", "tmpfs", REST, "size=64m,mode=1777") == 0, "mount /tmp");
	for (int i = 0; i < count; i++) {
		char link[64];
		snprintf(link, sizeof(link), "/proc/self/fd/%d", kept[i].fd);
		make_directories(kept[i].path);
		need(mount(link, kept[i].path, NULL, BIND, NULL) == 0, kept[i].path);
		close(kept[i].fd);
		free(kept[i].path);
	}
	if (here && chdir(here) < 0)
		need(chdir("/") == 0, "chdir");
	free(here);
}

static void make_writable(const char *path)
{
	need(set_attributes(path, 0, 0, MOUNT_ATTR_RDONLY) == 0, path);
}

static void raise_loopback(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	need(fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &lo) == 0, "lo");
	close(fd);
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
	need(mount("proc", "/proc", "proc", REST, NULL) == 0, "mount /proc");
	need(mount(NEXT_ID, NEXT_ID, NULL, BIND, NULL) == 0, NEXT_ID);
	hide_tmp(*argc, *argv);
	need(set_attributes("/", AT_RECURSIVE, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID, 0) == 0, "mount_setattr");
	make_writable(NEXT_ID);
	make_writable("/tmp");
	for (int i = 1; i < *argc; i++)
		if (directory_of((*argv)[i]))
			make_writable(directory_of((*argv)[i]));
	raise_loopback();
	need(mount("fuzz", SANDBOX, "tmpfs", REST, "size=256m,mode=0755") == 0, "mount tmpfs");
	fuzz_write(SANDBOX "/file", "", 0);
	need(truncate(SANDBOX "/file", 65536) == 0, "truncate");
	need(mkfifo(SANDBOX "/fifo", 0600) == 0, "mkfifo");
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
