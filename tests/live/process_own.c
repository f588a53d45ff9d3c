/*
 * What processes of a tree have of their own, each another thing than its parent: signal actions, limits, descriptors closed, moved and closed on exec,
 * directories, flags of memory areas, OOM score, coredump filter, dumpable, subreaper, interval and POSIX timers, brk, THP switch.
 */
#include "live.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

enum { COUNT = 24 };
static char *area;
static void *top;
static timer_t timer;

static void on_signal(int sig) {}

static void set_file(const char *path, int value)
{
	char text[16];
	int fd = open(path, O_WRONLY), n = snprintf(text, sizeof text, "%d", value);
	CHECK(fd >= 0 && write(fd, text, (size_t)n) == n);
	close(fd);
}

static int file_of(const char *path, int base)
{
	char text[32] = "";
	CHECK(slurp(path, text, sizeof text - 1) > 0);
	return (int)strtol(text, NULL, base);
}

static int has_flag(const void *at, const char *flag)
{
	static char text[1 << 20];
	char key[32];
	ssize_t n = slurp("/proc/self/smaps", text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = 0;
	snprintf(key, sizeof key, "%lx-", (unsigned long)at);
	char *line = strstr(text, key);
	CHECK(line && (line = strstr(line, "VmFlags:")));
	char *end = strchr(line, '\n'), *found;
	*end = 0;
	found = strstr(line, flag);
	*end = '\n';
	return found != NULL;
}

static void set(int n)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = n % 2 ? SA_RESTART | SA_NODEFER : SA_ONSTACK};
	struct rlimit limit = {100 + (rlim_t)n, 500 + (rlim_t)n};
	struct itimerval timed = {{300, 0}, {600 + n, 0}};
	struct itimerspec later = {{0, 0}, {900 + n, 0}};
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2};
	sigaddset(&action.sa_mask, SIGRTMIN + n % 30);
	CHECK(sigaction(SIGRTMIN + n % 10, &action, NULL) == 0 && signal(SIGHUP, n % 3 ? SIG_IGN : SIG_DFL) != SIG_ERR);
	CHECK(setrlimit(RLIMIT_LOCKS, &limit) == 0);
	CHECK(fcntl(5, F_SETFD, n % 2 ? FD_CLOEXEC : 0) == 0);
	if (n % 4 == 1) CHECK(close(6) == 0);
	if (n % 4 == 2) CHECK(dup2(5, 7) == 7);
	if (n % 4 == 3) CHECK(dup2(1, 90) == 90);
	for (int fd = 100; n == COUNT - 1 && fd < 180; fd++) CHECK(dup2(0, fd) == fd && fcntl(fd, F_SETFD, fd % 2) == 0);
	if (n % 5 == 1) CHECK(chdir("/tmp") == 0);
	if (n % 5 == 2) CHECK(chdir("/proc") == 0);
	if (n % 6 == 1) CHECK(madvise(area, 4096, MADV_DONTFORK) == 0);
	if (n % 6 == 2) CHECK(madvise(area, 4096, MADV_DONTDUMP) == 0);
	if (n % 6 == 3) CHECK(madvise(area, 4096, MADV_WIPEONFORK) == 0);
	if (n % 6 == 4) CHECK(mlock(area, 4096) == 0);
	if (n % 6 == 5) CHECK(madvise(area, 4096, MADV_RANDOM) == 0);
	if (n % 7 == 1) set_file("/proc/self/oom_score_adj", 100 + n);
	if (n % 7 == 2) set_file("/proc/self/coredump_filter", 3 + n % 4);
	if (n % 7 == 3 && !geteuid()) CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
	if (n % 7 == 4) CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	if (n % 7 == 5) CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	if (n % 8 == 1) CHECK(setitimer(ITIMER_REAL, &timed, NULL) == 0);
	if (n % 8 == 2) CHECK(setitimer(ITIMER_VIRTUAL, &timed, NULL) == 0);
	if (n % 8 == 3) CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &later, NULL) == 0);
	if (n % 8 == 4) CHECK(sbrk(8192 * (n + 1)) != (void *)-1);
	top = sbrk(0);
}

