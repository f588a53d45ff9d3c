/* Every resource limit, soft and hard, of a parent and of a child with others. */
#include "tree.h"
#include <sys/resource.h>

static struct rlimit before[RLIM_NLIMITS], after[RLIM_NLIMITS];

static void snapshot(struct rlimit *to)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) CHECK(getrlimit(i, &to[i]) == 0);
}

/* Each limit another one, none so low that the program cannot go on. */
static void change(int by)
{
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit limit;
		CHECK(getrlimit(i, &limit) == 0);
		rlim_t most = (4ULL << 40) + 4096 * (by + i);
		if (i == RLIMIT_NOFILE) most = 2000 + by;
		if (i == RLIMIT_NICE) most = 30 - by;
		if (i == RLIMIT_RTPRIO) most = 50 - by;
		if (i == RLIMIT_NPROC || i == RLIMIT_SIGPENDING) most = 20000 + by;
		if (limit.rlim_max > most) limit.rlim_max = most;
		if (i != RLIMIT_STACK && (limit.rlim_cur > limit.rlim_max - 1)) limit.rlim_cur = limit.rlim_max - 1;
		CHECK(setrlimit(i, &limit) == 0);
	}
}

static void check(void)
{
	snapshot(after);
	for (int i = 0; i < RLIM_NLIMITS; i++)
		if (before[i].rlim_cur != after[i].rlim_cur || before[i].rlim_max != after[i].rlim_max) {
			live_say("not ok: limit %d is %lu/%lu, not %lu/%lu", i, after[i].rlim_cur, after[i].rlim_max,
				before[i].rlim_cur, before[i].rlim_max);
			_exit(1);
		}
}

static int child(void *argument)
{
	change(1);
	CHECK(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 12345}) == 0 || errno == EPERM);
	snapshot(before);
	tree_park();
	check();
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	change(7);
	pid_t pid = tree_start(child, NULL);
	snapshot(before);
	wait_go();
	check();
	CHECK(tree_finish(pid) == 1);
	return finish();
}
