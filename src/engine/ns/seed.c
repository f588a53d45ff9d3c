/* See seed.h. */
#include "engine/ns/seed.h"

#include "base/fork.h"
#include "engine/ns/relay.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define WATCH_NS 100000000
#define ID_TRIES 1000

/* Shared by all of them. */
struct seed {
	uint32_t go, begun; /* futex words */
	int result;
	pid_t outside, inside; /* its ids for who made it, and in its own namespace */
	int arena_fd;
	char *arena;
	size_t arena_size;
	const void *batch;
	char *stack;
};

static long wait_word(uint32_t *word)
{
	struct timespec look = { 0, WATCH_NS };

	return syscall(__NR_futex, word, FUTEX_WAIT, 0, &look, NULL, 0);
}

static void set_word(uint32_t *word)
{
	__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	syscall(__NR_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* The root, up to its batch. The caller's end is its own until then. */
static _Noreturn void seed_main(struct seed *seed, const struct relay *relay, bool sibling)
{
	if (!sibling)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	/* Who may have ended before that was set. */
	while (!__atomic_load_n(&seed->go, __ATOMIC_SEQ_CST)) {
		if (relay_is_alone(relay))
			_exit(1);
		wait_word(&seed->go);
	}
	int r = unshare(CLONE_FILES) < 0 ? -errno : 0;
	if (!r && mmap(seed->arena, seed->arena_size, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, seed->arena_fd, 0) == MAP_FAILED)
		r = -errno;
	const void *batch = seed->batch;
	char *stack = seed->stack, *entry = seed->arena;
	seed->result = r;
	set_word(&seed->begun);
	if (r)
		_exit(1);
	restore_become(batch, stack, entry);
}

int seed_make(struct restore *s, uint64_t flags, pid_t pid)
{
	const bool sibling = s->request->sibling;
	struct clone_args args = { .flags = flags | CLONE_FILES | CLONE_PARENT | CLONE_CLEAR_SIGHAND, .set_tid = (uint64_t)&pid, .set_tid_size = 1 };
	struct seed *seed = mmap(NULL, sizeof(*seed), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigset_t all, before;

	if (seed == MAP_FAILED)
		return error_errno(s->e, -errno, "cannot map memory");
	s->ns.seed = seed;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	long child = syscall(__NR_clone3, &args, sizeof(args));
	if (child == 0)
		seed_main(seed, s->relay, sibling);
	int r = child < 0 ? -errno : 0;
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (r)
		return error_errno(s->e, r, "cannot create the first process of its pid namespace");
	seed->outside = (pid_t)child;
	seed->inside = pid;
	relay_born(s->relay, seed->outside);
	return 0;
}

/* Where the coordinator, and helpers that it makes, are in nobody's way. */
static pid_t find_id(const struct restore *s)
{
	pid_t highest = 1;

	for (size_t i = 0; i < s->tasks.count; i++)
		for (size_t k = 0; k < s->tasks.data[i]->threads.count; k++)
			highest = MAX(highest, s->tasks.data[i]->threads.data[k].tid);
	while (restore_has_id(s, highest))
		highest++;
	return highest;
}

int seed_follow(struct restore *s)
{
	struct seed *seed = s->ns.seed;
	_cleanup_close_ int pidfd = (int)syscall(__NR_pidfd_open, seed->outside, 0);
	pid_t id = find_id(s);
	int r = -EAGAIN;

	if (pidfd < 0 || setns(pidfd, CLONE_NEWPID) < 0)
		return error_errno(s->e, -errno, "cannot enter the new pid namespace");
	/* With less than that there is no such id: the namespace's limit. */
	for (int tries = 0; r < 0 && tries < ID_TRIES && id > 1; tries++, id++)
		r = relay_fork(CLONE_FILES, id, SIGKILL);
	return r ? error_errno(s->e, r, "cannot make a process in the new pid namespace") : 0;
}

int seed_grow(struct restore *s, const void *batch, char *stack)
{
	struct seed *seed = s->ns.seed;
	struct rlimit limit;

	seed->arena_fd = s->arena.fd;
	seed->arena = s->arena.start;
	seed->arena_size = s->arena.size;
	seed->batch = batch;
	seed->stack = stack;
	/* Ours was raised for the descriptors that both have (choose_fd_base). */
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || prlimit(seed->inside, RLIMIT_NOFILE, &limit, NULL) < 0)
		return error_errno(s->e, -errno, "cannot set the limits of process %d", seed->inside);
	set_word(&seed->go);
	while (!__atomic_load_n(&seed->begun, __ATOMIC_SEQ_CST))
		if (wait_word(&seed->begun) < 0 && errno == ETIMEDOUT && kill(seed->inside, 0) < 0)
			return error_set(s->e, -ECHILD, "process %d died before it was begun", seed->inside);
	return seed->result ? error_errno(s->e, seed->result, "cannot begin process %d", seed->inside) : 0;
}

void seed_release(struct restore *s)
{
	if (s->ns.seed)
		munmap(s->ns.seed, sizeof(*s->ns.seed));
	s->ns.seed = NULL;
}
