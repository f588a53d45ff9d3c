/* A signal handler that has interrupted the vdso: under another kernel (tests/run.py alters the checkpoint) it has nothing to go
 * back to, and the restore must be refused. */
#include "live.h"
#include <sys/auxv.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>

static unsigned long vdso;
static volatile sig_atomic_t done;

static void on_alarm(int sig, siginfo_t *info, void *context)
{
	unsigned long at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	if (done || at < vdso || at >= vdso + 0x4000) return;
	done = 1;
	wait_go();
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct sigaction action = {.sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct itimerval often = {{0, 1000}, {0, 1000}};
	struct timespec now;
	if (!(vdso = getauxval(AT_SYSINFO_EHDR))) {
		live_say("skip: no vdso");
		return 0;
	}
	CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
	while (!done) CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return finish();
}
