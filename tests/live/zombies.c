/* Children that have ended and are not reaped: exited, killed, leaders of a group, of a session; a child's too. */
#include "tree.h"
#include <sys/resource.h>

static pid_t start(int code, int sig, int leader)
{
	siginfo_t info;
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid == 0) {
		if (leader == 1) CHECK(setpgid(0, 0) == 0);
		if (leader == 2) CHECK(setsid() == getpid());
		if (sig) raise(sig);
		_exit(code);
	}
	CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT) == 0);
	return pid;
}

static void check(pid_t pid, int code, int sig)
{
	int status = -1;
	siginfo_t info = {0};
	CHECK(waitid(P_PID, pid, &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == pid);
	CHECK(info.si_code == (sig ? CLD_KILLED : CLD_EXITED) && info.si_status == (sig ? sig : code));
	CHECK(waitpid(pid, &status, WNOHANG) == pid);
	if (sig) CHECK(WIFSIGNALED(status) && WTERMSIG(status) == sig && !WCOREDUMP(status));
	else CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

static int child(void *argument)
{
	pid_t first = start(255, 0, 0), second = start(0, SIGKILL, 1);
	tree_park();
	check(first, 255, 0);
	check(second, 0, SIGKILL);
	return 51;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}) == 0);
	static const struct { int code, sig, leader; } wanted[] = {
		{0, 0, 0}, {7, 0, 0}, {0, SIGTERM, 0}, {0, SIGKILL, 1}, {9, 0, 1}, {10, 0, 2}, {0, SIGSEGV, 0}, {0, 40, 0}};
	enum { COUNT = sizeof wanted / sizeof *wanted };
	pid_t pids[COUNT], other = tree_start(child, NULL);
	for (int i = 0; i < COUNT; i++) pids[i] = start(wanted[i].code, wanted[i].sig, wanted[i].leader);
	wait_go();
	CHECK(getpgid(pids[4]) == pids[4] && getsid(pids[5]) == pids[5]);
	for (int i = 0; i < COUNT; i++) check(pids[i], wanted[i].code, wanted[i].sig);
	CHECK(tree_finish(other) == 51);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return finish();
}
