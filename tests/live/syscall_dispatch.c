/* System calls handed to the program itself (PR_SET_SYSCALL_USER_DISPATCH). */
#include "live.h"
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { SET_DISPATCH = 59, ON = 1, ALLOW = 0, BLOCK = 1 };
static volatile char selector = ALLOW;
static volatile sig_atomic_t caught;

static void on_sys(int sig, siginfo_t *info, void *context)
{
	selector = ALLOW;
	caught = info->si_syscall;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct sigaction action = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
	CHECK(sigaction(SIGSYS, &action, NULL) == 0);
	if (prctl(SET_DISPATCH, ON, 0, 0, &selector) != 0) {
		live_say("skip: no system call dispatch here");
		return 0;
	}
	wait_go();
	CHECK(caught == 0);
	selector = BLOCK;
	syscall(SYS_getppid);
	CHECK(selector == ALLOW && caught == SYS_getppid);
	return finish();
}
