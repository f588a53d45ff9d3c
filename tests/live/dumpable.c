/* A task that may not be looked at (PR_SET_DUMPABLE 0) with a child that may, and one that became so by its ids. */
#include "tree.h"
#include <sys/prctl.h>
#include <sys/stat.h>

static uid_t owner(void)
{
	struct stat status;
	CHECK(stat("/proc/self/status", &status) == 0);
	return status.st_uid;
}

static int open_child(void *argument)
{
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
	tree_park();
	CHECK(prctl(PR_GET_DUMPABLE) == 1);
	return 1;
}

static int changed_child(void *argument)
{
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0 && setresuid(2000, 2000, 0) == 0);
	int before = prctl(PR_GET_DUMPABLE);
	CHECK(before != 1 && owner() == 0 && seteuid(0) == 0);
	tree_park();
	CHECK(prctl(PR_GET_DUMPABLE) == before);
	return 2;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
	pid_t first = tree_start(open_child, NULL), second = tree_start(changed_child, NULL);
	wait_go();
	CHECK(prctl(PR_GET_DUMPABLE) == 0);
	CHECK(tree_finish(first) == 1 && tree_finish(second) == 2);
	return finish();
}
