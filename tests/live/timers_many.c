/* Five hundred POSIX timers, with gaps between their ids. */
#include "live.h"
#include <time.h>

enum { COUNT = 500 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static timer_t timers[COUNT];
	for (int i = 0; i < COUNT; i++) {
		struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + i % 20, .sigev_value.sival_int = i * 7};
		struct itimerspec value = {.it_value.tv_sec = 1000 + i, .it_interval.tv_nsec = i * 1000};
		CHECK(timer_create(CLOCK_MONOTONIC, &event, &timers[i]) == 0 && timer_settime(timers[i], 0, &value, NULL) == 0);
	}
	for (int i = 0; i < COUNT; i += 7) CHECK(timer_delete(timers[i]) == 0);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 19);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	wait_go();
	for (int i = 0; i < COUNT; i++) {
		struct itimerspec value;
		if (i % 7 == 0) continue;
		CHECK(timer_gettime(timers[i], &value) == 0 && value.it_interval.tv_nsec == i * 1000);
		CHECK(value.it_value.tv_sec <= 1000 + i && value.it_value.tv_sec > 850 + i);
	}
	CHECK(timer_settime(timers[499], 0, &(struct itimerspec){.it_value.tv_nsec = 1}, NULL) == 0);
	siginfo_t info;
	CHECK(sigwaitinfo(&set, &info) == SIGRTMIN + 19 && info.si_value.sival_int == 499 * 7);
	return finish();
}
