/* Tasks are forked and reaped without a pause while the dump goes on, two generations deep. */
#include "tree.h"

static int asked_to_end(void)
{
	sigset_t set;
	CHECK(sigpending(&set) == 0);
	return sigismember(&set, SIGUSR1);
}

static void round_trip(int number)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		pid_t grandchild = number % 2 ? fork() : 0;
		CHECK(grandchild >= 0);
		if (number % 2 && grandchild == 0) _exit(number % 50);
		if (grandchild) CHECK(tree_reap(grandchild) == number % 50);
		_exit(number % 100);
	}
	CHECK(tree_reap(child) == number % 100);
}

static int forker(void *argument)
{
	int number = 0;
	while (number < 10) round_trip(number++);
	tree_there();
	while (!asked_to_end()) round_trip(number++);
	for (int i = 0; i < 10; i++) round_trip(number++);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return 71;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pid_t first = tree_start(forker, NULL), second = tree_start(forker, NULL);
	wait_go();
	CHECK(tree_finish(first) == 71 && tree_finish(second) == 71);
	return finish();
}
