/* What the live tests of POSIX message queues have in common. */
#ifndef MQUEUE_H
#define MQUEUE_H
#include "data.h"
#include <mqueue.h>
#include <sys/stat.h>

enum { MQ_MESSAGES = 5, MQ_SIZE = 200 };

static inline mqd_t mq_make(const char *name, int flags)
{
	struct mq_attr attr = {.mq_maxmsg = MQ_MESSAGES, .mq_msgsize = MQ_SIZE};
	return mq_open(name, O_CREAT | O_EXCL | flags, 0600, &attr);
}

/* Message i has i * 30 bytes and priority i % 3. */
static inline void mq_fill(mqd_t queue, int count)
{
	char text[MQ_SIZE];
	for (int i = 0; i < count; i++) {
		data_fill(text, i * 30, i);
		CHECK(mq_send(queue, text, i * 30, i % 3) == 0);
	}
}

/* Five of them, highest priority first, older before younger. */
static inline int mq_holds(mqd_t queue)
{
	static const int order[MQ_MESSAGES] = {2, 1, 4, 0, 3};
	char text[MQ_SIZE];
	unsigned priority;
	for (int i = 0; i < MQ_MESSAGES; i++)
		if (mq_receive(queue, text, sizeof text, &priority) != order[i] * 30 || priority != (unsigned)order[i] % 3 ||
		    !data_holds(text, order[i] * 30, order[i])) return 0;
	return mq_receive(queue, text, sizeof text, NULL) == -1 && errno == EAGAIN;
}
#endif
