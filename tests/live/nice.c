/* Nice values of the threads of a process and of a child. */
#include "gate.h"
#include "tree.h"
#include <sys/resource.h>

static int gate;
static pid_t tid;

static void *body(void *argument)
{
	CHECK(setpriority(PRIO_PROCESS, 0, 11) == 0);
	thread_here(&tid);
	gate_wait(&gate);
	CHECK(getpriority(PRIO_PROCESS, 0) == 11);
	return NULL;
}

static int child(void *argument)
{
	CHECK(setpriority(PRIO_PROCESS, 0, -3) == 0);
	tree_park();
	CHECK(getpriority(PRIO_PROCESS, 0) == -3);
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pthread_t thread;
	CHECK(setpriority(PRIO_PROCESS, 0, 4) == 0 && pthread_create(&thread, NULL, body, NULL) == 0);
	await_call(&tid, SYS_futex);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(getpriority(PRIO_PROCESS, 0) == 4 && getpriority(PRIO_PROCESS, pid) == -3);
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0 && tree_finish(pid) == 1);
	return finish();
}
