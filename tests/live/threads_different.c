/* A thousand threads, each with credentials, a name, an affinity, niceness, timer slack, i/o priority, signal mask, alternate stack, directory or seccomp filter of
 * its own, asleep in one of four calls. */
#include "gate.h"
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define COUNT 1000
static int gate, started, good;
static int ends[2];
static struct each { pid_t tid; char stack[8192]; } each[COUNT];

static mode_t umask_now(void)
{
	mode_t is = umask(0);
	umask(is);
	return is;
}

static void set_state(int i)
{
	char name[16], *stack = each[i].stack;
	cpu_set_t set;
	sigset_t mask;
	snprintf(name, sizeof name, "thread %d", i);
	CPU_ZERO(&set);
	CPU_SET(i % 2, &set);
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + i % 20);
	CHECK(prctl(PR_SET_NAME, name) == 0 && prctl(PR_SET_TIMERSLACK, 60000 + i) == 0 && pthread_sigmask(SIG_BLOCK, &mask, NULL) == 0);
	if (i % 7 == 0) CHECK(sched_setaffinity(0, sizeof set, &set) == 0 || errno == EINVAL);
	CHECK(setpriority(PRIO_PROCESS, gettid(), i % 19) == 0 && syscall(SYS_ioprio_set, 1, 0, 2 << 13 | i % 8) == 0);
	CHECK(sigaltstack(&(stack_t){.ss_sp = stack, .ss_size = 8192}, NULL) == 0);
	if (i % 3 == 0) {
		CHECK(unshare(CLONE_FS) == 0 && chdir(i % 2 ? "/proc" : "/tmp") == 0);
		umask(i % 64);
	}
	if (i % 5 == 1) {
		struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | i % 100), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
		struct sock_fprog program = {4, code};
		CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
	}
	if (i % 4 == 2) CHECK(syscall(SYS_setresgid, 1000 + i, 2000 + i, 3000 + i) == 0 && syscall(SYS_setresuid, 1000 + i, 0, 3000 + i) == 0);
}

static void check_state(int i)
{
	char name[16], wanted[16], path[16];
	sigset_t mask;
	stack_t stack;
	uid_t r, e, s;
	snprintf(wanted, sizeof wanted, "thread %d", i);
	CHECK(prctl(PR_GET_NAME, name) == 0 && !strcmp(name, wanted) && prctl(PR_GET_TIMERSLACK) == 60000 + i);
	CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0 && sigismember(&mask, SIGRTMIN + i % 20) && !sigismember(&mask, SIGRTMIN + (i + 1) % 20));
	CHECK(getpriority(PRIO_PROCESS, gettid()) == i % 19 && syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | i % 8));
	CHECK(sigaltstack(NULL, &stack) == 0 && stack.ss_sp == each[i].stack && stack.ss_size == 8192);
	if (i % 3 == 0) CHECK(getcwd(path, sizeof path) && !strcmp(path, i % 2 ? "/proc" : "/tmp") && umask_now() == i % 64u);
	errno = 0;
	if (i % 5 == 1) CHECK((syscall(SYS_getppid) == -1 && errno == i % 100) || i % 100 == 0);
	else CHECK(syscall(SYS_getppid) > 0);
	CHECK(getresuid(&r, &e, &s) == 0 && e == 0 && r == (i % 4 == 2 ? 1000u + i : 0) && s == (i % 4 == 2 ? 3000u + i : 0));
	CHECK(getresgid(&r, &e, &s) == 0 && r == (i % 4 == 2 ? 1000u + i : 0) && e == (i % 4 == 2 ? 2000u + i : 0));
	cpu_set_t set, all;
	CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && sched_getaffinity(getpid(), sizeof all, &all) == 0);
	CHECK(i % 7 || !CPU_ISSET(i % 2, &all) || (CPU_COUNT(&set) == 1 && CPU_ISSET(i % 2, &set)));
	CHECK(gettid() == each[i].tid);
}

static void *body(void *argument)
{
	const int i = (intptr_t)argument;
	char byte;
	set_state(i);
	thread_here(&each[i].tid);
	__atomic_add_fetch(&started, 1, __ATOMIC_SEQ_CST);
	switch (i % 4) {
	case 0: gate_wait(&gate); break;
	case 1: CHECK(poll(&(struct pollfd){.fd = ends[0], .events = POLLIN}, 1, -1) == 1); break;
	case 2: CHECK(read(ends[0], &byte, 1) == 1); break;
	case 3: while (!__atomic_load_n(&gate, __ATOMIC_SEQ_CST)) nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
	}
	check_state(i);
	__atomic_add_fetch(&good, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread[COUNT];
	pthread_attr_t small;
	char bytes[COUNT] = "";
	CHECK(pipe(ends) == 0 && pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 65536) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&thread[i], &small, body, (void *)i) == 0);
	while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < COUNT) usleep(1000);
	wait_go();
	CHECK(write(ends[1], bytes, COUNT) == COUNT);
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(thread[i], NULL) == 0);
	CHECK(good == COUNT);
	return finish();
}
