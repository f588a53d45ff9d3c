/* Seccomp filters of threads: one that all share, and one of a single thread; a thread without any. */
#include "gate.h"
#include "proc.h"
#include "seccomp.h"

enum { FREE, OWN, COMMON, COUNT };
static int gate;
static pid_t tids[COUNT];

static void *body(void *argument)
{
	long number = (long)argument;
	if (number == OWN) seccomp_refuse(SYS_geteuid, 77, 0);
	if (number == COMMON) seccomp_refuse(SYS_getegid, 78, 0);
	thread_here(&tids[number]);
	gate_wait(&gate);
	long filters = proc_number("/proc/thread-self/status", "Seccomp_filters:");
	CHECK(filters == -1 || filters == (number != FREE));
	CHECK(proc_number("/proc/thread-self/status", "Seccomp:") == (number == FREE ? 0 : 2));
	CHECK(refused_with(SYS_geteuid, number == OWN ? 77 : 0));
	CHECK(refused_with(SYS_getegid, number == COMMON ? 78 : 0));
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
	wait_go();
	CHECK(refused_with(SYS_geteuid, 0) && refused_with(SYS_getegid, 0));
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
