/* The word that the kernel clears and wakes when a thread ends (set_tid_address). */
#include "gate.h"
#include <stdint.h>
#include <sys/prctl.h>

static int gate, word = 1;
static pid_t tid;

static int *tid_address(void)
{
	uint64_t address = 0;
	CHECK(prctl(PR_GET_TID_ADDRESS, &address) == 0);
	return (int *)(uintptr_t)address;
}

static void *body(void *argument)
{
	CHECK(syscall(SYS_set_tid_address, &word) == gettid());
	thread_here(&tid);
	gate_wait(&gate);
	CHECK(tid_address() == &word);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread;
	uint64_t probe;
	if (prctl(PR_GET_TID_ADDRESS, &probe) != 0) {
		live_say("skip: no PR_GET_TID_ADDRESS");
		return 0;
	}
	int *before = tid_address();
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0 && pthread_detach(thread) == 0);
	await_call(&tid, SYS_futex);
	wait_go();
	CHECK(tid_address() == before && __atomic_load_n(&word, __ATOMIC_ACQUIRE) == 1);
	gate_open(&gate);
	struct timespec limit = {5, 0};
	while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) != 0)
		CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &limit, NULL, 0) == 0 || errno == EAGAIN);
	return finish();
}
