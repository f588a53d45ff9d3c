/* A pipe in packet mode (O_DIRECT) keeps its packets apart; one that was in it only for a while, too. */
#include "data.h"

static const int sizes[] = {1, 100, 4096, 7, 4095, 2, 3000};
enum { COUNT = sizeof sizes / sizeof *sizes };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char buffer[8192];
	int packets[2], mixed[2];
	CHECK(pipe2(packets, O_DIRECT | O_NONBLOCK) == 0 && pipe2(mixed, O_NONBLOCK) == 0);
	for (int i = 0; i < COUNT; i++) {
		data_fill(buffer, sizes[i], i);
		CHECK(write(packets[1], buffer, sizes[i]) == sizes[i]);
	}
	CHECK(fcntl(mixed[1], F_SETFL, O_DIRECT) == 0);
	CHECK(write(mixed[1], "first", 5) == 5 && write(mixed[1], "second", 6) == 6);
	CHECK(fcntl(mixed[1], F_SETFL, O_NONBLOCK) == 0);
	CHECK(write(mixed[1], "as a ", 5) == 5 && write(mixed[1], "stream", 6) == 6);
	wait_go();
	CHECK(fcntl(packets[1], F_GETFL) == (O_WRONLY | O_DIRECT | O_NONBLOCK));
	CHECK(fcntl(packets[0], F_GETFL) == (O_RDONLY | O_NONBLOCK));
	CHECK(fcntl(mixed[1], F_GETFL) == (O_WRONLY | O_NONBLOCK));
	for (int i = 0; i < COUNT; i++) {
		CHECK(read(packets[0], buffer, sizeof buffer) == sizes[i]);
		CHECK(data_holds(buffer, sizes[i], i));
	}
	CHECK(read(packets[0], buffer, sizeof buffer) == -1 && errno == EAGAIN);
	/* A new packet; what a short read leaves of it is dropped. */
	CHECK(write(packets[1], "abcdef", 6) == 6 && write(packets[1], "gh", 2) == 2);
	CHECK(read(packets[0], buffer, 3) == 3 && read(packets[0], buffer, 10) == 2 && buffer[0] == 'g');
	CHECK(read(mixed[0], buffer, sizeof buffer) == 5 && memcmp(buffer, "first", 5) == 0);
	CHECK(read(mixed[0], buffer, sizeof buffer) == 6 && memcmp(buffer, "second", 6) == 0);
	CHECK(read(mixed[0], buffer, sizeof buffer) == 11 && memcmp(buffer, "as a stream", 11) == 0);
	return finish();
}
