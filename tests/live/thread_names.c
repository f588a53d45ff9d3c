/* A name for each thread, also names that a reader of /proc trips over. */
#include "gate.h"
#include <sys/prctl.h>

static const char *const names[] = {
	"plain", "", "exactly15bytes!", "two words", "a) R 1 (b", "new\nline", "\xc3\xa9t\xc3\xa9 \xff"};
enum { COUNT = sizeof names / sizeof *names };
static int gate;
static pid_t tids[COUNT];

static void *body(void *argument)
{
	long number = (long)argument;
	char now[16] = "";
	CHECK(prctl(PR_SET_NAME, names[number]) == 0);
	thread_here(&tids[number]);
	gate_wait(&gate);
	CHECK(prctl(PR_GET_NAME, now) == 0 && strcmp(now, names[number]) == 0);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	char now[16] = "";
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	CHECK(prctl(PR_SET_NAME, "the leader") == 0);
	wait_go();
	CHECK(prctl(PR_GET_NAME, now) == 0 && strcmp(now, "the leader") == 0);
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
