/* Restartable sequences: the registration that libc made holds in every thread, the processor's number there is kept up
 * to date, and a thread interrupted in a critical section goes on at its abort handler. */
#include "gate.h"
#include <sched.h>
#include <stdint.h>

#if defined(__x86_64__) && __has_include(<sys/rseq.h>)
#include <sys/rseq.h>

struct section { uint32_t version, flags; uint64_t start, length, abort; } __attribute__((aligned(32)));
static int gate, stop;
static pid_t tids[2];
static unsigned long aborts;

static struct rseq *area(void) { return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); }

/* Registered already: the kernel says so for the same area, and refuses another. */
static void check_registered(void)
{
	static struct rseq other __attribute__((aligned(32)));
	unsigned size = __rseq_size > 32 ? __rseq_size : 32;
	CHECK(syscall(SYS_rseq, area(), size, 0, RSEQ_SIG) == -1 && errno == EBUSY);
	CHECK(syscall(SYS_rseq, &other, size, 0, RSEQ_SIG) == -1 && errno == EINVAL);
}

static void check_follows(void)
{
	cpu_set_t all, one;
	CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all)) continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
		CHECK((int)__atomic_load_n(&area()->cpu_id, __ATOMIC_RELAXED) == cpu && (int)area()->cpu_id_start == cpu);
	}
	CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
}

/* Sections without an end: only an interruption leads out of one. */
static void *spinner(void *argument)
{
	thread_here(&tids[0]);
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		struct section section = {0};
		__asm__ volatile(
			"leaq 1f(%%rip), %%rax\n\tmovq %%rax, 8(%[section])\n\tmovq $2f-1f, 16(%[section])\n\t"
			"leaq 3f(%%rip), %%rax\n\tmovq %%rax, 24(%[section])\n\t"
			"movq %[section], 8(%[area])\n\t"
			"1: pause\n\tjmp 1b\n\t2:\n\t"
			".byte 0x0f, 0xb9, 0x3d\n\t.long %c[sig]\n\t"
			"3:\n\t"
			: : [section] "r"(&section), [area] "r"(area()), [sig] "i"(RSEQ_SIG) : "rax", "memory", "cc");
		__atomic_add_fetch(&aborts, 1, __ATOMIC_SEQ_CST);
	}
	check_registered();
	check_follows();
	return NULL;
}

static void *sleeper(void *argument)
{
	thread_here(&tids[1]);
	gate_wait(&gate);
	check_registered();
	check_follows();
	return NULL;
}

static void nothing(int sig) { }

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[2];
	if (!__rseq_size) {
		live_say("skip: libc has not registered rseq");
		return 0;
	}
	check_registered();
	CHECK(signal(SIGUSR2, nothing) != SIG_ERR);
	CHECK(pthread_create(&threads[0], NULL, spinner, NULL) == 0);
	CHECK(pthread_create(&threads[1], NULL, sleeper, NULL) == 0);
	await_call(&tids[1], SYS_futex);
	while (!__atomic_load_n(&tids[0], __ATOMIC_ACQUIRE)) usleep(1000);
	wait_go();
	check_registered();
	check_follows();
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	unsigned long before = __atomic_load_n(&aborts, __ATOMIC_SEQ_CST);
	/* A signal ends the section that it spins in. */
	for (int i = 0; i < 5000 && __atomic_load_n(&aborts, __ATOMIC_SEQ_CST) == before; i++) {
		CHECK(pthread_kill(threads[0], SIGUSR2) == 0);
		usleep(1000);
	}
	CHECK(pthread_join(threads[0], NULL) == 0 && aborts > 0);
	gate_open(&gate);
	CHECK(pthread_join(threads[1], NULL) == 0);
	return finish();
}
#else
int main(int argc, char **argv)
{
	live_init(argc, argv);
	live_say("skip: x86-64 with a libc that has rseq only");
	return 0;
}
#endif
