/* POSIX message queues that are saved with their messages (--host-ipc): a full one, one that was unlinked, one that a child waits at;
 * descriptors of each access, owner and mode. */
#include "mqueue.h"
#include "tree.h"

static mqd_t full, gone, waited;
static char name[3][64];

static int child(void *argument)
{
	char text[MQ_SIZE];
	unsigned priority;
	tree_there();
	CHECK(mq_receive(waited, text, sizeof text, &priority) == 4 && memcmp(text, "wake", 4) == 0 && priority == 9);
	return 6;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	for (int i = 0; i < 3; i++) snprintf(name[i], sizeof name[i], "/fermata-live-%d-%d", getpid(), i);
	full = mq_make(name[0], O_RDWR | O_NONBLOCK);
	if (full == -1) {
		live_say("skip: no message queues");
		return 0;
	}
	CHECK((gone = mq_make(name[1], O_RDWR | O_NONBLOCK)) != -1 && (waited = mq_make(name[2], O_RDWR)) != -1);
	CHECK(fchmod(full, 0642) == 0 && fchown(full, 12, 34) == 0);
	mqd_t writer = mq_open(name[0], O_WRONLY | O_CLOEXEC);
	CHECK(writer != -1);
	mq_fill(full, MQ_MESSAGES);
	mq_fill(gone, MQ_MESSAGES);
	CHECK(mq_unlink(name[1]) == 0);
	char text[100];
	CHECK(read(full, text, 6) == 6 && memcmp(text, "QSIZE:", 6) == 0);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	struct stat st;
	struct mq_attr attr;
	mqd_t again = mq_open(name[0], O_RDWR | O_NONBLOCK);
	int named = again != -1 && mq_unlink(name[0]) == 0 && mq_unlink(name[2]) == 0;
	CHECK(named && mq_open(name[1], O_RDWR) == -1 && errno == ENOENT);
	CHECK(fstat(full, &st) == 0 && (st.st_mode & 07777) == 0642 && st.st_uid == 12 && st.st_gid == 34);
	CHECK(mq_getattr(full, &attr) == 0 && attr.mq_maxmsg == MQ_MESSAGES && attr.mq_msgsize == MQ_SIZE && attr.mq_flags == O_NONBLOCK);
	CHECK(attr.mq_curmsgs == MQ_MESSAGES && mq_getattr(waited, &attr) == 0 && attr.mq_flags == 0 && attr.mq_curmsgs == 0);
	CHECK(lseek(full, 0, SEEK_CUR) == 6 && fcntl(writer, F_GETFD) == FD_CLOEXEC && (fcntl(writer, F_GETFL) & O_ACCMODE) == O_WRONLY);
	CHECK(mq_holds(full) && mq_holds(gone));
	CHECK(mq_send(writer, "one", 3, 1) == 0 && mq_receive(again, (char[MQ_SIZE]){0}, MQ_SIZE, NULL) == 3);
	CHECK(mq_send(waited, "wake", 4, 9) == 0 && tree_reap(pid) == 6);
	return finish();
}
