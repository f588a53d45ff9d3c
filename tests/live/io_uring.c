/* Rings of io_uring: how far they have come, entries not submitted, completions not reaped, registered buffers and files, a ring that
 * is not enabled yet, a child that has the ring too, an epoll set that watches it. */
#include "data.h"
#include "tree.h"
#include "uring.h"
#include <sys/epoll.h>

enum { SIZE = 8192, ROUNDS = 1000 };
static struct uring ring, wide, disabled;
static char *buffers[3], *place;
static int files[4], fd, epoll;

static int child(void *argument)
{
	tree_park();
	/* The same ring, at the same place: what the child submits the parent reaps. */
	ring.tail = *uring_at(&ring, ring.p.sq_off.tail);
	uring_next(&ring, IORING_OP_NOP, 77);
	return uring_submit(&ring, 0) == 1 ? 3 : 4;
}

static void check_registered(void)
{
	struct io_uring_sqe *e = uring_next(&wide, IORING_OP_READ_FIXED, 5);
	e->fd = 2;
	e->flags = IOSQE_FIXED_FILE | IOSQE_ASYNC; /* in a thread that the kernel makes */
	e->addr = (uintptr_t)buffers[2] + 100;
	e->len = 3000;
	e->off = 64;
	e->buf_index = 2;
	CHECK(uring_submit(&wide, 1) == 1 && uring_reap(&wide, 5) == 3000 && memcmp(buffers[2] + 100, place + 64, 3000) == 0);
	e = uring_next(&wide, IORING_OP_READ, 6);
	e->fd = 1; /* an empty place */
	e->flags = IOSQE_FIXED_FILE;
	CHECK(uring_submit(&wide, 1) == 1 && uring_reap(&wide, 6) == -EBADF);
}

static void begin(void)
{
	CHECK(uring_make(&wide, 256, IORING_SETUP_CLAMP, 1024) == 0 && uring_make(&disabled, 4, IORING_SETUP_R_DISABLED, 0) == 0);
	fd = data_file("data", SIZE, 3);
	place = malloc(SIZE);
	CHECK(place && pread(fd, place, SIZE, 0) == SIZE);
	struct iovec list[3] = {};
	for (int i = 0; i < 3; i++) {
		buffers[i] = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		data_fill(buffers[i], SIZE, i);
		if (i != 1) list[i].iov_base = buffers[i], list[i].iov_len = SIZE;
	}
	CHECK(syscall(SYS_io_uring_register, wide.fd, IORING_REGISTER_BUFFERS, list, 3) == 0);
	memcpy(files, (int[]){fd, -1, fd, epoll}, sizeof files);
	CHECK(syscall(SYS_io_uring_register, wide.fd, IORING_REGISTER_FILES, files, 4) == 0);
	uring_nops(&ring, ROUNDS, 1);
	check_registered();
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	if (uring_make(&ring, 8, 0, 0) != 0) {
		live_say("skip: no io_uring");
		return 0;
	}
	epoll = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = 9};
	CHECK(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, ring.fd, &event) == 0);
	begin();
	pid_t pid = tree_start(child, NULL);
	CHECK(epoll_wait(epoll, &event, 1, 0) == 0);
	/* Two that are done and not reaped, one that is not submitted. */
	uring_next(&ring, IORING_OP_NOP, 21);
	uring_next(&ring, IORING_OP_NOP, 22);
	CHECK(uring_submit(&ring, 2) == 2 && epoll_wait(epoll, &event, 1, 0) == 1);
	struct io_uring_sqe *e = uring_next(&ring, IORING_OP_READ, 23);
	e->fd = fd;
	e->addr = (uintptr_t)buffers[0];
	e->len = 100;
	e->off = 1000;
	unsigned head = *uring_at(&ring, ring.p.sq_off.head);
	wait_go();
	CHECK(*uring_at(&ring, ring.p.sq_off.head) == head && head == ROUNDS + 2 && uring_ready(&ring) == 2);
	CHECK(epoll_wait(epoll, &event, 1, 0) == 1 && event.data.u32 == 9);
	CHECK(uring_reap(&ring, 21) == 0 && uring_reap(&ring, 22) == 0 && epoll_wait(epoll, &event, 1, 0) == 0);
	CHECK(uring_submit(&ring, 1) == 1 && uring_reap(&ring, 23) == 100 && memcmp(buffers[0], place + 1000, 100) == 0);
	uring_nops(&ring, 20, 100);
	check_registered();
	CHECK(data_holds(buffers[1], SIZE, 1));
	CHECK(syscall(SYS_io_uring_enter, disabled.fd, 0, 0, 0, NULL, 0) == -1 && errno == EBADFD);
	CHECK(syscall(SYS_io_uring_register, disabled.fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) == 0);
	uring_nops(&disabled, 10, 1);
	CHECK(tree_finish(pid) == 3);
	ring.tail = *uring_at(&ring, ring.p.sq_off.tail);
	CHECK(uring_ready(&ring) == 1 && uring_reap(&ring, 77) == 0);
	uring_nops(&ring, 20, 100);
	return finish();
}
