/* Anonymous memory shared by a parent and a child: one memory after as before, also where the child has moved its part,
 * unmapped some of it or made it read-only; a futex in it wakes the other task. */
#include "data.h"
#include "tree.h"
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>

enum { PAGE = 4096, PAGES = 64, SIZE = PAGES * PAGE };
static char *memory;
static struct shared { int word; int told; } *shared;

static int child(void *argument)
{
	char *moved = mremap(memory + 32 * PAGE, 32 * PAGE, 32 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		mmap(NULL, 32 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	CHECK(moved != MAP_FAILED && munmap(memory, 4 * PAGE) == 0 && mprotect(memory + 8 * PAGE, PAGE, PROT_READ) == 0);
	moved[0] = 'm';
	tree_park();
	CHECK(data_holds(memory + 4 * PAGE, 20 * PAGE, 2) && moved[0] == 'm');
	CHECK(memcmp(memory + 30 * PAGE, "parent", 6) == 0 && memcmp(moved + PAGE, "moved?", 6) == 0);
	moved[2 * PAGE] = 'n';
	struct timespec limit = {5, 0};
	while (__atomic_load_n(&shared->word, __ATOMIC_ACQUIRE) == 0)
		CHECK(syscall(SYS_futex, &shared->word, FUTEX_WAIT, 0, &limit, NULL, 0) == 0 || errno == EAGAIN);
	shared->told = 1;
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	CHECK(zero >= 0);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0);
	CHECK(memory != MAP_FAILED && shared != MAP_FAILED && close(zero) == 0);
	data_fill(memory, 4 * PAGE, 1);
	data_fill(memory + 4 * PAGE, 20 * PAGE, 2);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(data_holds(memory, 4 * PAGE, 1) && data_holds(memory + 4 * PAGE, 20 * PAGE, 2) && memory[32 * PAGE] == 'm');
	for (int i = 24 * PAGE; i < 32 * PAGE; i++) CHECK(memory[i] == 0);
	memcpy(memory + 30 * PAGE, "parent", 6);
	memcpy(memory + 33 * PAGE, "moved?", 6);
	CHECK(kill(pid, SIGUSR1) == 0);
	usleep(2000);
	__atomic_store_n(&shared->word, 1, __ATOMIC_RELEASE);
	CHECK(syscall(SYS_futex, &shared->word, FUTEX_WAKE, 1, NULL, NULL, 0) >= 0);
	CHECK(tree_reap(pid) == 1 && shared->told == 1 && memory[34 * PAGE] == 'n');
	/* A task born now shares it as well. */
	if ((pid = fork()) == 0) _exit((memory[0] = 'x') != 'x');
	CHECK(tree_reap(pid) == 0 && memory[0] == 'x');
	return finish();
}
