/* Processes that share all that clone(2) has a flag for, and are no threads of one another: memory, descriptors, directories, signal
 * actions. One of them has a child that shares nothing, and one that shares its memory and has threads. */
#include "data.h"
#include "gate.h"
#include "tree.h"
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { STACK = 65536, SIZE = 40000 };
static char stacks[3][STACK] __attribute__((aligned(64)));
static char *memory;
static int gates[5], there[4], caught, wrong;

static void on_signal(int sig) { __atomic_add_fetch(&caught, 1, __ATOMIC_SEQ_CST); }

/* No function of the C library that keeps something for each thread: this is none of its threads. */
static void arrive(int number) { __atomic_store_n(&there[number], 1, __ATOMIC_RELEASE); }

static int grandchild(void)
{
	arrive(1); /* in its own memory */
	wait_signal();
	return data_holds(memory, SIZE, 2) && there[1] && !there[2] && caught == 0 ? 9 : 8;
}

static int inner(void *argument)
{
	arrive(2);
	gate_wait(&gates[2]);
	memory[1] = 'i';
	return 4;
}

static int everything(void *argument)
{
	pid_t own = syscall(SYS_fork);
	if (own == 0) _exit(grandchild());
	pid_t other = clone(inner, stacks[1] + STACK, CLONE_VM | SIGCHLD, NULL);
	arrive(0);
	gate_wait(&gates[0]);
	/* What the other has opened, changed and set is this one's too. */
	if (fcntl(400, F_GETFD) != 0 || access("in sub", F_OK) != 0) wrong |= 1;
	struct sigaction action;
	if (sigaction(SIGUSR2, NULL, &action) != 0 || action.sa_handler != on_signal) wrong |= 2;
	if (sigaction(SIGWINCH, &(struct sigaction){.sa_handler = on_signal}, NULL) != 0) wrong |= 4;
	memory[0] = 'e';
	int status;
	__atomic_store_n(&gates[2], 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &gates[2], FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	if (waitpid(other, &status, 0) != other || status != 4 << 8) wrong |= 8;
	if (kill(own, SIGUSR1) != 0 || waitpid(own, &status, 0) != own || status != 9 << 8) wrong |= 16;
	return 3;
}

static void *thread(void *argument)
{
	gate_wait(&gates[3]);
	return memory;
}

static void open_gate(int *gate)
{
	__atomic_store_n(gate, 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_futex, gate, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0) >= 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t other;
	void *result;
	CHECK(mkdir("sub", 0700) == 0 && close(open("sub/in sub", O_WRONLY | O_CREAT, 0600)) == 0);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	data_fill(memory, SIZE, 2);
	CHECK(pthread_create(&other, NULL, thread, NULL) == 0);
	pid_t pid = clone(everything, stacks[0] + STACK, CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SIGHAND | SIGCHLD, NULL);
	CHECK(pid > 0);
	while (!__atomic_load_n(&there[0], __ATOMIC_ACQUIRE) || !__atomic_load_n(&there[2], __ATOMIC_ACQUIRE)) usleep(1000);
	usleep(50000);
	wait_go();
	CHECK(data_holds(memory, SIZE, 2) && dup2(0, 400) == 400 && chdir("sub") == 0);
	CHECK(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = on_signal}, NULL) == 0);
	open_gate(&gates[0]);
	CHECK(tree_reap(pid) == 3);
	if (wrong) live_say("not ok: wrong %d", wrong), _exit(1);
	CHECK(memory[0] == 'e' && memory[1] == 'i');
	CHECK(raise(SIGWINCH) == 0 && caught == 1);
	open_gate(&gates[3]);
	CHECK(pthread_join(other, &result) == 0 && result == memory);
	return finish();
}
