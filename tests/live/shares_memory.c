/* A task that shares all memory with its parent but is none of its threads (clone with CLONE_VM). */
#include "gate.h"
#include "tree.h"
#include <sched.h>

static int gate, touched;
static pid_t tid;
static char stack[65536] __attribute__((aligned(64)));

static int child(void *argument)
{
	__atomic_store_n(&tid, syscall(SYS_gettid), __ATOMIC_RELEASE);
	gate_wait(&gate);
	touched++;
	return 5;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pid_t pid = clone(child, stack + sizeof stack, CLONE_VM | SIGCHLD, NULL);
	CHECK(pid > 0);
	char path[64], text[128];
	for (int i = 0; i < 5000; i++) {
		snprintf(path, sizeof path, "/proc/%d/syscall", pid);
		int here = __atomic_load_n(&tid, __ATOMIC_ACQUIRE);
		if (here && slurp(path, text, sizeof text) > 0 && atoi(text) == SYS_futex) break;
		usleep(1000);
	}
	touched = 10;
	wait_go();
	CHECK(touched == 10);
	touched = 20;
	/* Another address space would never see the gate open, nor this one what is touched. */
	__atomic_store_n(&gate, 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_futex, &gate, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0) >= 0);
	CHECK(tree_reap(pid) == 5 && touched == 21);
	return finish();
}
