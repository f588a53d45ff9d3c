/* A chain of twenty tasks, each the child of the one before. */
#include "tree.h"

enum { DEPTH = 20 };
static int own;

static int link_of(void *argument)
{
	int depth = *(int *)argument - 1;
	pid_t child = depth ? tree_start(link_of, &depth) : 0;
	own = depth * 1000 + 7;
	tree_park();
	CHECK(own == depth * 1000 + 7);
	if (child) CHECK(tree_finish(child) == depth - 1);
	return depth;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int depth = DEPTH - 1;
	pid_t child = tree_start(link_of, &depth);
	wait_go();
	CHECK(own == 0 && tree_finish(child) == DEPTH - 2);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return finish();
}
