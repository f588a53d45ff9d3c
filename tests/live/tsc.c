/* Time stamps of the processor that a thread may not read (PR_SET_TSC), another that may, and cpuid where this processor can forbid it (ARCH_SET_CPUID). */
#include "gate.h"
#include <asm/prctl.h>
#include <setjmp.h>
#include <sys/prctl.h>

static int gate, may_forbid;
static pid_t tids[2];
static __thread sigjmp_buf back;

static void on_fault(int sig) { siglongjmp(back, 1); }

static int reads_time(void)
{
	unsigned low, high;
	if (sigsetjmp(back, 1)) return 0;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return 1;
}

static int tsc(void)
{
	int value = 0;
	CHECK(prctl(PR_GET_TSC, &value) == 0);
	return value;
}

static void *body(void *argument)
{
	const long forbidden = (long)argument;
	if (forbidden) {
		CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
		may_forbid = syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) == 0;
	}
	thread_here(&tids[forbidden]);
	gate_wait(&gate);
	CHECK(tsc() == (forbidden ? PR_TSC_SIGSEGV : PR_TSC_ENABLE) && reads_time() == !forbidden);
	CHECK(syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0) == !(forbidden && may_forbid));
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[2];
	CHECK(signal(SIGSEGV, on_fault) != SIG_ERR);
	for (long i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < 2; i++) await_call(&tids[i], SYS_futex);
	wait_go();
	CHECK(tsc() == PR_TSC_ENABLE && reads_time());
	gate_open(&gate);
	for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
