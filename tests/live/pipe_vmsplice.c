/* Pipes that are filled with pages of the program itself (vmsplice), whole and in small pieces up to the last slot; with pages of a file
 * (splice), and with those of another pipe (tee). */
#include "live.h"
#include <poll.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum { PAGES = 5, PIECES = 16, PIECE = 100 };

static int can_write(int fd) { return poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 0) == 1; }

static char byte_at(size_t i, int seed) { return (char)(i * 7 + i / 4096 + seed); }

static void expect_bytes(int fd, size_t size, int seed)
{
	static char got[PAGES * 4096];
	for (size_t done = 0; done < size;) {
		ssize_t n = read(fd, got, size - done < sizeof got ? size - done : sizeof got);
		CHECK(n > 0);
		for (ssize_t i = 0; i < n; i++, done++) CHECK(got[i] == byte_at(done, seed));
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int whole[2], pieces[2], spliced[2], teed[2];
	char *memory = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), c;
	CHECK(memory != MAP_FAILED && pipe(whole) == 0 && pipe(pieces) == 0 && pipe(spliced) == 0 && pipe(teed) == 0);
	for (size_t i = 0; i < PAGES * 4096; i++) memory[i] = byte_at(i, 1);
	struct iovec v = {memory, PAGES * 4096};
	CHECK(vmsplice(whole[1], &v, 1, SPLICE_F_GIFT) == PAGES * 4096);
	static char small[PIECES * PIECE];
	for (size_t i = 0; i < sizeof small; i++) small[i] = byte_at(i, 2);
	for (int i = 0; i < PIECES; i++) {
		v = (struct iovec){small + i * PIECE, PIECE};
		CHECK(vmsplice(pieces[1], &v, 1, 0) == PIECE);
	}
	CHECK(!can_write(pieces[1]));
	int file = open("file", O_RDWR | O_CREAT, 0600);
	for (size_t i = 0; i < 10000; i++) {
		c = byte_at(i, 3);
		CHECK(write(file, &c, 1) == 1);
	}
	loff_t from = 0;
	CHECK(splice(file, &from, spliced[1], NULL, 10000, 0) == 10000);
	CHECK(tee(whole[0], teed[1], PAGES * 4096, 0) == PAGES * 4096);
	wait_go();
	/* What the program writes to its pages, or to the file, is not in the pipe after a restore. */
	expect_bytes(whole[0], PAGES * 4096, 1);
	expect_bytes(pieces[0], sizeof small, 2);
	expect_bytes(spliced[0], 10000, 3);
	expect_bytes(teed[0], PAGES * 4096, 1);
	CHECK(can_write(pieces[1]) && write(pieces[1], "more", 4) == 4 && read(pieces[0], &c, 1) == 1 && c == 'm');
	CHECK(memory[4096] == byte_at(4096, 1));
	return finish();
}
