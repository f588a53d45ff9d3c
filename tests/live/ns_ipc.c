/* An IPC namespace of its own: segments, semaphores and queues of both kinds that nobody has attached or open, or with changes to undo, under keys and names of the host's; its limits. */
#include "mqueue.h"
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

enum { KEY = 0x4e530001, SIZE = 3 * 4096 + 100 };
static int loose, attached, sems, queue;
static char *memory;

static long setting(const char *path, const char *set)
{
	char text[64] = "";
	int fd = open(path, set ? O_WRONLY : O_RDONLY);
	CHECK(fd >= 0 && (set ? write(fd, set, strlen(set)) : read(fd, text, sizeof text - 1)) > 0);
	close(fd);
	return atol(text);
}

static void make(void)
{
	struct sembuf undone = {1, 1, SEM_UNDO};
	struct { long type; char text[100]; } m = {.type = 7};
	attached = shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600); /* id 0, as the first of a namespace is */
	loose = shmget(KEY, SIZE, IPC_CREAT | IPC_EXCL | 0640);
	sems = semget(KEY, 2, IPC_CREAT | IPC_EXCL | 0600);
	queue = msgget(KEY, IPC_CREAT | IPC_EXCL | 0600);
	CHECK(loose >= 0 && attached >= 0 && sems >= 0 && queue >= 0);
	char *at = shmat(loose, NULL, 0);
	memory = shmat(attached, NULL, 0);
	data_fill(at, SIZE, 1);
	data_fill(memory, SIZE, 2);
	CHECK(shmdt(at) == 0 && semctl(sems, 0, SETVAL, 12) == 0 && semop(sems, &undone, 1) == 0);
	data_fill(m.text, sizeof m.text, 3);
	CHECK(msgsnd(queue, &m, sizeof m.text, 0) == 0);
	mqd_t closed = mq_make("/ns_ipc closed", O_RDWR | O_NONBLOCK);
	CHECK(closed >= 0);
	mq_fill(closed, MQ_MESSAGES);
	mq_close(closed);
	setting("/proc/sys/kernel/shmmni", "1234");
	setting("/proc/sys/kernel/msgmax", "12345");
	setting("/proc/sys/fs/mqueue/msg_max", "17");
}

static void look(void)
{
	struct shmid_ds about;
	struct { long type; char text[100]; } m;
	CHECK(setting("/proc/sys/kernel/shmmni", NULL) == 1234 && setting("/proc/sys/kernel/msgmax", NULL) == 12345 && setting("/proc/sys/fs/mqueue/msg_max", NULL) == 17);
	CHECK(shmctl(attached, IPC_STAT, &about) == 0 && about.shm_nattch == 1 && attached == 0);
	CHECK(shmget(KEY, 0, 0) == loose && semget(KEY, 0, 0) == sems && msgget(KEY, 0) == queue);
	char *at = shmat(loose, NULL, 0);
	CHECK(at != (void *)-1 && data_holds(at, SIZE, 1) && data_holds(memory, SIZE, 2));
	CHECK(semctl(sems, 0, GETVAL) == 12 && semctl(sems, 1, GETVAL) == 1);
	CHECK(msgrcv(queue, &m, sizeof m.text, 0, IPC_NOWAIT) == sizeof m.text && m.type == 7 && data_holds(m.text, sizeof m.text, 3));
	mqd_t closed = mq_open("/ns_ipc closed", O_RDWR | O_NONBLOCK);
	CHECK(closed >= 0 && mq_holds(closed));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	if (unshare(CLONE_NEWIPC)) { live_say("skip: no IPC namespace: %s", strerror(errno)); return 0; }
	make();
	wait_go();
	look();
	return finish();
}
