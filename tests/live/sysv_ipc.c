/* System V semaphores and messages that are saved with the tree (--host-ipc): values, who changed them last, messages of all sizes, a
 * child that waits for a semaphore and one that waits for a message. Removed and made anew in between where the tree ends. */
#include "data.h"
#include "tree.h"
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

enum { SEMAPHORES = 3, MESSAGES = 6 };
static int sems, queue;
static struct message { long type; char text[3000]; } m;

static int wait_semaphore(void *argument)
{
	tree_there();
	struct sembuf op = {2, -1, 0};
	while (semop(sems, &op, 1) != 0) CHECK(errno == EINTR);
	return 5;
}

static int wait_message(void *argument)
{
	tree_there();
	ssize_t n;
	while ((n = msgrcv(queue, &m, sizeof m.text, 99, 0)) < 0) CHECK(errno == EINTR);
	return n == 4 ? 7 : 8;
}

static int check(int status)
{
	struct semid_ds set;
	struct msqid_ds about;
	unsigned short values[SEMAPHORES];
	if (semctl(sems, 0, IPC_STAT, &set) != 0 || (set.sem_perm.mode & 0777) != 0640 || set.sem_nsems != SEMAPHORES) return 1;
	if (semctl(sems, 0, GETALL, values) != 0 || values[0] != 17 || values[1] != 4 || values[2] != 0) return 2;
	if (semctl(sems, 0, GETPID) != getpid()) return 3;
	/* It may be on its way back into its call. */
	for (int i = 0; i < 5000 && semctl(sems, 2, GETNCNT) != 1; i++) usleep(1000);
	if (semctl(sems, 2, GETNCNT) != 1) return 6;
	if (msgctl(queue, IPC_STAT, &about) != 0 || about.msg_qnum != MESSAGES || about.msg_lspid != getpid() || (about.msg_perm.mode & 0777) != 0622) return 4;
	for (int i = 0; i < MESSAGES; i++)
		if (msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) != i * 500 || m.type != i % 2 + 1 || !data_holds(m.text, i * 500, i)) return 5;
	return 0;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	sems = semget(IPC_PRIVATE, SEMAPHORES, IPC_CREAT | 0640);
	queue = msgget(IPC_PRIVATE, IPC_CREAT | 0622);
	if (sems < 0 || queue < 0) {
		live_say("skip: no System V semaphores or messages");
		return 0;
	}
	CHECK(semctl(sems, 0, SETVAL, 17) == 0 && semctl(sems, 1, SETVAL, 4) == 0);
	for (int i = 0; i < MESSAGES; i++) {
		m.type = i % 2 + 1;
		data_fill(m.text, i * 500, i);
		CHECK(msgsnd(queue, &m, i * 500, 0) == 0);
	}
	pid_t one = tree_start(wait_semaphore, NULL), two = tree_start(wait_message, NULL);
	wait_go();
	int wrong = check(0);
	m.type = 99;
	int sent = semctl(sems, 2, SETVAL, 1) == 0 && msgsnd(queue, &m, 4, 0) == 0;
	int first = tree_reap(one), second = tree_reap(two);
	int gone = semctl(sems, 0, IPC_RMID) == 0 && msgctl(queue, IPC_RMID, NULL) == 0;
	if (wrong) live_say("not ok: check %d", wrong), _exit(1);
	CHECK(sent && gone && first == 5 && second == 7);
	return finish();
}
