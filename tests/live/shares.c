/* Tasks that share without being threads (clone): a table of descriptors; the current directory and umask. */
#include "tree.h"
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static int descriptor = -1;

static pid_t start(unsigned long flags, int (*body)(void *))
{
	pid_t pid = syscall(SYS_clone, flags | SIGCHLD, NULL, NULL, NULL, NULL);
	CHECK(pid >= 0);
	if (pid == 0) _exit(body(NULL));
	tree_await();
	return pid;
}

static int files(void *argument)
{
	tree_park();
	/* The parent has opened this one since. */
	CHECK(fcntl(500, F_GETFD) == 0 && lseek(500, 0, SEEK_CUR) == 5 && close(500) == 0);
	CHECK(dup2(0, 501) == 501);
	return 1;
}

static int directory(void *argument)
{
	tree_park();
	CHECK(access("in sub", F_OK) == 0 && chdir("deeper") == 0 && umask(011) == 022);
	return 2;
}

static int apart(void *argument)
{
	tree_park();
	CHECK(fcntl(501, F_GETFD) == -1 && access("sub", F_OK) == 0 && umask(0) == 077);
	return 3;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	umask(077);
	CHECK(mkdir("sub", 0700) == 0 && mkdir("sub/deeper", 0700) == 0);
	CHECK(close(open("sub/in sub", O_WRONLY | O_CREAT, 0600)) == 0);
	pid_t one = start(CLONE_FILES, files), two = start(CLONE_FS, directory), three = start(0, apart);
	CHECK((descriptor = open("sub/in sub", O_RDWR)) >= 0);
	wait_go();
	CHECK(write(descriptor, "12345", 5) == 5 && dup2(descriptor, 500) == 500 && tree_finish(one) == 1);
	CHECK(fcntl(500, F_GETFD) == -1 && fcntl(501, F_GETFD) == 0 && tree_finish(three) == 3);
	CHECK(chdir("sub") == 0 && umask(022) == 077 && tree_finish(two) == 2);
	CHECK(access("../deeper", F_OK) == 0 && umask(0) == 011);
	return finish();
}
