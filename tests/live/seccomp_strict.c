/* Tasks in seccomp's strict mode, which may read, write and end: one does, one calls something else and is killed. */
#include "proc.h"
#include "seccomp.h"
#include "tree.h"

static int up[2], down[2];

/* Only raw calls here, and not getppid for tree_there(): the parent is told by a byte. */
static void strict(int forbidden)
{
	char byte = 'r';
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
	syscall(SYS_write, up[1], &byte, 1);
	syscall(SYS_read, down[0], &byte, 1);
	if (forbidden) syscall(SYS_getpid);
	byte++;
	syscall(SYS_write, up[1], &byte, 1);
	syscall(SYS_exit, 5);
}

static pid_t start(int forbidden)
{
	char byte;
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		strict(forbidden);
		__builtin_unreachable();
	}
	CHECK(read(up[0], &byte, 1) == 1 && byte == 'r');
	return pid;
}

static int strict_now(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/status", pid);
	return proc_number(path, "Seccomp:") == 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int status;
	char byte;
	CHECK(pipe(up) == 0 && pipe(down) == 0);
	pid_t good = start(0), bad = start(1);
	CHECK(strict_now(good) && strict_now(bad));
	wait_go();
	CHECK(strict_now(good) && strict_now(bad) && proc_number("/proc/self/status", "Seccomp:") == 0);
	CHECK(write(down[1], "aa", 2) == 2);
	CHECK(waitpid(good, &status, 0) == good && WIFEXITED(status) && WEXITSTATUS(status) == 5);
	CHECK(waitpid(bad, &status, 0) == bad && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	CHECK(read(up[0], &byte, 1) == 1 && byte == 'b');
	return finish();
}
