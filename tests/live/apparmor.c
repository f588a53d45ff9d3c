/*
 * Processes and threads under profiles of AppArmor: a process, one with a root of its own, another user and no_new_privs, and a thread with a profile that is not its
 * process's. Each profile forbids one file.
 */
#include "gate.h"
#include "tree.h"
#include <grp.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#define RULES " { file, capability, network, signal, ptrace, unix, mount, umount, "
static pid_t tid;
static int gate, told[2];

static void label(char *to, size_t size)
{
	ssize_t n = slurp("/proc/thread-self/attr/apparmor/current", to, size - 1);
	CHECK(n > 0);
	to[n] = 0;
}

static int is_labelled(const char *name)
{
	char now[256], expected[128];
	label(now, sizeof now);
	snprintf(expected, sizeof expected, "%s (enforce)\n", name);
	return !strcmp(now, name[0] ? expected : "unconfined\n");
}

static void change(const char *name)
{
	char command[128];
	int fd = open("/proc/thread-self/attr/apparmor/current", O_WRONLY | O_CLOEXEC), n = snprintf(command, sizeof command, "changeprofile %s", name);
	CHECK(fd >= 0 && write(fd, command, (size_t)n) == n && close(fd) == 0 && is_labelled(name));
}

static int may_make(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
	CHECK(fd >= 0 || errno == EACCES);
	if (fd >= 0) close(fd);
	return fd >= 0;
}

static void *other(void *unused)
{
	change("fermata-live-b");
	thread_here(&tid);
	gate_wait(&gate);
	CHECK(is_labelled("fermata-live-b") && may_make("denied-a") && !may_make("denied-b"));
	return NULL;
}

static int confined(void *unused)
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, other, NULL) == 0);
	await_call(&tid, SYS_futex);
	change("fermata-live-a");
	CHECK(!may_make("denied-a"));
	tree_there();
	wait_signal();
	gate_open(&gate);
	CHECK(is_labelled("fermata-live-a") && !may_make("denied-a") && may_make("denied-b") && pthread_join(thread, NULL) == 0);
	return 5;
}

/* Where there is no /proc; it can't signal its parent either. */
static int rooted(void *unused)
{
	change("fermata-live-a");
	CHECK(mkdir("empty", 0777) == 0 && chmod("empty", 0777) == 0 && chroot("empty") == 0 && chdir("/") == 0);
	CHECK(setgroups(0, NULL) == 0 && setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	char byte = (char)(may_make("denied-a") ? 'y' : 'n');
	if (write(told[1], &byte, 1) != 1) return 3;
	wait_signal();
	return !may_make("denied-a") && may_make("denied-b") && getuid() == 1000 ? 6 : 2;
}

static int load(void)
{
	int fd = open("profiles", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	static const char text[] = "profile fermata-live-a" RULES "deny /**/denied-a w, deny /denied-a w, }\nprofile fermata-live-b" RULES "deny /**/denied-b w, }\n";
	CHECK(fd >= 0 && write(fd, text, sizeof text - 1) == sizeof text - 1 && close(fd) == 0);
	if (access("/sys/kernel/security/apparmor", F_OK)) mount("securityfs", "/sys/kernel/security", "securityfs", 0, NULL);
	return system("apparmor_parser --skip-cache -r profiles >load.log 2>&1") == 0;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char now[256];
	if (slurp("/proc/self/attr/apparmor/current", now, sizeof now) <= 0 || !load()) {
		live_say("skip: no AppArmor, or no apparmor_parser");
		return 0;
	}
	pid_t self = getpid(), one = tree_start(confined, NULL);
	CHECK(pipe(told) == 0);
	/* Only lsm_set_self_attr (Linux 6.8) does without /proc. */
	pid_t two = syscall(460, 0, NULL, 0, 0) == 0 || errno != ENOSYS ? fork() : 0;
	if (!two && getpid() != self) _exit(rooted(NULL));
	CHECK(!two || (two > 0 && read(told[0], now, 1) == 1 && now[0] == 'n'));
	wait_go();
	CHECK(is_labelled("") && may_make("denied-a"));
	CHECK(unlink("denied-a") == 0 && tree_finish(one) == 5);
	if (two) CHECK(tree_finish(two) == 6);
	CHECK(system("apparmor_parser --skip-cache -R profiles >load.log 2>&1") == 0);
	return finish();
}
