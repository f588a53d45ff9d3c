/* A ring of io_uring that reads from a file all the time: some requests are with the device, some with a worker of the kernel, some done and not told of. None is
 * lost, none is told of twice, and each has read what it was to read. */
#include "data.h"
#include "uring.h"
#include <stdbool.h>

enum { BLOCK = 4096, BLOCKS = 256, DEPTH = 32, AT_LEAST = 300 };
static struct uring ring;
static char *place, *buffers[DEPTH];
static int fds[2], blocks[DEPTH];
static bool waits[DEPTH];
static unsigned long done;

static void ask(int slot)
{
	const int kind = done % 4;
	blocks[slot] = (slot * 37 + done * 11) % BLOCKS;
	struct io_uring_sqe *e = uring_next(&ring, IORING_OP_READ, slot);
	e->fd = fds[kind & 1]; /* directly, or by way of the cache */
	e->flags = kind == 2 ? IOSQE_ASYNC : 0;
	e->addr = (uintptr_t)buffers[slot];
	e->len = BLOCK;
	e->off = blocks[slot] * BLOCK;
	memset(buffers[slot], 0, BLOCK);
	waits[slot] = true;
	CHECK(uring_submit(&ring, 0) == 1);
}

static void reap(bool again)
{
	CHECK(syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) >= 0 || errno == EINTR);
	while (uring_ready(&ring)) {
		unsigned *head = uring_at(&ring, ring.p.cq_off.head);
		struct io_uring_cqe c = ((struct io_uring_cqe *)(ring.ring + ring.p.cq_off.cqes))[*head & (ring.p.cq_entries - 1)];
		__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
		const int slot = c.user_data;
		CHECK(slot < DEPTH && waits[slot] && c.res == BLOCK && memcmp(buffers[slot], place + blocks[slot] * BLOCK, BLOCK) == 0);
		waits[slot] = false;
		done++;
		if (again) ask(slot);
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	if (uring_make(&ring, DEPTH, 0, 0) != 0) {
		live_say("skip: no io_uring");
		return 0;
	}
	fds[0] = data_file("data", BLOCK * BLOCKS, 9);
	CHECK(fsync(fds[0]) == 0);
	fds[1] = open("data", O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fds[1] < 0) fds[1] = fds[0]; /* a file system without */
	CHECK((place = malloc(BLOCK * BLOCKS)) && pread(fds[0], place, BLOCK * BLOCKS, 0) == BLOCK * BLOCKS);
	for (int i = 0; i < DEPTH; i++) {
		buffers[i] = aligned_alloc(BLOCK, BLOCK);
		CHECK(buffers[i] != NULL);
		ask(i);
	}
	while (done < AT_LEAST) reap(true);
	ready();
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	while (!live_go) {
		reap(true);
		sigprocmask(SIG_UNBLOCK, &set, NULL);
		sigprocmask(SIG_BLOCK, &set, NULL);
	}
	for (unsigned long to = done + AT_LEAST; done < to;) reap(true);
	for (unsigned long to = done + DEPTH; done < to;) reap(false);
	for (int i = 0; i < DEPTH; i++) CHECK(!waits[i]);
	CHECK(uring_ready(&ring) == 0);
	return finish();
}
