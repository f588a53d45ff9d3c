/* The timer slack of each thread. */
#include "gate.h"
#include <sys/prctl.h>

static int gate;
static pid_t tid;

static void *body(void *argument)
{
	CHECK(prctl(PR_SET_TIMERSLACK, 7777UL, 0, 0, 0) == 0);
	thread_here(&tid);
	gate_wait(&gate);
	CHECK(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 7777);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	await_call(&tid, SYS_futex);
	CHECK(prctl(PR_SET_TIMERSLACK, 123456UL, 0, 0, 0) == 0);
	wait_go();
	CHECK(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) == 123456);
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0);
	return finish();
}
