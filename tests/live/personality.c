/* Personality flags, of which one makes readable memory runnable, but only memory mapped after it was set. */
#include "gate.h"
#include "proc.h"
#include <sys/personality.h>

enum { SIZE = 1 << 16 };
static int gate;
static pid_t tid;

static void *body(void *argument)
{
	CHECK(personality(ADDR_NO_RANDOMIZE | UNAME26) != -1);
	thread_here(&tid);
	gate_wait(&gate);
	CHECK(personality(0xffffffff) == (ADDR_NO_RANDOMIZE | UNAME26));
	return NULL;
}

static char *map(void)
{
	char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(at != MAP_FAILED);
	return at;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
	await_call(&tid, SYS_futex);
	char *before = map();
	before[0] = 'b';
	CHECK(personality(ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | READ_IMPLIES_EXEC | STICKY_TIMEOUTS) != -1);
	CHECK(!has_flag(before, " ex"));
	wait_go();
	CHECK(personality(0xffffffff) == (ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | READ_IMPLIES_EXEC | STICKY_TIMEOUTS));
	CHECK(before[0] == 'b' && !has_flag(before, " ex") && has_flag(map(), " ex"));
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0);
	return finish();
}
