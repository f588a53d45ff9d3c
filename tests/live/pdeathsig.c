/* The signal that a task gets when its parent ends, from a parent that ends after the restore. */
#include "tree.h"
#include <sys/prctl.h>
#include <time.h>

#define DEATH (SIGRTMIN + 3)

static int grandchild(void *argument)
{
	sigset_t set;
	siginfo_t info;
	int sig = 0;
	pid_t parent = getppid();
	sigemptyset(&set);
	sigaddset(&set, DEATH);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && prctl(PR_SET_PDEATHSIG, DEATH) == 0);
	tree_park();
	CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == DEATH);
	CHECK(kill(parent, SIGUSR1) == 0 && sigtimedwait(&set, &info, &(struct timespec){5, 0}) == DEATH);
	return 1;
}

static int child(void *argument)
{
	pid_t pid = tree_start(grandchild, NULL);
	int sig = -1;
	tree_there();
	CHECK(kill(pid, 0) == 0);
	wait_signal();
	CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == 0);
	return 2;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	pid_t pid = tree_start(child, NULL);
	char path[64], text[64] = "";
	snprintf(path, sizeof path, "/proc/%d/task/%d/children", pid, pid);
	CHECK(slurp(path, text, sizeof text - 1) > 0);
	pid_t nested = atoi(text);
	wait_go();
	CHECK(nested > 0 && kill(nested, SIGUSR1) == 0 && tree_reap(pid) == 2 && tree_reap(nested) == 1);
	return finish();
}
