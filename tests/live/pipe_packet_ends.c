/* Packets that are read in part: what is left of one is dropped, of bytes it stays. One packet alone; packets and then bytes; bytes alone in a
 * pipe that is in packet mode since; a packet in a pipe that no longer is. */
#include "live.h"

static int left(int fd, const char *text)
{
	char got[64];
	ssize_t n = read(fd, got, strlen(text));
	CHECK(n == (ssize_t)strlen(text) && memcmp(got, text, n) == 0);
	return read(fd, got, sizeof got);
}

static void set_mode(int fd, int mode) { CHECK(fcntl(fd, F_SETFL, mode | O_NONBLOCK) == 0); }

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int one[2], both[2], bytes[2], was[2];
	char got[64];
	CHECK(pipe2(one, O_DIRECT | O_NONBLOCK) == 0 && pipe2(both, O_DIRECT | O_NONBLOCK) == 0 && pipe2(bytes, O_NONBLOCK) == 0 && pipe2(was, O_DIRECT | O_NONBLOCK) == 0);
	CHECK(write(one[1], "a packet", 8) == 8);
	CHECK(write(both[1], "first", 5) == 5 && write(both[1], "second", 6) == 6);
	set_mode(both[1], 0);
	CHECK(write(both[1], "bytes", 5) == 5);
	CHECK(write(bytes[1], "only bytes", 10) == 10);
	set_mode(bytes[1], O_DIRECT);
	CHECK(write(was[1], "was one", 7) == 7);
	set_mode(was[1], 0);
	wait_go();
	CHECK(left(one[0], "a pa") == -1 && errno == EAGAIN);
	CHECK(read(both[0], got, 2) == 2 && left(both[0], "secon") == 5);
	CHECK(write(both[1], "more", 4) == 4 && left(both[0], "mo") == 2);
	CHECK(fcntl(bytes[1], F_GETFL) & O_DIRECT && left(bytes[0], "only") == 6);
	CHECK(!(fcntl(was[1], F_GETFL) & O_DIRECT) && left(was[0], "was") == -1 && errno == EAGAIN);
	CHECK(write(one[1], "xy", 2) == 2 && write(one[1], "z", 1) == 1 && left(one[0], "x") == 1);
	return finish();
}
