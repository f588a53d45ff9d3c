/* Scheduling classes of threads, with their parameters, reset-on-fork, a time slice, and utilisation clamps where the kernel has them. */
#include "gate.h"
#include <sched.h>
#include <stdint.h>

struct attributes {
	uint32_t size, policy; uint64_t flags; int32_t nice; uint32_t priority; uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};
enum { BATCH = 3, IDLE = 5, DEADLINE = 6, RESET_ON_FORK = 1, MS = 1000000 };
static const struct attributes wanted[] = {
	{.policy = SCHED_OTHER, .nice = 5}, {.policy = BATCH, .nice = 3}, {.policy = IDLE},
	{.policy = SCHED_FIFO, .priority = 3}, {.policy = SCHED_RR, .priority = 7, .flags = RESET_ON_FORK},
	{.policy = SCHED_OTHER, .flags = RESET_ON_FORK, .nice = 1}, {.policy = SCHED_OTHER, .runtime = 1 * MS},
	{.policy = DEADLINE, .runtime = 1 * MS, .deadline = 100 * MS, .period = 200 * MS, .flags = RESET_ON_FORK}};
enum { COUNT = sizeof wanted / sizeof *wanted };
static int gate, refused;
static pid_t tids[COUNT];

static void get(struct attributes *to)
{
	memset(to, 0, sizeof *to);
	CHECK(syscall(SYS_sched_getattr, 0, to, sizeof *to, 0) == 0);
}

static void *body(void *argument)
{
	long number = (long)argument;
	struct attributes attributes = wanted[number], before, after;
	attributes.size = sizeof attributes - 8; /* without the utilisation, which not every kernel takes */
	if (syscall(SYS_sched_setattr, 0, &attributes, 0) != 0) {
		/* Real time may be forbidden in this cgroup. */
		CHECK(errno == EPERM || errno == EBUSY);
		__atomic_add_fetch(&refused, 1, __ATOMIC_SEQ_CST);
	}
	if (number < 2) {
		struct attributes clamps = {.size = sizeof clamps, .flags = 0x78, .util_min = 100 * number, .util_max = 700};
		if (syscall(SYS_sched_setattr, 0, &clamps, 0) != 0) CHECK(errno == EOPNOTSUPP || errno == E2BIG);
	}
	get(&before);
	thread_here(&tids[number]);
	gate_wait(&gate);
	get(&after);
	if (memcmp(&before, &after, sizeof after)) {
		live_say("not ok: thread %ld has policy %u flags %#lx nice %d priority %u runtime %lu", number, after.policy,
			(long)after.flags, after.nice, after.priority, (long)after.runtime);
		_exit(1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	for (long i = 0; i < COUNT; i++) {
		CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
		await_call(&tids[i], SYS_futex);
	}
	CHECK(refused <= 3);
	wait_go();
	CHECK(sched_getscheduler(0) == SCHED_OTHER);
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
