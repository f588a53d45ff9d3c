/* Message queues that tell a process of a message (mq_notify): with a signal and a value, or with nothing; the process itself and a child, one that has the descriptor of
 * its parent. */
#include "mqueue.h"
#include "tree.h"

static mqd_t own, childs, silent;

static int mine(int number, mqd_t queue, long value)
{
	sigset_t set;
	siginfo_t info;
	sigemptyset(&set);
	sigaddset(&set, number);
	if (sigtimedwait(&set, &info, &(struct timespec){.tv_nsec = 1}) != -1) return 0; /* not before */
	CHECK(mq_send(queue, "x", 1, 0) == 0);
	return sigtimedwait(&set, &info, &(struct timespec){.tv_sec = 5}) == number && info.si_code == SI_MESGQ && (long)info.si_value.sival_ptr == value;
}

static void notify(mqd_t queue, int how, int number, long value)
{
	struct sigevent event = {.sigev_notify = how, .sigev_signo = number, .sigev_value.sival_ptr = (void *)value};
	CHECK(mq_notify(queue, &event) == 0);
}

static int child(void *argument)
{
	notify(childs, SIGEV_SIGNAL, SIGRTMIN + 3, 0x7766554433221100);
	tree_there();
	wait_signal();
	return mine(SIGRTMIN + 3, childs, 0x7766554433221100) ? 6 : 7;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	sigset_t set;
	sigemptyset(&set);
	for (int i = 2; i < 5; i++) sigaddset(&set, SIGRTMIN + i);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	mqd_t *queues[3] = {&own, &childs, &silent};
	for (int i = 0; i < 3; i++) {
		char name[64];
		snprintf(name, sizeof name, "/fermata-notify-%d-%d", getpid(), i);
		if ((*queues[i] = mq_make(name, O_RDWR | O_NONBLOCK)) == -1) {
			live_say("skip: no message queues");
			return 0;
		}
		CHECK(mq_unlink(name) == 0);
	}
	notify(own, SIGEV_SIGNAL, SIGRTMIN + 2, -5);
	notify(silent, SIGEV_NONE, 0, 0);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	struct sigevent event = {.sigev_notify = SIGEV_NONE};
	CHECK(mq_notify(silent, &event) == -1 && errno == EBUSY);
	CHECK(mq_notify(childs, &event) == -1 && errno == EBUSY);
	CHECK(mine(SIGRTMIN + 2, own, -5));
	CHECK(mq_notify(own, &event) == 0); /* it was told once */
	CHECK(tree_finish(pid) == 6);
	return finish();
}
