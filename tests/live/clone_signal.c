/* Children whose end is told by another signal than SIGCHLD, or by none: clone(2). One of them has ended already. */
#include "tree.h"
#include <sched.h>
#include <sys/syscall.h>

static pid_t start(unsigned long signal, int status)
{
	pid_t pid = syscall(SYS_clone, signal, NULL, NULL, NULL, NULL);
	CHECK(pid >= 0);
	if (pid) return pid;
	if (!status) _exit(7);
	tree_there();
	wait_signal();
	_exit(status);
}

static void reap(pid_t pid, int expected)
{
	int status;
	CHECK(waitpid(pid, &status, 0) == -1 && errno == ECHILD);
	CHECK(waitpid(pid, &status, __WCLONE) == pid && WEXITSTATUS(status) == expected);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	tree_init();
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	pid_t other = start(SIGRTMIN + 3, 3);
	tree_await();
	pid_t silent = start(0, 4);
	tree_await();
	pid_t ended = start(SIGRTMIN + 3, 0);
	siginfo_t info;
	CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 3 && info.si_pid == ended);
	wait_go();
	CHECK(kill(silent, SIGUSR1) == 0 && kill(other, SIGUSR1) == 0);
	CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 3 && info.si_pid == other && info.si_status == 3);
	reap(other, 3);
	reap(silent, 4);
	reap(ended, 7);
	struct timespec none = {0, 0};
	CHECK(sigtimedwait(&set, &info, &none) == -1);
	return finish();
}
