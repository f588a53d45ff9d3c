/* Seccomp filters: their number, their order, what they refuse; a child has one more. Set without no_new_privs. */
#include "proc.h"
#include "seccomp.h"
#include "tree.h"

static void filters_are(int count)
{
	long now = proc_number("/proc/self/status", "Seccomp_filters:");
	CHECK(now == -1 || now == count); /* Linux before 5.9 does not say */
	CHECK(proc_number("/proc/self/status", "Seccomp:") == 2 && prctl(PR_GET_SECCOMP) == 2);
	CHECK(proc_number("/proc/self/status", "NoNewPrivs:") == 0);
}

static int child(void *argument)
{
	seccomp_refuse(SYS_getuid, 79, 0);
	tree_park();
	filters_are(5);
	CHECK(refused_with(SYS_getuid, 79) && refused_with(SYS_getgid, 78) && refused_with(SYS_geteuid, 77));
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	seccomp_refuse(SYS_geteuid, 77, 0);
	seccomp_refuse(SYS_getgid, 76, 0);
	seccomp_refuse(SYS_getgid, 78, SECCOMP_FILTER_FLAG_LOG); /* the newest of the same weight counts */
	seccomp_refuse(SYS_sched_yield, 75, SECCOMP_FILTER_FLAG_SPEC_ALLOW);
	pid_t pid = tree_start(child, NULL);
	filters_are(4);
	wait_go();
	filters_are(4);
	CHECK(refused_with(SYS_geteuid, 77) && refused_with(SYS_getgid, 78) && refused_with(SYS_sched_yield, 75));
	CHECK(refused_with(SYS_getuid, 0) && refused_with(SYS_getpid, 0) && tree_finish(pid) == 1);
	/* One more still goes on top. */
	seccomp_refuse(SYS_geteuid, 90, 0);
	CHECK(refused_with(SYS_geteuid, 90));
	return finish();
}
