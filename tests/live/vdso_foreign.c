/* The vdso of another kernel: tests/run.py alters the one in the checkpoint and leaves a file that says so. What it serves works
 * through the old addresses, in a thread and in a child too; this kernel's own stands elsewhere. */
#include "gate.h"
#include "tree.h"
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

static int gate;
static pid_t tid;

static void check_clocks(void)
{
	struct timespec before, now, after;
	struct timeval day;
	unsigned cpu = -1, node = -1;
	CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before) == 0 && clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after) == 0);
	double from = before.tv_sec + before.tv_nsec / 1e9, at = now.tv_sec + now.tv_nsec / 1e9;
	CHECK(at >= from && at <= after.tv_sec + after.tv_nsec / 1e9);
	CHECK(gettimeofday(&day, NULL) == 0 && labs(day.tv_sec - time(NULL)) <= 1);
	CHECK(getcpu(&cpu, &node) == 0 && cpu < 100000 && node < 100000);
	CHECK(clock_getres(CLOCK_MONOTONIC, &now) == 0 && now.tv_nsec > 0);
}

static void *body(void *argument)
{
	check_clocks();
	thread_here(&tid);
	gate_wait(&gate);
	check_clocks();
	return NULL;
}

static unsigned long area_of(const char *name)
{
	static char text[1 << 18];
	ssize_t n = slurp("/proc/self/maps", text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = 0;
	char *line = strstr(text, name);
	CHECK(line);
	while (line > text && line[-1] != '\n') line--;
	return strtoul(line, NULL, 16);
}

static void check_moved(unsigned long vdso)
{
	struct stat st;
	unsigned long now = area_of("[vdso]");
	if (stat("altered", &st) == 0) CHECK(now != vdso);
	CHECK(getauxval(AT_SYSINFO_EHDR) == vdso && memcmp((void *)vdso, "\177ELF", 4) == 0 && memcmp((void *)now, "\177ELF", 4) == 0);
	area_of("[vvar]");
	check_clocks();
}

static int child(void *argument)
{
	tree_park();
	check_moved((unsigned long)argument);
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pthread_t thread;
	unsigned long vdso = getauxval(AT_SYSINFO_EHDR);
	if (!vdso) {
		live_say("skip: no vdso");
		return 0;
	}
	CHECK(area_of("[vdso]") == vdso);
	check_clocks();
	pid_t pid = tree_start(child, (void *)vdso);
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	await_call(&tid, SYS_futex);
	wait_go();
	check_moved(vdso);
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0);
	pid_t born = fork();
	if (!born) {
		check_moved(vdso);
		_exit(5);
	}
	int status;
	CHECK(waitpid(born, &status, 0) == born && status == 5 << 8);
	CHECK(tree_finish(pid) == 1);
	return finish();
}
