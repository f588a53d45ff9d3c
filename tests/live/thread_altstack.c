/* Alternate signal stacks of threads: set, none, in use, and in use with SS_AUTODISARM. */
#include "gate.h"

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif
enum { COUNT = 4, SIZE = 65536 };
enum { IDLE, NONE, IN_USE, DISARMED };
static char stacks[COUNT][SIZE];
static int gate;
static pid_t tids[COUNT];
static __thread int number;
static __thread volatile sig_atomic_t entered, returned;

static int on_own(const void *at) { return (char *)at >= stacks[number] && (char *)at < stacks[number] + SIZE / 2; }

static void on_wait(int sig)
{
	int here;
	stack_t now;
	entered = on_own(&here);
	thread_here(&tids[number]);
	gate_wait(&gate);
	CHECK(sigaltstack(NULL, &now) == 0);
	if (number == IN_USE) CHECK(now.ss_flags == SS_ONSTACK && now.ss_sp == stacks[number]);
	else CHECK(now.ss_flags == (int)SS_DISABLE);
	returned = on_own(&here);
}

static void on_later(int sig)
{
	int here;
	returned = on_own(&here) ? 2 : 3;
}

static void *body(void *argument)
{
	number = (int)(long)argument;
	stack_t stack = {.ss_sp = stacks[number], .ss_size = SIZE / 2, .ss_flags = number == DISARMED ? SS_AUTODISARM : 0};
	stack_t now;
	if (number != NONE) CHECK(sigaltstack(&stack, NULL) == 0);
	if (number == IN_USE || number == DISARMED) {
		CHECK(raise(SIGUSR2) == 0 && entered == 1 && returned == 1);
	} else {
		thread_here(&tids[number]);
		gate_wait(&gate);
	}
	CHECK(sigaltstack(NULL, &now) == 0);
	if (number == NONE) CHECK(now.ss_flags == SS_DISABLE);
	else CHECK(now.ss_sp == stack.ss_sp && now.ss_size == stack.ss_size && now.ss_flags == stack.ss_flags);
	CHECK(raise(SIGHUP) == 0 && returned == (number == NONE ? 3 : 2));
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	struct sigaction action = {.sa_handler = on_wait, .sa_flags = SA_ONSTACK};
	CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
	action.sa_handler = on_later;
	CHECK(sigaction(SIGHUP, &action, NULL) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	wait_go();
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
