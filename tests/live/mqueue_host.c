/* A POSIX message queue of the host, without an option: opened again as it is there, with what is in it. */
#include "mqueue.h"

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char name[64];
	snprintf(name, sizeof name, "/fermata-live-%d", getpid());
	mqd_t queue = mq_make(name, O_RDWR | O_NONBLOCK);
	if (queue == -1) {
		live_say("skip: no message queues");
		return 0;
	}
	mqd_t reader = mq_open(name, O_RDONLY | O_NONBLOCK);
	mq_fill(queue, MQ_MESSAGES);
	wait_go();
	int unlinked = mq_unlink(name) == 0;
	CHECK(unlinked && mq_holds(reader) && mq_send(queue, "x", 1, 0) == 0);
	return finish();
}
