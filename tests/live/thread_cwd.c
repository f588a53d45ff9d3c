/* Threads with a current directory, root and umask of their own: unshare(CLONE_FS). */
#include "gate.h"
#include <sched.h>
#include <sys/stat.h>

static int gate;
static pid_t tid[3];

static void *run(void *argument)
{
	long number = (long)argument;
	char name[16], here[256];
	snprintf(name, sizeof name, "dir%ld", number);
	CHECK(unshare(CLONE_FS) == 0 && mkdir(name, 0700) == 0 && chdir(name) == 0);
	if (number == 2) CHECK(chroot(".") == 0);
	umask(number);
	CHECK(close(open("mine", O_WRONLY | O_CREAT, 0600)) == 0);
	thread_here(&tid[number]);
	gate_wait(&gate);
	CHECK(access("mine", F_OK) == 0 && (number != 2) == (access("/mine", F_OK) != 0));
	CHECK(getcwd(here, sizeof here) && (number == 2 ? !strcmp(here, "/") : strstr(here, name) != NULL));
	CHECK(umask(0) == (mode_t)number && chdir("/") == 0);
	return argument;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[3];
	umask(027);
	for (long i = 0; i < 3; i++) {
		CHECK(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
		await_call(&tid[i], SYS_futex);
	}
	wait_go();
	gate_open(&gate);
	for (long i = 0; i < 3; i++) {
		void *result;
		CHECK(pthread_join(threads[i], &result) == 0 && result == (void *)i);
	}
	CHECK(access("dir1/mine", F_OK) == 0 && umask(0) == 027);
	/* What was only for building is closed. */
	for (int fd = 3; fd < 1000; fd++) CHECK(fcntl(fd, F_GETFD) == -1);
	return finish();
}
