/* A child for each way in which clone(2) lets it share memory, descriptors, directories and signal actions with its parent: what is shared is so afterwards, and what is
 * not is not. */
#include "gate.h"
#include "tree.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { STACK = 16384, WAYS = 16 };
static const int flags[4] = {CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_SIGHAND};
static char stacks[WAYS][STACK] __attribute__((aligned(64)));
static int *shared; /* of all: gate, there, done */
static int own[WAYS];

static int flags_of(int way)
{
	int all = 0;
	for (int k = 0; k < 4; k++) if (way & 1 << k) all |= flags[k];
	return all;
}

static int possible(int way) { return !(way & 8) || way & 1; } /* CLONE_SIGHAND asks for CLONE_VM */

static void wait_for(int *word, int value)
{
	for (int is; (is = __atomic_load_n(word, __ATOMIC_ACQUIRE)) < value;) syscall(SYS_futex, word, FUTEX_WAIT, is, NULL, NULL, 0);
}

static void arrive(int *word)
{
	__atomic_add_fetch(word, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Raw calls, none that keep something for a thread: some have the parent's memory and are none of its threads. Each changes all it has, in turn. */
static int child(void *argument)
{
	const long way = (long)argument;
	arrive(&shared[1]);
	wait_for(&shared[0], 1 + (int)way);
	own[way] = 77;
	syscall(SYS_dup3, 0, 500 + way, 0);
	syscall(SYS_umask, 0100 + way);
	struct { void *handler; long flags; void *restorer; unsigned long mask; } ignore = {.handler = SIG_IGN};
	syscall(SYS_rt_sigaction, SIGRTMIN + way, &ignore, NULL, 8);
	arrive(&shared[2]);
	wait_for(&shared[0], 1 + WAYS);
	syscall(SYS_exit, way);
	return 0;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pid_t pids[WAYS] = {};
	int count = 0;
	CHECK((shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED);
	for (long way = 0; way < WAYS; way++) {
		if (!possible(way)) continue;
		CHECK((pids[way] = clone(child, stacks[way] + STACK, flags_of(way) | SIGCHLD, (void *)way)) > 0);
		count++;
	}
	wait_for(&shared[1], count);
	wait_go();
	for (long way = 0, done = 0; way < WAYS; way++) {
		struct sigaction action;
		if (!possible(way)) continue;
		umask(0);
		__atomic_store_n(&shared[0], 1 + way, __ATOMIC_RELEASE);
		syscall(SYS_futex, &shared[0], FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
		wait_for(&shared[2], ++done);
		CHECK(own[way] == (way & 1 ? 77 : 0));
		CHECK((fcntl(500 + way, F_GETFD) >= 0) == !!(way & 2));
		CHECK(umask(0) == (way & 4 ? 0100u + way : 0));
		CHECK(sigaction(SIGRTMIN + way, NULL, &action) == 0 && (action.sa_handler == SIG_IGN) == !!(way & 8));
	}
	__atomic_store_n(&shared[0], 1 + WAYS, __ATOMIC_RELEASE);
	syscall(SYS_futex, &shared[0], FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	for (long way = 0; way < WAYS; way++) if (possible(way)) CHECK(tree_reap(pids[way]) == way);
	return finish();
}
