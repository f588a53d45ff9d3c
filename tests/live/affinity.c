/* The processors that each thread and a child may run on. */
#include "gate.h"
#include "tree.h"
#include <sched.h>

static int gate, first = -1, last = -1;
static pid_t tid;

static void pin(int cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
}

static int pinned(int cpu)
{
	cpu_set_t set;
	CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
	return CPU_COUNT(&set) == 1 && CPU_ISSET(cpu, &set) && sched_getcpu() == cpu;
}

static void *body(void *argument)
{
	pin(last);
	thread_here(&tid);
	gate_wait(&gate);
	CHECK(pinned(last));
	return NULL;
}

static int child(void *argument)
{
	pin(last);
	tree_park();
	CHECK(pinned(last));
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pthread_t thread;
	cpu_set_t set;
	CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
	for (int cpu = CPU_SETSIZE - 1; cpu >= 0; cpu--) {
		if (!CPU_ISSET(cpu, &set)) continue;
		if (last < 0) last = cpu;
		first = cpu;
	}
	if (first == last) {
		live_say("skip: one processor only");
		return 0;
	}
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	await_call(&tid, SYS_futex);
	pid_t pid = tree_start(child, NULL);
	pin(first);
	wait_go();
	CHECK(pinned(first));
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0 && tree_finish(pid) == 1);
	return finish();
}
