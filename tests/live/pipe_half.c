/* Pipes of which one end is closed, one opened for both directions, two descriptions of the same end. */
#include "live.h"

static int reopen(int fd, int flags)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int opened = open(path, flags | O_CLOEXEC);
	CHECK(opened >= 0);
	return opened;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got[16];
	int no_writer[2], no_reader[2], empty[2], both[2], twice[2];
	CHECK(pipe(no_writer) == 0 && pipe(no_reader) == 0 && pipe(empty) == 0 && pipe(both) == 0 && pipe(twice) == 0);
	CHECK(write(no_writer[1], "left", 4) == 4 && close(no_writer[1]) == 0);
	CHECK(write(no_reader[1], "lost", 4) == 4 && close(no_reader[0]) == 0);
	CHECK(close(empty[1]) == 0);
	int wide = reopen(both[0], O_RDWR | O_NONBLOCK);
	CHECK(write(both[1], "kept", 4) == 4 && close(both[0]) == 0 && close(both[1]) == 0);
	int second = reopen(twice[0], O_RDONLY | O_NONBLOCK);
	CHECK(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
	int wide_flags = fcntl(wide, F_GETFL), second_flags = fcntl(second, F_GETFL);
	wait_go();
	CHECK(read(no_writer[0], got, sizeof got) == 4 && memcmp(got, "left", 4) == 0);
	CHECK(read(no_writer[0], got, sizeof got) == 0 && read(empty[0], got, 1) == 0);
	CHECK(write(no_reader[1], "x", 1) == -1 && errno == EPIPE);
	CHECK(fcntl(wide, F_GETFL) == wide_flags && fcntl(second, F_GETFL) == second_flags);
	CHECK(read(wide, got, sizeof got) == 4 && memcmp(got, "kept", 4) == 0);
	CHECK(read(wide, got, 1) == -1 && errno == EAGAIN && write(wide, "y", 1) == 1 && read(wide, got, 1) == 1);
	CHECK(fcntl(twice[0], F_GETFL) == O_RDONLY);
	CHECK(read(second, got, 1) == -1 && errno == EAGAIN);
	CHECK(write(twice[1], "ab", 2) == 2 && read(twice[0], got, 1) == 1 && got[0] == 'a');
	CHECK(read(second, got, 1) == 1 && got[0] == 'b');
	CHECK(close(twice[1]) == 0 && read(second, got, 1) == 0);
	return finish();
}
