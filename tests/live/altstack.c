/* The program is in a handler on its alternate signal stack, within a handler on the usual one; both return. */
#include "live.h"

enum { SIZE = 65536 };
static char stack[SIZE];
static volatile sig_atomic_t depth, inner, outer;

static int on_alternate(const void *at) { return (char *)at >= stack && (char *)at < stack + SIZE; }

static void on_inner(int sig)
{
	volatile unsigned local[100];
	stack_t now;
	for (int i = 0; i < 100; i++) local[i] = i * 3;
	depth++;
	CHECK(on_alternate((void *)local));
	wait_go();
	for (int i = 0; i < 100; i++) CHECK(local[i] == i * 3U);
	CHECK(sigaltstack(NULL, &now) == 0 && now.ss_sp == stack && now.ss_size == SIZE && now.ss_flags == SS_ONSTACK);
	/* The stack in use cannot be changed. */
	CHECK(sigaltstack(&(stack_t){.ss_flags = SS_DISABLE}, NULL) == -1 && errno == EPERM);
	inner = 1;
}

static void on_outer(int sig)
{
	volatile unsigned local = 77;
	CHECK(!on_alternate((void *)&local));
	depth++;
	CHECK(raise(SIGHUP) == 0 && inner == 1 && local == 77);
	outer = 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	stack_t alternate = {.ss_sp = stack, .ss_size = SIZE}, now;
	struct sigaction action = {.sa_handler = on_outer};
	sigset_t mask;
	CHECK(sigaltstack(&alternate, NULL) == 0);
	CHECK(sigaction(SIGUSR2, &action, NULL) == 0);
	action.sa_handler = on_inner;
	action.sa_flags = SA_ONSTACK;
	sigaddset(&action.sa_mask, SIGQUIT);
	CHECK(sigaction(SIGHUP, &action, NULL) == 0);
	CHECK(raise(SIGUSR2) == 0 && outer == 1 && depth == 2);
	CHECK(sigaltstack(NULL, &now) == 0 && now.ss_sp == stack && now.ss_flags == 0);
	CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0);
	for (int sig = 1; sig < 32; sig++) CHECK(sigismember(&mask, sig) == (sig == SIGUSR1));
	return finish();
}
