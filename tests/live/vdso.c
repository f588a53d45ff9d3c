/* The calls that the kernel's own page serves: right after the restore, in a thread too, and the page where it was. */
#include "gate.h"
#include <sys/auxv.h>
#include <sys/time.h>

static int gate;
static pid_t tid;

static void check_clocks(void)
{
	static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI, CLOCK_MONOTONIC_RAW,
		CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE};
	for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
		struct timespec before, now, after;
		CHECK(syscall(SYS_clock_gettime, clocks[i], &before) == 0 && clock_gettime(clocks[i], &now) == 0);
		CHECK(syscall(SYS_clock_gettime, clocks[i], &after) == 0);
		double from = before.tv_sec + before.tv_nsec / 1e9, at = now.tv_sec + now.tv_nsec / 1e9;
		CHECK(at >= from - 0.02 && at <= after.tv_sec + after.tv_nsec / 1e9 + 0.02);
	}
	struct timeval now;
	unsigned cpu = -1, node = -1;
	CHECK(gettimeofday(&now, NULL) == 0 && labs(now.tv_sec - time(NULL)) <= 1);
	CHECK(getcpu(&cpu, &node) == 0 && cpu < 100000 && node < 100000);
}

static void *body(void *argument)
{
	check_clocks();
	thread_here(&tid);
	gate_wait(&gate);
	check_clocks();
	return NULL;
}

static int mapped_as_vdso(unsigned long at)
{
	static char text[1 << 18];
	char wanted[32];
	ssize_t n = slurp("/proc/self/maps", text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = 0;
	snprintf(wanted, sizeof wanted, "%lx-", at);
	char *line = strstr(text, wanted), *label = strstr(text, "[vdso]");
	return line && label > line && !memchr(line, '\n', label - line);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread;
	unsigned long vdso = getauxval(AT_SYSINFO_EHDR);
	if (!vdso) {
		live_say("skip: no vdso");
		return 0;
	}
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	await_call(&tid, SYS_futex);
	check_clocks();
	double before = seconds_now(CLOCK_MONOTONIC);
	CHECK(mapped_as_vdso(vdso));
	wait_go();
	double after = seconds_now(CLOCK_MONOTONIC);
	CHECK(after >= before && after < before + 100);
	CHECK(getauxval(AT_SYSINFO_EHDR) == vdso && mapped_as_vdso(vdso) && memcmp((void *)vdso, "\177ELF", 4) == 0);
	check_clocks();
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0);
	return finish();
}
