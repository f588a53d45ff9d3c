/* Locks on files: flock(2), POSIX and OFD locks of fcntl(2), leases; shared and exclusive, parts of files and all of them, by
 * several processes, and one that waits. */
#include "gate.h"
#include "tree.h"
#include <sys/file.h>

static int shared, inherited;
static pid_t parent;

static int opened(const char *name, int flags)
{
	int fd = open(name, flags | O_CREAT | O_CLOEXEC, 0666);
	CHECK(fd >= 0);
	return fd;
}

static struct flock range(short type, off_t start, off_t length)
{
	return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
}

static int lock(int fd, int command, short type, off_t start, off_t length)
{
	struct flock part = range(type, start, length);
	return fcntl(fd, command, &part);
}

/* What is in the way of a lock for writing there. */
static int held(int fd, int command, off_t at, short type, off_t start, off_t length, pid_t pid)
{
	struct flock part = range(F_WRLCK, at, 1);
	CHECK(fcntl(fd, command, &part) == 0);
	return part.l_type == type &&
	       (type == F_UNLCK || (part.l_start == start && part.l_len == length && part.l_pid == pid));
}

static int flocked(const char *name, int operation)
{
	int fd = opened(name, O_RDWR), r = flock(fd, operation | LOCK_NB);
	CHECK(r == 0 || errno == EWOULDBLOCK);
	close(fd);
	return r != 0;
}

/* Nothing in the way of the parent's locks but the parent. */
static void inspect(void)
{
	int posix = opened("posix", O_RDWR), ofd = opened("ofd", O_RDWR);
	CHECK(held(posix, F_GETLK, 100, F_WRLCK, 100, 100, parent) && held(posix, F_GETLK, 199, F_WRLCK, 100, 100, parent));
	CHECK(held(posix, F_GETLK, 99, F_UNLCK, 0, 0, 0) && held(posix, F_GETLK, 200, F_UNLCK, 0, 0, 0));
	CHECK(held(posix, F_GETLK, 1L << 40, F_RDLCK, 1000, 0, parent));
	CHECK(held(ofd, F_OFD_GETLK, 5, F_WRLCK, 0, 10, -1) && held(ofd, F_OFD_GETLK, 10, F_UNLCK, 0, 0, 0));
	CHECK(held(ofd, F_OFD_GETLK, 60, F_RDLCK, 50, 0, -1));
	CHECK(flocked("flock_ex", LOCK_SH) && flocked("flock_sh", LOCK_EX) && !flocked("flock_sh", LOCK_SH) &&
	      flocked("flock_shared", LOCK_SH));
	close(ofd);
	close(posix);
}

