/* Rings of asynchronous i/o: their ids, events that are done and not fetched yet, and that they work on. */
#include "data.h"
#include <linux/aio_abi.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>

enum { PIECE = 4096, PIECES = 8 };
static char buffers[PIECES][PIECE], whole[PIECE * PIECES];

static void submit(aio_context_t ring, int fd, int number)
{
	struct iocb block = {.aio_data = 0xabcd0000 + number, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = fd,
		.aio_buf = (uintptr_t)buffers[number], .aio_nbytes = PIECE, .aio_offset = number * PIECE}, *list = &block;
	memset(buffers[number], 0, PIECE);
	CHECK(syscall(SYS_io_submit, ring, 1, &list) == 1);
}

static void fetch(aio_context_t ring, int number)
{
	struct io_event event;
	CHECK(syscall(SYS_io_getevents, ring, 1, 1, &event, &(struct timespec){5, 0}) == 1);
	CHECK(event.data == 0xabcd0000U + number && event.res == PIECE);
	CHECK(memcmp(buffers[number], whole + number * PIECE, PIECE) == 0);
}

static int empty(aio_context_t ring)
{
	struct io_event event;
	return syscall(SYS_io_getevents, ring, 0, 1, &event, &(struct timespec){0, 0}) == 0;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	aio_context_t first = 0, second = 0, unused = 0;
	int fd = data_file("data", sizeof whole, 1);
	if (syscall(SYS_io_setup, 20, &first) != 0) {
		live_say("skip: no asynchronous i/o");
		return 0;
	}
	CHECK(syscall(SYS_io_setup, 100, &second) == 0 && syscall(SYS_io_setup, 1, &unused) == 0);
	CHECK(pread(fd, whole, sizeof whole, 0) == sizeof whole);
	for (int i = 0; i < 4; i++) submit(first, fd, i);
	fetch(first, 0);
	wait_go();
	CHECK(empty(second) && empty(unused));
	for (int i = 1; i < 4; i++) fetch(first, i);
	CHECK(empty(first));
	/* Round the ring more than once. */
	for (int i = 0; i < 300; i++) {
		submit(i % 2 ? first : second, fd, i % PIECES);
		fetch(i % 2 ? first : second, i % PIECES);
	}
	CHECK(empty(first) && empty(second));
	CHECK(syscall(SYS_io_destroy, first) == 0 && syscall(SYS_io_destroy, second) == 0);
	CHECK(syscall(SYS_io_destroy, unused) == 0 && syscall(SYS_io_destroy, first) == -1);
	return finish();
}
