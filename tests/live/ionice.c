/* The i/o priority of each thread. */
#include "gate.h"

enum { WHO_PROCESS = 1 };
static const int wanted[] = {1 << 13 | 3, 2 << 13 | 6, 3 << 13}; /* class and data */
enum { COUNT = sizeof wanted / sizeof *wanted };
static int gate;
static pid_t tids[COUNT];

static void *body(void *argument)
{
	long number = (long)argument;
	CHECK(syscall(SYS_ioprio_set, WHO_PROCESS, 0, wanted[number]) == 0);
	thread_here(&tids[number]);
	gate_wait(&gate);
	CHECK(syscall(SYS_ioprio_get, WHO_PROCESS, 0) == wanted[number]);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	for (long i = 0; i < COUNT; i++) {
		CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
		await_call(&tids[i], SYS_futex);
	}
	CHECK(syscall(SYS_ioprio_set, WHO_PROCESS, 0, 2 << 13 | 1) == 0);
	wait_go();
	CHECK(syscall(SYS_ioprio_get, WHO_PROCESS, 0) == (2 << 13 | 1));
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