static int child(void *argument)
{
	int own = opened("flock_sh", O_RDWR);
	CHECK(flock(own, LOCK_SH) == 0 && lock(inherited, F_SETLK, F_WRLCK, 7, 1) == 0);
	inspect();
	tree_park();
	inspect();
	CHECK(fcntl(shared, F_GETFD) >= 0);
	/* A lease: opening breaks it, and its owner is told. */
	CHECK(open("lease_write", O_RDONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
	CHECK(open("lease_read", O_WRONLY | O_NONBLOCK) == -1 && errno == EWOULDBLOCK);
	CHECK(kill(parent, SIGUSR2) == 0);
	live_go = 0;
	wait_signal();
	/* The parent has closed its own number by now. */
	CHECK(flocked("flock_shared", LOCK_SH));
	return 4;
}

static int waiter(void *argument)
{
	close_range(3, ~0U, 0);
	int fd = opened("posix", O_RDWR);
	CHECK(kill(parent, SIGUSR2) == 0);
	CHECK(lock(fd, F_SETLKW, F_WRLCK, 150, 1) == 0);
	return 7;
}

static int flock_waiter(void *argument)
{
	close_range(3, ~0U, 0);
	int fd = opened("flock_ex", O_RDWR);
	CHECK(kill(parent, SIGUSR2) == 0);
	CHECK(flock(fd, LOCK_EX) == 0);
	return 8;
}

static void expect_broken(int signal, int fd)
{
	sigset_t set;
	siginfo_t info = {0};
	sigemptyset(&set);
	sigaddset(&set, signal);
	CHECK(sigtimedwait(&set, &info, &(struct timespec){5, 0}) == signal && info.si_fd == fd);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	parent = getpid();
	int read_signal = SIGRTMIN + 1, write_signal = SIGRTMIN + 2;
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, read_signal);
	sigaddset(&set, write_signal);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	int ex = opened("flock_ex", O_RDONLY), sh = opened("flock_sh", O_RDWR);
	int posix = opened("posix", O_RDWR), posix_copy = dup(posix), posix_other = opened("posix", O_RDWR);
	int ofd = opened("ofd", O_RDWR), ofd_copy = dup(ofd), ofd_other = opened("ofd", O_RDWR);
	shared = opened("flock_shared", O_RDWR);
	inherited = opened("inherited", O_RDWR);
	CHECK(flock(ex, LOCK_EX) == 0 && flock(sh, LOCK_SH) == 0 && flock(shared, LOCK_EX) == 0);
	CHECK(lock(posix, F_SETLK, F_WRLCK, 100, 100) == 0 && lock(posix_other, F_SETLK, F_RDLCK, 1000, 0) == 0);
	CHECK(lock(ofd, F_OFD_SETLK, F_WRLCK, 0, 10) == 0 && lock(ofd, F_OFD_SETLK, F_RDLCK, 50, 0) == 0);
	int lease_read, lease_write;
	CHECK(close(opened("lease_read", O_RDWR)) == 0 && close(opened("lease_write", O_RDWR)) == 0);
	CHECK((lease_read = open("lease_read", O_RDONLY)) >= 0 && (lease_write = open("lease_write", O_RDWR)) >= 0);
	if (fcntl(lease_read, F_SETLEASE, F_RDLCK) != 0) {
		live_say("skip: no leases here");
		return 0;
	}
	CHECK(fcntl(lease_read, F_SETSIG, read_signal) == 0);
	CHECK(fcntl(lease_write, F_SETLEASE, F_WRLCK) == 0 && fcntl(lease_write, F_SETSIG, write_signal) == 0);
	pid_t other = tree_start(child, NULL), waits = fork();
	if (waits == 0) _exit(waiter(NULL));
	tree_await();
	pid_t flock_waits = fork();
	if (flock_waits == 0) _exit(flock_waiter(NULL));
	tree_await();
	wait_go();
	CHECK(held(inherited, F_GETLK, 7, F_WRLCK, 7, 1, other) && held(ofd_other, F_OFD_GETLK, 5, F_WRLCK, 0, 10, -1));
	CHECK(fcntl(lease_read, F_GETLEASE) == F_RDLCK && fcntl(lease_write, F_GETLEASE) == F_WRLCK);
	CHECK(kill(other, SIGUSR1) == 0);
	tree_await();
	expect_broken(write_signal, lease_write);
	expect_broken(read_signal, lease_read);
	CHECK(fcntl(lease_write, F_SETLEASE, F_UNLCK) == 0 && fcntl(lease_read, F_SETLEASE, F_UNLCK) == 0);
	/* A description's locks stay until its last number is closed, a process's until its first. Who waits has none of them. */
	CHECK(close(shared) == 0 && close(ofd_copy) == 0 && held(ofd_other, F_OFD_GETLK, 5, F_WRLCK, 0, 10, -1));
	CHECK(tree_finish(other) == 4 && !flocked("flock_shared", LOCK_EX));
	CHECK(waitpid(waits, NULL, WNOHANG) == 0 && waitpid(flock_waits, NULL, WNOHANG) == 0);
	CHECK(close(posix_copy) == 0 && tree_reap(waits) == 7);
	CHECK(close(ofd) == 0 && held(ofd_other, F_OFD_GETLK, 5, F_UNLCK, 0, 0, 0));
	CHECK(flock(ex, LOCK_UN) == 0 && tree_reap(flock_waits) == 8);
	return finish();
}
