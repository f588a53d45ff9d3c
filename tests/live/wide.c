/* Sixty children of one task, each with memory of its own. */
#include "tree.h"

enum { COUNT = 60, SIZE = 20000 };
static char data[SIZE];

static int child(void *argument)
{
	int number = (int)(long)argument;
	memset(data, number, sizeof data);
	tree_park();
	for (int i = 0; i < SIZE; i++) CHECK(data[i] == number);
	return number;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pid_t pids[COUNT];
	memset(data, 99, sizeof data);
	for (long i = 0; i < COUNT; i++) pids[i] = tree_start(child, (void *)i);
	wait_go();
	for (int i = 0; i < SIZE; i++) CHECK(data[i] == 99);
	for (int i = 0; i < COUNT; i++) CHECK(tree_finish(pids[i]) == i);
	CHECK(waitpid(-1, NULL, WNOHANG) == -1 && errno == ECHILD);
	return finish();
}
