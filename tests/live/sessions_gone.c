/* Sessions whose leader has gone, one reaped and one a zombie, with groups in them; the root is a subreaper. */
#include "tree.h"
#include <sys/prctl.h>

static pid_t leaders[2];

static int member(void *argument)
{
	if (argument) CHECK(setpgid(0, 0) == 0);
	/* Only once its parent, the leader, has ended. */
	while (getppid() == getsid(0)) usleep(1000);
	tree_park();
	return 31;
}

static pid_t start(int own_group, int number)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		CHECK(setsid() == getpid());
		child = fork();
		CHECK(child >= 0);
		_exit(child ? 0 : member(own_group ? "" : NULL));
	}
	leaders[number] = child;
	siginfo_t info;
	CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0 && info.si_status == 0);
	tree_await();
	/* The root's only other children are leaders. */
	char path[64], text[256] = "";
	snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
	CHECK(slurp(path, text, sizeof text - 1) > 0);
	pid_t last = 0;
	for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
		if (atoi(word) != leaders[0] && atoi(word) != leaders[1] && getsid(atoi(word)) == child) last = atoi(word);
	CHECK(last > 0);
	return last;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	pid_t first = start(0, 0), second = start(1, 1);
	CHECK(tree_reap(leaders[0]) == 0);
	wait_go();
	CHECK(getsid(first) == leaders[0] && getpgid(first) == leaders[0]);
	CHECK(getsid(second) == leaders[1] && getpgid(second) == second);
	CHECK(kill(leaders[0], 0) == -1 && errno == ESRCH && kill(-leaders[0], 0) == 0);
	siginfo_t info = {0};
	CHECK(waitid(P_PID, leaders[1], &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == leaders[1]);
	CHECK(tree_finish(first) == 31 && tree_finish(second) == 31 && tree_reap(leaders[1]) == 0);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return finish();
}
