/* The three interval timers, far from their end, one of them for once only; then each comes with its signal. */
#include "live.h"
#include <sys/time.h>
#include <time.h>

static volatile sig_atomic_t seen[65];
static void on_timer(int sig) { seen[sig]++; }

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static const struct { int which, sig; struct itimerval value; } timers[] = {
		{ITIMER_REAL, SIGALRM, {{0, 0}, {500, 0}}},
		{ITIMER_VIRTUAL, SIGVTALRM, {{33, 44}, {400, 5000}}},
		{ITIMER_PROF, SIGPROF, {{55, 66}, {300, 0}}},
	};
	for (int i = 0; i < 3; i++) {
		CHECK(signal(timers[i].sig, on_timer) != SIG_ERR);
		CHECK(setitimer(timers[i].which, &timers[i].value, NULL) == 0);
	}
	wait_go();
	for (int i = 0; i < 3; i++) {
		struct itimerval now, soon = {{0, 0}, {0, 1}};
		const struct itimerval *set = &timers[i].value;
		CHECK(getitimer(timers[i].which, &now) == 0);
		/* The kernel keeps the two of processor time to its tick. */
		CHECK(now.it_interval.tv_sec == set->it_interval.tv_sec);
		CHECK(labs(now.it_interval.tv_usec - set->it_interval.tv_usec) <= 10000);
		CHECK(now.it_value.tv_sec <= set->it_value.tv_sec && now.it_value.tv_sec > set->it_value.tv_sec - 100);
		CHECK(seen[timers[i].sig] == 0 && setitimer(timers[i].which, &soon, NULL) == 0);
		time_t end = time(NULL) + 5;
		while (!seen[timers[i].sig] && time(NULL) < end) continue;
		CHECK(seen[timers[i].sig] == 1);
	}
	return finish();
}
