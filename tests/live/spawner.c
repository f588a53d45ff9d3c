/* A process whose threads start programs without end, by posix_spawn(3): most of the time one of them waits in vfork(2) for a child that has
 * its memory, and which becomes another program. */
#include "live.h"
#include <pthread.h>
#include <spawn.h>
#include <sys/wait.h>

enum { THREADS = 2 };
static int stop;
static unsigned long started[THREADS];

static void *run(void *argument)
{
	unsigned long *count = argument;
	char *command[] = {"sh", "-c", "exit 3", NULL}, *environment[] = {NULL};
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		pid_t pid;
		int status;
		CHECK(posix_spawn(&pid, "/bin/sh", NULL, NULL, command, environment) == 0);
		while (waitpid(pid, &status, 0) != pid) CHECK(errno == EINTR);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
		__atomic_add_fetch(count, 1, __ATOMIC_RELEASE);
	}
	return argument;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[THREADS];
	for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, run, &started[i]) == 0);
	while (!__atomic_load_n(&started[0], __ATOMIC_ACQUIRE) || !__atomic_load_n(&started[1], __ATOMIC_ACQUIRE)) usleep(1000);
	wait_go();
	unsigned long before = __atomic_load_n(&started[0], __ATOMIC_ACQUIRE);
	for (int i = 0; i < 5000 && __atomic_load_n(&started[0], __ATOMIC_ACQUIRE) < before + 3; i++) usleep(1000);
	CHECK(__atomic_load_n(&started[0], __ATOMIC_ACQUIRE) >= before + 3);
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < THREADS; i++) {
		void *result;
		CHECK(pthread_join(threads[i], &result) == 0 && result == &started[i]);
	}
	return finish();
}
