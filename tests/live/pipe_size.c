/* Pipes of other sizes than usual, one of them full to the last byte; status flags of one end only. */
#include "data.h"
#include <sys/ioctl.h>

enum { BIG = 1 << 20, SMALL = 4096, HALF = 300000 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static char buffer[BIG + 1];
	int big[2], small[2], ready_bytes;
	CHECK(pipe(big) == 0 && pipe(small) == 0);
	CHECK(fcntl(big[1], F_SETPIPE_SZ, BIG) == BIG && fcntl(small[1], F_SETPIPE_SZ, SMALL) == SMALL);
	data_fill(buffer, BIG, 1);
	CHECK(write(big[1], buffer, HALF) == HALF);
	data_fill(buffer, SMALL, 2);
	CHECK(write(small[1], buffer, SMALL) == SMALL);
	CHECK(fcntl(small[1], F_SETFL, O_NONBLOCK) == 0 && fcntl(big[0], F_SETFL, O_NONBLOCK) == 0);
	wait_go();
	CHECK(fcntl(big[0], F_GETPIPE_SZ) == BIG && fcntl(small[0], F_GETPIPE_SZ) == SMALL);
	CHECK(fcntl(small[0], F_GETFL) == O_RDONLY && fcntl(small[1], F_GETFL) == (O_WRONLY | O_NONBLOCK));
	CHECK(fcntl(big[0], F_GETFL) == (O_RDONLY | O_NONBLOCK) && fcntl(big[1], F_GETFL) == O_WRONLY);
	CHECK(ioctl(big[0], FIONREAD, &ready_bytes) == 0 && ready_bytes == HALF);
	CHECK(write(small[1], "x", 1) == -1 && errno == EAGAIN);
	CHECK(read(big[0], buffer, sizeof buffer) == HALF);
	CHECK(read(big[0], buffer + HALF, 1) == -1 && errno == EAGAIN);
	static char wanted[BIG];
	data_fill(wanted, BIG, 1);
	CHECK(memcmp(buffer, wanted, HALF) == 0);
	CHECK(read(small[0], buffer, SMALL) == SMALL && data_holds(buffer, SMALL, 2));
	/* There is room for all of it. */
	CHECK(fcntl(big[1], F_SETFL, O_NONBLOCK) == 0 && write(big[1], wanted, BIG) == BIG);
	return finish();
}
