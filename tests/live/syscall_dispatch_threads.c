/* System calls handed to the program itself, thread by thread: one that is stopped where its calls are blocked, one whose calls
 * from its own code alone are dispatched, one that never asked for it. */
#include "gate.h"
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>

enum { SET_DISPATCH = 59, ON = 1, INCLUSIVE = 2, ALLOW = 0, BLOCK = 1 };
static __thread volatile char selector;
static __thread volatile long caught;
static volatile int spins, go;
static int gate;
static pid_t other;
static long (*code)(void);

static void on_sys(int sig, siginfo_t *info, void *context)
{
	selector = ALLOW;
	caught = info->si_syscall;
}

static void *spinner(void *argument)
{
	CHECK(prctl(SET_DISPATCH, ON, 0, 0, &selector) == 0);
	selector = BLOCK;
	spins = 1;
	while (!go) continue;
	int kept = selector == BLOCK && caught == 0;
	syscall(SYS_getppid);
	CHECK(kept && selector == ALLOW && caught == SYS_getppid);
	return NULL;
}

static void *bystander(void *argument)
{
	thread_here(&other);
	gate_wait(&gate);
	CHECK(code() == getppid() && caught == 0);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	/* mov $SYS_getppid, %eax; syscall; ret */
	static const unsigned char bytes[] = {0xb8, SYS_getppid, 0, 0, 0, 0x0f, 0x05, 0xc3};
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	memcpy(page, bytes, sizeof bytes);
	code = (long (*)(void))page;
	struct sigaction action = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
	CHECK(sigaction(SIGSYS, &action, NULL) == 0);
	if (prctl(SET_DISPATCH, ON, 0, 0, &selector) != 0) {
		live_say("skip: no system call dispatch here");
		return 0;
	}
	CHECK(prctl(SET_DISPATCH, 0, 0, 0, 0) == 0);
	pthread_t threads[2];
	CHECK(pthread_create(&threads[0], NULL, spinner, NULL) == 0 && pthread_create(&threads[1], NULL, bystander, NULL) == 0);
	while (!spins) usleep(1000);
	await_call(&other, SYS_futex);
	/* Within the range calls are dispatched (Linux 6.18), or outside of it. */
	int inclusive = prctl(SET_DISPATCH, INCLUSIVE, page, 4096, &selector) == 0;
	if (!inclusive) CHECK(prctl(SET_DISPATCH, ON, 4096, (uintptr_t)1 << 46, &selector) == 0);
	if (inclusive) selector = BLOCK;
	wait_go();
	CHECK(selector == (inclusive ? BLOCK : ALLOW) && caught == 0);
	if (inclusive) {
		code();
		CHECK(caught == SYS_getppid && selector == ALLOW);
	}
	go = 1;
	gate_open(&gate);
	CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
	return finish();
}
