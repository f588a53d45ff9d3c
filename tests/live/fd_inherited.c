/* Descriptors that a child has from its parent, where the child's own part differs: close-on-exec, locks of POSIX, which belong to a
 * process, a number that leads elsewhere, one that is closed. */
#include "live.h"
#include "tree.h"
#include <fcntl.h>

enum { PLAIN = 50, CLOEXEC, LOCKED, MOVED, CLOSED };

static int lock_of(int fd, short type, off_t at, struct flock *ret)
{
	*ret = (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
	return fcntl(fd, F_GETLK, ret);
}

static int child(void *argument)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 7, .l_len = 1};
	CHECK(fcntl(CLOEXEC, F_SETFD, FD_CLOEXEC) == 0 && fcntl(PLAIN, F_SETFD, 0) == 0);
	CHECK(fcntl(LOCKED, F_SETLK, &lock) == 0);
	CHECK(dup2(PLAIN, MOVED) == MOVED && close(CLOSED) == 0);
	tree_park();
	CHECK(fcntl(CLOEXEC, F_GETFD) == FD_CLOEXEC && fcntl(PLAIN, F_GETFD) == 0);
	CHECK(fcntl(CLOSED, F_GETFD) == -1 && errno == EBADF);
	CHECK(lseek(MOVED, 0, SEEK_CUR) == 11 && lseek(PLAIN, 12, SEEK_SET) == 12 && lseek(MOVED, 0, SEEK_CUR) == 12);
	/* The parent looks whether the lock is held, while this process is there. */
	tree_there();
	live_go = 0;
	wait_signal();
	return 3;
}

int main(int argc, char **argv)
{
	struct flock lock;
	live_init(argc, argv);
	tree_init();
	for (int fd = PLAIN; fd <= CLOSED; fd++) {
		char name[] = "file0";
		name[4] += (char)(fd - PLAIN);
		int opened = open(name, O_RDWR | O_CREAT, 0600);
		CHECK(opened >= 0 && dup2(opened, fd) == fd && close(opened) == 0 && lseek(fd, 11, SEEK_SET) == 11);
	}
	CHECK(fcntl(PLAIN, F_SETFD, FD_CLOEXEC) == 0);
	pid_t pid = tree_start(child, NULL);
	CHECK(lock_of(LOCKED, F_WRLCK, 7, &lock) == 0 && lock.l_type == F_WRLCK && lock.l_pid == pid);
	wait_go();
	CHECK(fcntl(PLAIN, F_GETFD) == FD_CLOEXEC && fcntl(CLOEXEC, F_GETFD) == 0 && fcntl(CLOSED, F_GETFD) == 0);
	CHECK(lseek(MOVED, 0, SEEK_CUR) == 11);
	CHECK(kill(pid, SIGUSR1) == 0);
	tree_await();
	CHECK(lseek(PLAIN, 0, SEEK_CUR) == 12);
	CHECK(lock_of(LOCKED, F_WRLCK, 7, &lock) == 0 && lock.l_type == F_WRLCK && lock.l_pid == pid);
	CHECK(tree_finish(pid) == 3);
	return finish();
}
