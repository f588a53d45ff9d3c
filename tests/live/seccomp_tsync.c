/* A seccomp filter set for all threads at once, and a later one of a single thread. */
#include "gate.h"
#include "proc.h"
#include "seccomp.h"

enum { COUNT = 3 };
static int gates[2];
static pid_t tids[COUNT];

static void *body(void *argument)
{
	long number = (long)argument;
	thread_here(&tids[number]);
	gate_wait(&gates[0]);
	if (number == 1) seccomp_refuse(SYS_getegid, 78, 0);
	thread_here(&tids[number]);
	gate_wait(&gates[1]);
	long filters = proc_number("/proc/thread-self/status", "Seccomp_filters:");
	CHECK(filters == -1 || filters == (number == 1 ? 3 : 2));
	CHECK(refused_with(SYS_geteuid, 77) && refused_with(SYS_getgid, 76));
	CHECK(refused_with(SYS_getegid, number == 1 ? 78 : 0));
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	seccomp_refuse(SYS_geteuid, 77, SECCOMP_FILTER_FLAG_TSYNC);
	seccomp_refuse(SYS_getgid, 76, SECCOMP_FILTER_FLAG_TSYNC);
	for (int i = 0; i < COUNT; i++) __atomic_store_n(&tids[i], 0, __ATOMIC_RELEASE);
	gate_open(&gates[0]);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	wait_go();
	CHECK(refused_with(SYS_geteuid, 77) && refused_with(SYS_getgid, 76) && refused_with(SYS_getegid, 0));
	gate_open(&gates[1]);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
