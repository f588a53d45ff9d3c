/* Huge pages switched off for a task (PR_SET_THP_DISABLE), on for its child. */
#include "tree.h"
#include <sys/prctl.h>

static int child(void *argument)
{
	CHECK(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0);
	tree_park();
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0);
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0) {
		live_say("skip: no PR_SET_THP_DISABLE");
		return 0;
	}
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1 && tree_finish(pid) == 1);
	return finish();
}
