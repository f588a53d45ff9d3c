/* What a process has registered for with membarrier(2), and what a child has not: without it the call fails, and programs that rely on it end. */
#include "tree.h"
#include <linux/membarrier.h>
#include <sys/syscall.h>

static int call(int command) { return syscall(SYS_membarrier, command, 0, 0); }

static int child(void *argument)
{
	tree_park();
	CHECK(call(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0);
	CHECK(call(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) == -1 && errno == EPERM);
	CHECK(call(1 << 9) == (MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) || errno == EINVAL);
	return 5;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int known = call(MEMBARRIER_CMD_QUERY);
	if (known < 0 || !(known & MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) || !(known & 1 << 8)) {
		live_say("skip: no membarrier");
		return 0;
	}
	CHECK(call(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0 && call(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0);
	pid_t pid = tree_start(child, NULL);
	CHECK(call(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE) == 0 && call(1 << 8) == 0);
	wait_go();
	CHECK(call(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0 && call(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) == 0 && call(1 << 7) == 0);
	CHECK(tree_finish(pid) == 5);
	return finish();
}
