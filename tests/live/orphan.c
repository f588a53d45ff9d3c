/* Double-forked children that were re-parented to a subreaper: the root, and a child that is one as well. */
#include "tree.h"
#include <sys/prctl.h>

static int is_subreaper(void)
{
	int value = -1;
	CHECK(prctl(PR_GET_CHILD_SUBREAPER, &value) == 0);
	return value;
}

static int orphan(void *reaper)
{
	while (getppid() != *(pid_t *)reaper) usleep(1000);
	tree_park();
	CHECK(!is_subreaper());
	return 41;
}

/* A child of this task that another task, which has ended, gave birth to. */
static pid_t adopt(void)
{
	pid_t self = getpid(), middle;
	int end[2];
	CHECK(pipe(end) == 0 && (middle = fork()) >= 0);
	if (middle == 0) {
		pid_t child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			close(end[0]);
			close(end[1]);
			_exit(orphan(&self));
		}
		CHECK(write(end[1], &child, sizeof child) == sizeof child);
		_exit(0);
	}
	pid_t child;
	CHECK(read(end[0], &child, sizeof child) == sizeof child);
	close(end[0]);
	close(end[1]);
	CHECK(tree_reap(middle) == 0);
	tree_await();
	return child;
}

static int nested(void *argument)
{
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	pid_t child = adopt();
	tree_park();
	CHECK(is_subreaper() == 1 && tree_finish(child) == 41);
	return 42;
}

/* Ends after the restore and leaves its child to the root. */
static int leaves_child(void *argument)
{
	pid_t root = getppid(), child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		wait_signal();
		while (getppid() != root) usleep(1000);
		_exit(43);
	}
	tree_park();
	CHECK(kill(child, SIGUSR1) == 0);
	return 44;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	pid_t child = adopt(), reaper = tree_start(nested, NULL), leaver = tree_start(leaves_child, NULL);
	wait_go();
	CHECK(is_subreaper() == 1);
	CHECK(tree_finish(child) == 41 && tree_finish(reaper) == 42 && tree_finish(leaver) == 44);
	int status;
	CHECK(waitpid(-1, &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 43);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return finish();
}
