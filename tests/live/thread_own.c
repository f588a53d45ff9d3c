/*
 * What each of many threads has of its own, all of it different: alternate stack, tid address, parent-death signal, timer slack, personality, nice
 * value, processor, io priority, name, no_new_privs of one, a pending signal of some. In three processes: one with nothing unusual, one in which a
 * thread has a switch that only it can tell of (memory errors, PR_MCE_KILL), one in which the main thread has a timer running.
 */
#include "gate.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>

enum { COUNT = 70, SIZE = 65536 };
enum { PLAIN, SWITCHED, TIMED, PROCESSES };
static int gate, kind;
static char *stacks;
static pid_t tids[COUNT];
static int addresses[COUNT];

static int io_of(int n) { return 2 << 13 | (n % 8); }

static void *body(void *argument)
{
	int n = (int)(long)argument, signal = 0;
	unsigned long at = 0;
	char name[16], now[16] = "";
	cpu_set_t cpus;
	sigset_t blocked, waiting;
	stack_t alt = {.ss_sp = stacks + (size_t)n * SIZE, .ss_size = SIZE - 64 * (size_t)(n + 1)}, seen;
	snprintf(name, sizeof name, "own %d", n);
	CHECK(sigaltstack(&alt, NULL) == 0);
	syscall(SYS_set_tid_address, &addresses[n]);
	CHECK(prctl(PR_SET_PDEATHSIG, n % 2 ? SIGRTMIN + n % 20 : 0) == 0);
	CHECK(prctl(PR_SET_TIMERSLACK, 60000UL + (unsigned long)n) == 0);
	CHECK(personality(n % 3 ? 0 : ADDR_NO_RANDOMIZE) != -1);
	CHECK(setpriority(PRIO_PROCESS, 0, n % 10) == 0);
	CPU_ZERO(&cpus);
	CPU_SET(n % 2, &cpus);
	if (n % 5 == 0) CHECK(sched_setaffinity(0, sizeof cpus, &cpus) == 0 || n % 2);
	CHECK(syscall(SYS_ioprio_set, 1, 0, io_of(n)) == 0);
	CHECK(prctl(PR_SET_NAME, name) == 0);
	if (n == 7) CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	if (n == 8 && kind == SWITCHED) CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN + 25);
	if (n % 7 == 0) CHECK(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0 && pthread_kill(pthread_self(), SIGRTMIN + 25) == 0);
	thread_here(&tids[n]);
	gate_wait(&gate);
	CHECK(sigaltstack(NULL, &seen) == 0 && seen.ss_sp == alt.ss_sp && seen.ss_size == alt.ss_size && seen.ss_flags == 0);
	CHECK(prctl(PR_GET_TID_ADDRESS, &at) == 0 && at == (unsigned long)&addresses[n]);
	CHECK(prctl(PR_GET_PDEATHSIG, &signal) == 0 && signal == (n % 2 ? SIGRTMIN + n % 20 : 0));
	CHECK(prctl(PR_GET_TIMERSLACK) == 60000 + n);
	CHECK(personality(0xffffffff) == (n % 3 ? 0 : ADDR_NO_RANDOMIZE));
	errno = 0;
	CHECK(getpriority(PRIO_PROCESS, 0) == n % 10 && !errno);
	if (n % 10 == 0) CHECK(sched_getaffinity(0, sizeof cpus, &cpus) == 0 && CPU_COUNT(&cpus) == 1 && CPU_ISSET(0, &cpus));
	CHECK(syscall(SYS_ioprio_get, 1, 0) == io_of(n));
	CHECK(prctl(PR_GET_NAME, now) == 0 && strcmp(now, name) == 0);
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == (n == 7));
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == (n == 8 && kind == SWITCHED ? PR_MCE_KILL_EARLY : PR_MCE_KILL_DEFAULT));
	CHECK(sigpending(&waiting) == 0 && sigismember(&waiting, SIGRTMIN + 25) == (n % 7 == 0));
	/* pthread_join waits at the address that the C library had set. */
	if (n % 7 == 0) CHECK(sigwaitinfo(&blocked, NULL) == SIGRTMIN + 25);
	return NULL;
}

static void run(void)
{
	static char memory[COUNT][SIZE] __attribute__((aligned(16)));
	const struct itimerval far = {{1000, 0}, {1000, 0}};
	pthread_t thread;
	stacks = memory[0];
	if (kind == TIMED) CHECK(setitimer(ITIMER_REAL, &far, NULL) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&thread, NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
}

static void check(void)
{
	struct itimerval left;
	char path[64];
	gate_open(&gate);
	/* Nobody joins them: they say at their own addresses that they have ended. */
	for (int i = 0; i < COUNT; i++) {
		snprintf(path, sizeof path, "/proc/self/task/%d", tids[i]);
		for (int n = 0; access(path, F_OK) == 0; n++) {
			CHECK(n < 10000);
			usleep(1000);
		}
		CHECK(addresses[i] == 0);
	}
	CHECK(getitimer(ITIMER_REAL, &left) == 0 && (left.it_value.tv_sec > 800) == (kind == TIMED) && (left.it_interval.tv_sec == 1000) == (kind == TIMED));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int up[2], go[2], status;
	char byte = 0;
	CHECK(pipe(up) == 0 && pipe(go) == 0);
	for (int i = 0; i < COUNT; i++) addresses[i] = -1;
	for (kind = 0; kind < PROCESSES; kind++) {
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid) continue;
		run();
		CHECK(write(up[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
		check();
		_exit(0);
	}
	for (int i = 0; i < PROCESSES; i++) CHECK(read(up[0], &byte, 1) == 1);
	wait_go();
	CHECK(write(go[1], "abc", PROCESSES) == PROCESSES);
	for (int i = 0; i < PROCESSES; i++) CHECK(wait(&status) > 0 && status == 0);
	return finish();
}
