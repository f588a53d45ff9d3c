/* A POSIX timer that ticks with its signal blocked goes on ticking: a pending signal, overruns, more of
 * them later. One until a time on the real clock keeps what is left. */
#include "gate.h"

static timer_t timer, absolute;
#define TICK (SIGRTMIN + 1)
#define ONCE (SIGRTMIN + 2)

static int take(int sig, siginfo_t *info)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	int got;
	while ((got = sigtimedwait(&set, info, &(struct timespec){5, 0})) < 0 && errno == EINTR) continue;
	return got == sig && info->si_code == SI_TIMER;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, TICK);
	sigaddset(&set, ONCE);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = TICK, .sigev_value.sival_int = 71};
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	event.sigev_signo = ONCE;
	event.sigev_value.sival_int = 72;
	CHECK(timer_create(CLOCK_REALTIME, &event, &absolute) == 0);
	struct itimerspec often = {{0, 2000000}, {0, 2000000}}, once = {.it_value.tv_sec = 0}, now;
	struct timespec when;
	CHECK(clock_gettime(CLOCK_REALTIME, &when) == 0);
	once.it_value = (struct timespec){when.tv_sec + 1000, when.tv_nsec};
	CHECK(timer_settime(timer, 0, &often, NULL) == 0);
	siginfo_t info;
	CHECK(take(TICK, &info) && info.si_value.sival_int == 71);
	usleep(10000); /* pending again, and late */
	CHECK(sigpending(&set) == 0 && sigismember(&set, TICK));
	CHECK(timer_settime(absolute, TIMER_ABSTIME, &once, NULL) == 0);
	wait_go();
	CHECK(sigpending(&set) == 0 && sigismember(&set, TICK));
	int ticks = 0;
	while (ticks < 20) {
		CHECK(take(TICK, &info) && info.si_value.sival_int == 71);
		int missed = timer_getoverrun(timer);
		CHECK(missed >= 0 && missed == info.si_overrun);
		ticks += 1 + missed;
	}
	CHECK(timer_gettime(timer, &now) == 0 && now.it_interval.tv_sec == 0 && now.it_interval.tv_nsec == 2000000);
	CHECK(timer_delete(timer) == 0);
	CHECK(timer_gettime(absolute, &now) == 0 && now.it_value.tv_sec > 900 && now.it_value.tv_sec <= 1000);
	once.it_value = (struct timespec){when.tv_sec, 1};
	CHECK(timer_settime(absolute, TIMER_ABSTIME, &once, NULL) == 0);
	CHECK(take(ONCE, &info) && info.si_value.sival_int == 72);
	return finish();
}
