/* A process whose first thread has ended while another runs on. */
#include "gate.h"
#include "tree.h"

static pid_t pid, tid;

static void *body(void *argument)
{
	thread_here(&tid);
	/* The leader is a zombie once it has ended. */
	char path[64], text[512] = "";
	do {
		usleep(1000);
		snprintf(path, sizeof path, "/proc/self/task/%d/stat", pid);
		CHECK(slurp(path, text, sizeof text - 1) > 0);
	} while (strrchr(text, ')')[2] != 'Z');
	tree_there();
	wait_signal();
	CHECK(getpid() == pid && gettid() == tid && tid != pid);
	CHECK(slurp(path, text, sizeof text - 1) > 0 && strrchr(text, ')')[2] == 'Z');
	_exit(6);
}

static int child(void *argument)
{
	pthread_t thread;
	pid = getpid();
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	pthread_exit(NULL);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pid_t other = tree_start(child, NULL);
	wait_go();
	CHECK(tree_finish(other) == 6);
	return finish();
}
