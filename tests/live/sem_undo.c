/* Changes of System V semaphores that are undone at the end of a process (SEM_UNDO): of one with and one without threads, up and down, several of one
 * semaphore, of two sets; and a semaphore that was changed without. */
#include "tree.h"
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/sem.h>

enum { SEMAPHORES = 4 };
static int set, other;

static void change(int id, unsigned short number, short by, short flags)
{
	struct sembuf op = {number, by, flags};
	CHECK(semop(id, &op, 1) == 0);
}

/* Takes one, gives three that are to be taken back. */
static int taker(void *argument)
{
	change(set, 0, -1, SEM_UNDO);
	change(set, 1, 3, SEM_UNDO);
	change(set, 2, -4, 0);
	change(other, 5, 7, SEM_UNDO);
	tree_there();
	wait_signal();
	return 5;
}

static void *change_more(void *argument)
{
	change(set, 1, 2, SEM_UNDO);
	change(set, 3, 30000, SEM_UNDO);
	return NULL;
}

static void *wait_on(void *argument)
{
	for (;;) pause();
	return argument;
}

/* A thread has changed them; the list is the process's. */
static int threaded(void *argument)
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, change_more, NULL) == 0 && pthread_join(thread, NULL) == 0);
	CHECK(pthread_create(&thread, NULL, wait_on, NULL) == 0);
	change(set, 0, -2, SEM_UNDO);
	tree_there();
	wait_signal();
	return 6;
}

static int has(int a, int b, int c, int d, int e)
{
	unsigned short is[SEMAPHORES], of[6];
	if (semctl(set, 0, GETALL, is) != 0 || semctl(other, 0, GETALL, of) != 0) return 0;
	if (is[0] == a && is[1] == b && is[2] == c && is[3] == d && of[5] == e) return 1;
	live_say("not ok: %d %d %d %d %d, not %d %d %d %d %d", is[0], is[1], is[2], is[3], of[5], a, b, c, d, e);
	return 0;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	set = semget(IPC_PRIVATE, SEMAPHORES, IPC_CREAT | 0600);
	other = semget(IPC_PRIVATE, 6, IPC_CREAT | 0600);
	if (set < 0 || other < 0) {
		live_say("skip: no System V semaphores");
		return 0;
	}
	CHECK(semctl(set, 0, SETVAL, 9) == 0 && semctl(set, 2, SETVAL, 20) == 0);
	pid_t one = tree_start(taker, NULL), two = tree_start(threaded, NULL);
	wait_go();
	int ok = has(6, 5, 16, 30000, 7), first = -1, second = -1;
	kill(one, SIGUSR1);
	first = tree_reap(one);
	ok = ok && has(7, 2, 16, 30000, 0);
	kill(two, SIGUSR1);
	second = tree_reap(two);
	ok = ok && has(9, 0, 16, 0, 0);
	int gone = semctl(set, 0, IPC_RMID) == 0 && semctl(other, 0, IPC_RMID) == 0;
	CHECK(ok && first == 5 && second == 6 && gone);
	return finish();
}
