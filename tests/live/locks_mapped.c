/* Locks whose description lives on in a mapping only; they go with the mapping. Leases and locks on deleted files; several waiters. */
#include "data.h"
#include "tree.h"
#include <sys/file.h>
#include <sys/mman.h>

enum { SIZE = 4096, WAITERS = 3 };

static int blocked(const char *name, int operation)
{
	int fd = open(name, O_RDWR | O_CLOEXEC), r = flock(fd, operation | LOCK_NB);
	CHECK(fd >= 0 && (r == 0 || errno == EWOULDBLOCK));
	close(fd);
	return r != 0;
}

static int held(const char *name, off_t at)
{
	int fd = open(name, O_RDWR | O_CLOEXEC);
	struct flock part = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
	CHECK(fd >= 0 && fcntl(fd, F_OFD_GETLK, &part) == 0);
	close(fd);
	return part.l_type;
}

static char *map(int fd, int shared)
{
	char *at = mmap(NULL, SIZE, PROT_READ | (shared ? PROT_WRITE : 0), shared ? MAP_SHARED : MAP_PRIVATE, fd, 0);
	CHECK(at != MAP_FAILED);
	return at;
}

static int waiter(void *argument)
{
	close_range(3, ~0U, 0);
	int fd = open("queue", O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	tree_there();
	CHECK(flock(fd, LOCK_EX) == 0);
	return 7;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pid_t waiters[WAITERS];
	int queue = data_file("queue", 1, 6);
	CHECK(flock(queue, LOCK_EX) == 0);
	/* Before there is anything else that they would keep with their copies. */
	for (int i = 0; i < WAITERS; i++) waiters[i] = tree_start(waiter, NULL);
	usleep(50000);
	int exclusive = data_file("exclusive", SIZE, 1), shared = data_file("shared", SIZE, 2), ofd = data_file("ofd", SIZE, 3);
	struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 50};
	CHECK(flock(exclusive, LOCK_EX) == 0 && flock(shared, LOCK_SH) == 0 && fcntl(ofd, F_OFD_SETLK, &range) == 0);
	char *exclusive_at = map(exclusive, 1), *shared_at = map(shared, 0), *ofd_at = map(ofd, 1);
	CHECK(close(exclusive) == 0 && close(shared) == 0 && close(ofd) == 0);
	int gone = data_file("gone", SIZE, 4), read_only = open("gone", O_RDONLY | O_CLOEXEC);
	CHECK(read_only >= 0 && flock(read_only, LOCK_EX) == 0 && close(gone) == 0 && unlink("gone") == 0);
	int leased = data_file("leased", SIZE, 5), lease = open("leased", O_RDONLY | O_CLOEXEC);
	CHECK(lease >= 0 && close(leased) == 0 && unlink("leased") == 0 && fcntl(lease, F_SETLEASE, F_RDLCK) == 0);
	CHECK(blocked("exclusive", LOCK_SH) && held("ofd", 120) == F_WRLCK);
	wait_go();
	CHECK(blocked("exclusive", LOCK_SH) && blocked("shared", LOCK_EX) && !blocked("shared", LOCK_SH));
	CHECK(held("ofd", 120) == F_WRLCK && held("ofd", 99) == F_UNLCK && held("ofd", 150) == F_UNLCK);
	CHECK(data_holds(exclusive_at, SIZE, 1) && data_holds(shared_at, SIZE, 2) && data_holds(ofd_at, SIZE, 3));
	CHECK(munmap(exclusive_at, SIZE) == 0 && munmap(shared_at, SIZE) == 0 && munmap(ofd_at, SIZE) == 0);
	CHECK(!blocked("exclusive", LOCK_EX) && !blocked("shared", LOCK_EX) && held("ofd", 120) == F_UNLCK);
	CHECK(fcntl(lease, F_GETLEASE) == F_RDLCK);
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", read_only);
	CHECK(blocked(path, LOCK_SH));
	CHECK(waitpid(-1, NULL, WNOHANG) == 0 && flock(queue, LOCK_UN) == 0);
	for (int i = 0; i < WAITERS; i++) CHECK(tree_reap(waiters[i]) == 7);
	return finish();
}
