/* POSIX timers: their ids with gaps, clocks, ways to notify, intervals and what is left. Ids are the kernel's. */
#include "gate.h"

enum { COUNT = 7 };
static int ids[COUNT];
static pid_t tid;
static int gate;
static char before[4096], after[4096];

static int create(clockid_t clock, int notify, int sig, int value, pid_t thread)
{
	struct sigevent event = {.sigev_notify = notify, .sigev_signo = sig, .sigev_value.sival_int = value};
	event._sigev_un._tid = thread;
	int id = -1;
	CHECK(syscall(SYS_timer_create, clock, &event, &id) == 0);
	return id;
}

static void arm(int id, long seconds, long interval)
{
	struct itimerspec value = {.it_value.tv_sec = seconds, .it_interval = {interval, 5000}};
	CHECK(syscall(SYS_timer_settime, id, 0, &value, NULL) == 0);
}

static void *body(void *argument)
{
	thread_here(&tid);
	gate_wait(&gate);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 2);
	siginfo_t info;
	struct itimerspec soon = {.it_value.tv_nsec = 1};
	CHECK(syscall(SYS_timer_settime, ids[1], 0, &soon, NULL) == 0);
	while (sigwaitinfo(&set, &info) < 0) CHECK(errno == EINTR);
	CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 22);
	return NULL;
}

static void create_all(void)
{
	int gaps[3];
	ids[0] = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 1, 11, 0);
	gaps[0] = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 1, 0, 0);
	ids[1] = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 2, 22, tid);
	gaps[1] = create(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
	gaps[2] = create(CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0);
	ids[2] = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
	ids[3] = create(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGALRM, 33, 0);
	ids[4] = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 1, 44, 0);
	ids[5] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 55, 0); /* never armed */
	ids[6] = create(CLOCK_TAI, SIGEV_SIGNAL, SIGRTMIN + 1, 66, 0);
	for (int i = 0; i < 3; i++) CHECK(syscall(SYS_timer_delete, gaps[i]) == 0);
	for (int i = 0; i < COUNT; i++)
		if (i != 5) arm(ids[i], 1000 * (i + 1), 100 * i);
}

static void check_all(void)
{
	for (int i = 0; i < COUNT; i++) {
		struct itimerspec now = {{-1, -1}, {-1, -1}};
		CHECK(syscall(SYS_timer_gettime, ids[i], &now) == 0);
		if (i == 5) {
			CHECK(now.it_value.tv_sec == 0 && now.it_value.tv_nsec == 0 && now.it_interval.tv_sec == 0);
			continue;
		}
		CHECK(now.it_value.tv_sec <= 1000 * (i + 1) && now.it_value.tv_sec > 1000 * (i + 1) - 300);
		CHECK(now.it_interval.tv_sec == 100 * i && now.it_interval.tv_nsec == 5000);
	}
	CHECK(syscall(SYS_timer_gettime, ids[0] + 1, &(struct itimerspec){0}) == -1 && errno == EINVAL);
	CHECK(syscall(SYS_timer_gettime, ids[6] + 1, &(struct itimerspec){0}) == -1 && errno == EINVAL);
	struct itimerspec soon = {.it_value.tv_nsec = 1};
	CHECK(syscall(SYS_timer_settime, ids[5], 0, &soon, NULL) == 0);
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	while (sigwaitinfo(&set, &info) < 0) CHECK(errno == EINTR);
	CHECK(info.si_code == SI_TIMER && info.si_value.sival_int == 55);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	sigaddset(&set, SIGRTMIN + 2);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	await_call(&tid, SYS_futex);
	create_all();
	ssize_t length = slurp("/proc/self/timers", before, sizeof before - 1);
	CHECK(length == -1 || (length > 0 && strstr(before, "notify: signal/tid")));
	wait_go();
	if (length > 0) CHECK(slurp("/proc/self/timers", after, sizeof after - 1) > 0 && strcmp(before, after) == 0);
	check_all();
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0);
	return finish();
}
