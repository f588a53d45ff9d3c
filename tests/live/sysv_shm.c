/* System V shared memory: attached by a parent, for writing and read-only, and a child; its id, how many have it. */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>
#include <sys/shm.h>

enum { SIZE = 100000 };
static char *memory;
static int id;

static int child(void *argument)
{
	CHECK(shmdt(argument) == 0);
	tree_park();
	CHECK(memory[0] == 'p');
	memory[1] = 'c';
	return 1;
}

/* What is wrong, as a number: the segment is to be removed before the program says so. */
static int check(char *reading)
{
	struct shmid_ds status;
	if (shmctl(id, IPC_STAT, &status) != 0 || status.shm_segsz != SIZE || status.shm_nattch != 3) return 1;
	if ((status.shm_perm.mode & 0777) != 0640) return 2;
	if (!data_holds(memory, SIZE, 1) || !data_holds(reading, SIZE, 1)) return 3;
	memory[0] = 'p';
	return reading[0] == 'p' ? 0 : 4;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	if ((id = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0640)) < 0) {
		live_say("skip: no System V shared memory");
		return 0;
	}
	memory = shmat(id, NULL, 0);
	char *reading = shmat(id, NULL, SHM_RDONLY);
	CHECK(memory != (void *)-1 && reading != (void *)-1);
	data_fill(memory, SIZE, 1);
	pid_t pid = tree_start(child, reading);
	wait_go();
	int wrong = check(reading), result = tree_finish(pid);
	CHECK(shmctl(id, IPC_RMID, NULL) == 0);
	CHECK(wrong == 0 && result == 1 && reading[1] == 'c');
	CHECK(mprotect(reading, 4096, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
	CHECK(shmdt(reading) == 0 && memory[1] == 'c' && shmdt(memory) == 0);
	CHECK(shmctl(id, IPC_STAT, &(struct shmid_ds){0}) == -1);
	return finish();
}
