/* Rings of io_uring that tell an eventfd of completions: of all, of those that come later only, through a ring for one thread. */
#include "uring.h"
#include <poll.h>
#include <sys/eventfd.h>

enum { ALL, LATER, SINGLE, COUNT };
static struct uring rings[COUNT];
static int told[COUNT], other;

static eventfd_t take(int fd)
{
	eventfd_t value = 0;
	CHECK(eventfd_read(fd, &value) == 0 || errno == EAGAIN);
	return value;
}

/* The kernel's thread tells of it a moment after it has completed. */
static eventfd_t take_later(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	CHECK(poll(&p, 1, 5000) == 1);
	return take(fd);
}

static void later(struct uring *r)
{
	uring_next(r, IORING_OP_NOP, 9)->flags = IOSQE_ASYNC; /* by a thread that the kernel makes */
	CHECK(uring_submit(r, 1) == 1 && uring_reap(r, 9) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	for (int i = 0; i < COUNT; i++) {
		if (uring_make(&rings[i], 4, i == SINGLE ? IORING_SETUP_SINGLE_ISSUER : 0, 0) != 0) {
			live_say("skip: no io_uring");
			return 0;
		}
		CHECK((other = eventfd(7, EFD_NONBLOCK)) >= 0 && (told[i] = eventfd(0, EFD_NONBLOCK)) >= 0);
		int op = i == LATER ? IORING_REGISTER_EVENTFD_ASYNC : IORING_REGISTER_EVENTFD;
		CHECK(syscall(SYS_io_uring_register, rings[i].fd, op, &told[i], 1) == 0);
		uring_nops(&rings[i], 2, 1);
	}
	CHECK(take(told[SINGLE]) == 2);
	later(&rings[LATER]);
	struct pollfd p = {.fd = told[LATER], .events = POLLIN};
	CHECK(poll(&p, 1, 5000) == 1);
	wait_go();
	CHECK(take(told[ALL]) == 2 && take_later(told[LATER]) == 1 && take(told[SINGLE]) == 0 && take(other) == 7);
	for (int i = 0; i < COUNT; i++) {
		uring_nops(&rings[i], 3, 4);
		CHECK(take(told[i]) == (i == LATER ? 0 : 3));
		later(&rings[i]);
		CHECK(take_later(told[i]) == 1);
		CHECK(syscall(SYS_io_uring_register, rings[i].fd, IORING_UNREGISTER_EVENTFD, NULL, 0) == 0);
		CHECK(syscall(SYS_io_uring_register, rings[i].fd, IORING_UNREGISTER_EVENTFD, NULL, 0) == -1 && errno == ENXIO);
	}
	return finish();
}
