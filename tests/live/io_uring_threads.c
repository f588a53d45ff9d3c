/* Rings of io_uring that only one thread may use (SINGLE_ISSUER), one whose completions that thread must fetch (DEFER_TASKRUN), and
 * one that a thread has registered for itself. */
#include "uring.h"
#include <pthread.h>

#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#define SINGLE IORING_SETUP_SINGLE_ISSUER

static struct uring first, second;
static pthread_barrier_t made;
static int stop[2], skip;

static void check_once(struct uring *r)
{
	char byte = 0;
	struct io_uring_sqe *e = uring_next(r, IORING_OP_READ, 50);
	CHECK(write(stop[1], "xy", 2) == 2);
	e->fd = stop[0];
	e->addr = (uintptr_t)&byte;
	e->len = 1;
	CHECK(uring_submit(r, 1) == 1 && uring_reap(r, 50) == 1 && byte == 'x');
	CHECK(read(stop[0], &byte, 1) == 1 && byte == 'y');
	uring_nops(r, 40, 7);
}

static int not_mine(struct uring *r)
{
	return syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_EVENTFD, NULL, 0) == -1 && errno == EEXIST;
}

static void *run(void *argument)
{
	skip = uring_make(&second, 32, SINGLE | IORING_SETUP_DEFER_TASKRUN, 0);
	pthread_barrier_wait(&made);
	if (skip) return NULL;
	struct io_uring_rsrc_update update = {.offset = 3, .data = second.fd};
	CHECK(syscall(SYS_io_uring_register, second.fd, IORING_REGISTER_RING_FDS, &update, 1) == 1);
	second.enter_fd = 3;
	second.enter_flags = IORING_ENTER_REGISTERED_RING;
	check_once(&second);
	pthread_barrier_wait(&made);
	char go;
	CHECK(read(stop[0], &go, 1) == 1);
	/* Through the place that only this thread has. */
	check_once(&second);
	CHECK(not_mine(&first));
	CHECK(syscall(SYS_io_uring_enter, 2, 0, 0, IORING_ENTER_REGISTERED_RING, NULL, 0) == -1);
	return &second;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread;
	void *result;
	CHECK(pipe(stop) == 0 && pthread_barrier_init(&made, NULL, 2) == 0);
	CHECK(pthread_create(&thread, NULL, run, NULL) == 0);
	pthread_barrier_wait(&made);
	if (skip) {
		live_say("skip: no io_uring that completes when it is asked (Linux 6.1)");
		return 0;
	}
	pthread_barrier_wait(&made);
	wait_go();
	CHECK(not_mine(&second));
	CHECK(syscall(SYS_io_uring_enter, second.fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0) == -1 && errno == EEXIST);
	CHECK(uring_make(&first, 4, SINGLE, 0) == 0);
	CHECK(write(stop[1], "g", 1) == 1 && pthread_join(thread, &result) == 0 && result == &second);
	check_once(&first);
	return finish();
}