static void check(int n)
{
	struct sigaction action;
	struct rlimit limit;
	struct itimerval real, virt;
	struct itimerspec later;
	char cwd[64] = "";
	int reaper = -1;
	CHECK(sigaction(SIGRTMIN + n % 10, NULL, &action) == 0 && action.sa_handler == on_signal &&
	      (action.sa_flags & ~0x04000000) == (n % 2 ? SA_RESTART | SA_NODEFER : SA_ONSTACK) && sigismember(&action.sa_mask, SIGRTMIN + n % 30));
	CHECK(sigaction(SIGHUP, NULL, &action) == 0 && action.sa_handler == (n % 3 ? SIG_IGN : SIG_DFL));
	CHECK(getrlimit(RLIMIT_LOCKS, &limit) == 0 && limit.rlim_cur == 100 + (rlim_t)n && limit.rlim_max == 500 + (rlim_t)n);
	CHECK(fcntl(5, F_GETFD) == (n % 2 ? FD_CLOEXEC : 0));
	CHECK((fcntl(6, F_GETFD) < 0) == (n % 4 == 1));
	CHECK((fcntl(7, F_GETFD) >= 0) == (n % 4 == 2) && (fcntl(90, F_GETFD) >= 0) == (n % 4 == 3));
	for (int fd = 100; n == COUNT - 1 && fd < 180; fd++) CHECK(fcntl(fd, F_GETFD) == fd % 2);
	CHECK(getcwd(cwd, sizeof cwd) || errno == ERANGE);
	if (n % 5 == 1) CHECK(!strcmp(cwd, "/tmp"));
	if (n % 5 == 2) CHECK(!strcmp(cwd, "/proc"));
	CHECK(has_flag(area, " dc") == (n % 6 == 1) && has_flag(area, " dd") == (n % 6 == 2) && has_flag(area, " wf") == (n % 6 == 3));
	CHECK(has_flag(area, " lo") == (n % 6 == 4) && has_flag(area, " rr") == (n % 6 == 5));
	CHECK(file_of("/proc/self/oom_score_adj", 10) == (n % 7 == 1 ? 100 + n : 0));
	if (n % 7 == 2) CHECK(file_of("/proc/self/coredump_filter", 16) == 3 + n % 4);
	CHECK(prctl(PR_GET_DUMPABLE) == (n % 7 != 3 || geteuid() != 0));
	CHECK(prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0 && reaper == (n % 7 == 4));
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == (n % 7 == 5));
	CHECK(getitimer(ITIMER_REAL, &real) == 0 && getitimer(ITIMER_VIRTUAL, &virt) == 0);
	CHECK((real.it_value.tv_sec > 300) == (n % 8 == 1) && (virt.it_value.tv_sec > 300) == (n % 8 == 2));
	CHECK((real.it_interval.tv_sec == 300) == (n % 8 == 1) && (virt.it_interval.tv_sec == 300) == (n % 8 == 2));
	if (n % 8 == 3) CHECK(timer_gettime(timer, &later) == 0 && later.it_value.tv_sec > 600 && later.it_value.tv_sec <= 900 + n);
	CHECK(sbrk(0) == top);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int up[2], go[2], status;
	char byte = 0;
	CHECK(open("/dev/null", O_RDWR) >= 0);
	CHECK(dup2(0, 5) == 5 && dup2(0, 6) == 6);
	for (int fd = 7; fd < 100; fd++) close(fd);
	CHECK(pipe(up) == 0 && pipe(go) == 0 && dup2(up[0], 40) == 40 && dup2(up[1], 41) == 41 && dup2(go[0], 42) == 42 && dup2(go[1], 43) == 43);
	for (int i = 0; i < 2; i++) CHECK(close(up[i]) == 0 && close(go[i]) == 0);
	CHECK(dup2(0, 5) == 5 && dup2(0, 6) == 6);
	area = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(area != MAP_FAILED && mprotect(area += 4096, 4096, PROT_READ | PROT_WRITE) == 0);
	area[0] = 1;
	for (int n = 0; n < COUNT; n++) {
		pid_t pid = fork();
		CHECK(pid >= 0);
		if (pid) continue;
		set(n);
		CHECK(write(41, &byte, 1) == 1 && read(42, &byte, 1) == 1);
		check(n);
		_exit(0);
	}
	for (int i = 0; i < COUNT; i++) CHECK(read(40, &byte, 1) == 1);
	wait_go();
	static const char all[COUNT];
	CHECK(write(43, all, COUNT) == COUNT);
	for (int i = 0; i < COUNT; i++) CHECK(wait(&status) > 0 && status == 0);
	return finish();
}
