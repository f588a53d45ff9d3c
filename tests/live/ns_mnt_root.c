/* A root of its own, as containers have it: a tmpfs that was pivoted to, with proc, sysfs, devpts, mqueue, cgroup and devices that are bound from outside; a child
 * below another root, one in a directory that is not the root; descriptors below /proc. */
#include "mounts.h"
#include "tree.h"
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

static void bind_file(const char *from, const char *to)
{
	int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	CHECK(fd >= 0 && close(fd) == 0 && mount(from, to, NULL, MS_BIND, NULL) == 0);
}

static void make_root(void)
{
	static const char *const dirs[] = { "proc", "sys", "dev", "dev/pts", "dev/mqueue", "tmp", "jail", "jail/sub", "report", "old", "ro" };
	CHECK(mkdir("root", 0755) == 0 && mount("root", "root", "tmpfs", 0, "size=16m,mode=755") == 0);
	char report[4096];
	CHECK(snprintf(report, sizeof report, "%s", live_report) < (int)sizeof report);
	char *slash = strrchr(report, '/');
	*slash = 0;
	CHECK(chdir("root") == 0);
	for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) CHECK(mkdir(dirs[i], 0755) == 0);
	CHECK(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0);
	CHECK(mount("sysfs", "sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, NULL) == 0);
	CHECK(mount("pts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620") == 0);
	CHECK(mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0);
	CHECK(symlink("pts/ptmx", "dev/ptmx") == 0 && mknod("dev/zero", S_IFCHR | 0666, makedev(1, 5)) == 0);
	bind_file("/dev/null", "dev/null");
	CHECK(mount("tmp", "tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m") == 0 && mount("proc/sys", "proc/sys", NULL, MS_BIND, NULL) == 0);
	CHECK(mount(NULL, "proc/sys", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0);
	CHECK(mount("/dev/null", "proc/kcore", NULL, MS_BIND, NULL) == 0 || errno == ENOENT);
	CHECK(mount(report, "report", NULL, MS_BIND, NULL) == 0);
	CHECK(mount("jail", "ro", NULL, MS_BIND, NULL) == 0 && mount(NULL, "ro", NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) == 0);
	put("jail/inside", "in the jail", 0644);
	put("tmp/file", "in tmp", 0644);
	*slash = '/';
	char *name = malloc(strlen(slash) + 16);
	CHECK(name && sprintf(name, "/report%s", slash) > 0);
	live_report = name;
}

static int in_jail(void *argument)
{
	CHECK(chroot("jail") == 0 && chdir("/sub") == 0);
	tree_there();
	wait_signal();
	char where[64];
	if (access("/inside", F_OK) || access("/proc", F_OK) == 0) return 2;
	return getcwd(where, sizeof where) && !strcmp(where, "/sub") ? 1 : 3;
}

static int in_tmp(void *argument)
{
	CHECK(chdir("/tmp") == 0);
	tree_there();
	wait_signal();
	char where[64];
	if (!holds("file", "in tmp")) return 2;
	return getcwd(where, sizeof where) && !strcmp(where, "/tmp") ? 1 : 3;
}

int main(int argc, char **argv)
{
	static struct seen_mount before[MOUNTS_MANY];
	char text[64];
	live_init(argc, argv);
	tree_init();
	if (!mounts_begin()) return 0;
	make_root();
	CHECK(syscall(SYS_pivot_root, ".", "old") == 0 && chdir("/") == 0 && umount2("/old", MNT_DETACH) == 0 && rmdir("/old") == 0);
	int status = open("/proc/self/status", O_RDONLY | O_CLOEXEC), zero = open("/dev/zero", O_RDONLY | O_CLOEXEC), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int fd = open("/tmp/file", O_RDWR | O_CLOEXEC), sysctl = open("/proc/sys/kernel/pid_max", O_RDONLY | O_CLOEXEC);
	CHECK(status >= 0 && zero >= 0 && null >= 0 && fd >= 0 && sysctl >= 0);
	int off = 0, number = -1, master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(master >= 0 && ioctl(master, TIOCSPTLCK, &off) == 0 && ioctl(master, TIOCGPTN, &number) == 0 && number == 0);
	int slave = open("/dev/pts/0", O_RDWR | O_NOCTTY | O_CLOEXEC);
	CHECK(slave >= 0 && write(slave, "waits", 5) == 5);
	pid_t first = tree_start(in_jail, NULL), second = tree_start(in_tmp, NULL);
	int n = mounts_read(before);
	wait_go();
	mounts_compare(before, n);
	CHECK(pread(status, text, 6, 0) == 6 && !memcmp(text, "Name:\t", 6) && read(zero, text, 4) == 4 && write(null, "x", 1) == 1 && pread(sysctl, text, 4, 0) > 0);
	CHECK(pread(fd, text, 6, 0) == 6 && !memcmp(text, "in tmp", 6));
	CHECK(access("/report", W_OK) == 0 && access("/old", F_OK) == -1 && open("/ro/x", O_CREAT | O_WRONLY, 0600) == -1 && errno == EROFS && holds("/ro/inside", "in the jail"));
	CHECK(read(master, text, 64) == 5 && !memcmp(text, "waits", 5) && write(master, "line\n", 5) == 5 && read(slave, text, 64) == 5);
	CHECK(ioctl(master, TIOCGPTN, &number) == 0 && number == 0 && !strcmp(ttyname(slave), "/dev/pts/0") && access("/dev/pts/0", F_OK) == 0);
	CHECK(open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC) >= 0 && access("/dev/pts/1", F_OK) == 0);
	CHECK(tree_finish(first) == 1 && tree_finish(second) == 1);
	return finish();
}
