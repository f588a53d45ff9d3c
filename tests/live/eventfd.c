/* Event counters: counts up to the largest, semaphores, flags, one shared with a child. */
#include "tree.h"
#include <sys/eventfd.h>

static int shared;

static int child(void *argument)
{
	eventfd_t value;
	tree_park();
	CHECK(eventfd_read(shared, &value) == 0 && value == 7 && eventfd_write(shared, 9) == 0);
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	eventfd_t value;
	int count = eventfd(5, EFD_NONBLOCK), semaphore = eventfd(3, EFD_NONBLOCK | EFD_SEMAPHORE | EFD_CLOEXEC);
	int zero = eventfd(0, EFD_NONBLOCK), full = eventfd(0, EFD_NONBLOCK);
	CHECK(count >= 0 && semaphore >= 0 && zero >= 0 && full >= 0 && (shared = eventfd(7, 0)) >= 0);
	CHECK(eventfd_write(full, 0xfffffffffffffffeULL) == 0);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(fcntl(count, F_GETFL) == (O_RDWR | O_NONBLOCK) && fcntl(shared, F_GETFL) == O_RDWR);
	CHECK(fcntl(semaphore, F_GETFD) == FD_CLOEXEC && fcntl(count, F_GETFD) == 0);
	CHECK(eventfd_write(count, 2) == 0 && eventfd_read(count, &value) == 0 && value == 7);
	CHECK(eventfd_read(count, &value) == -1 && errno == EAGAIN);
	for (int i = 0; i < 3; i++) CHECK(eventfd_read(semaphore, &value) == 0 && value == 1);
	CHECK(eventfd_read(semaphore, &value) == -1 && errno == EAGAIN);
	CHECK(eventfd_read(zero, &value) == -1 && errno == EAGAIN);
	CHECK(eventfd_write(full, 1) == -1 && errno == EAGAIN);
	CHECK(eventfd_read(full, &value) == 0 && value == 0xfffffffffffffffeULL);
	CHECK(tree_finish(pid) == 1 && eventfd_read(shared, &value) == 0 && value == 9);
	return finish();
}
