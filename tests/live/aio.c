/* Rings of asynchronous i/o: their ids, events that are done and not fetched yet, and that they work on. */
#include "data.h"
#include <linux/aio_abi.h>
#include <sys/mman.h>
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

/* A ring whose events go over its end, at the end of another place than where it was made, and not the first in the kernel's table. */
static struct ring { uint32_t id, nr, head, tail; } *wrap(int fd)
{
	aio_context_t gap = 0, ring = 0;
	CHECK(syscall(SYS_io_setup, 1, &gap) == 0 && syscall(SYS_io_setup, 200, &ring) == 0 && syscall(SYS_io_destroy, gap) == 0);
	struct ring *head = (struct ring *)ring;
	size_t size = (head->nr * sizeof(struct io_event) + 4096) / 4096 * 4096;
	char *place = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(place != MAP_FAILED && mremap(head, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place);
	ring = (uintptr_t)place;
	head = (struct ring *)place;
	while (head->head != head->nr - 3) {
		submit(ring, fd, 0);
		fetch(ring, 0);
	}
	for (int i = 0; i < PIECES; i++) submit(ring, fd, i);
	CHECK(head->tail == PIECES - 3);
	return head;
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
	struct ring *wrapped = wrap(fd), was = *wrapped;
	wait_go();
	CHECK(wrapped->nr == was.nr && wrapped->head == was.head && wrapped->tail == was.tail);
	for (int i = 0; i < PIECES; i++) fetch((uintptr_t)wrapped, i);
	CHECK(empty((uintptr_t)wrapped) && wrapped->head == was.tail);
	for (unsigned i = 0; i < 2 * was.nr; i++) {
		submit((uintptr_t)wrapped, fd, i % PIECES);
		fetch((uintptr_t)wrapped, i % PIECES);
	}
	CHECK(syscall(SYS_io_destroy, wrapped) == 0);
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
