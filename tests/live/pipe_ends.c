/* Pipes with several readers and writers: descriptions of their own, in three processes, with flags of their own; ends that close one after
 * the other; a changed capacity, full. */
#include "tree.h"
#include <poll.h>

static int ends[2], again[2], full[2];

static int open_again(int fd, int flags)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	int opened = open(path, flags);
	CHECK(opened >= 0);
	return opened;
}

static int child(void *argument)
{
	char got[16];
	int second = argument != NULL;
	if (second) CHECK(close(ends[1]) == 0 && close(again[1]) == 0);
	else CHECK(close(ends[0]) == 0 && close(again[0]) == 0);
	tree_there();
	wait_signal();
	if (second) {
		CHECK(read(ends[0], got, 3) == 3 && memcmp(got, "one", 3) == 0);
		CHECK(fcntl(again[0], F_GETFL) & O_NONBLOCK && !(fcntl(ends[0], F_GETFL) & O_NONBLOCK));
	} else {
		CHECK(write(ends[1], "three", 5) == 5);
	}
	return 4;
}

static int revents(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	poll(&p, 1, 0);
	return p.revents;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char got[16];
	CHECK(pipe(ends) == 0 && pipe(full) == 0);
	again[0] = open_again(ends[0], O_RDONLY | O_NONBLOCK);
	again[1] = open_again(ends[1], O_WRONLY | O_APPEND);
	int both = open_again(ends[1], O_RDWR);
	CHECK(fcntl(full[1], F_SETPIPE_SZ, 4096) == 4096 && fcntl(full[1], F_SETFL, O_NONBLOCK) == 0);
	static char page[4096];
	memset(page, 'p', sizeof page);
	CHECK(write(full[1], page, sizeof page) == sizeof page && write(full[1], "x", 1) == -1 && errno == EAGAIN);
	CHECK(write(ends[1], "one", 3) == 3 && write(again[1], "two", 3) == 3);
	pid_t writer = tree_start(child, NULL), reader = tree_start(child, "");
	wait_go();
	CHECK(tree_finish(reader) == 4 && tree_finish(writer) == 4);
	CHECK(read(again[0], got, sizeof got) == 8 && memcmp(got, "twothree", 8) == 0);
	CHECK(read(again[0], got, sizeof got) == -1 && errno == EAGAIN && (fcntl(again[1], F_GETFL) & O_APPEND));
	CHECK(close(ends[1]) == 0 && close(again[1]) == 0 && !(revents(ends[0], POLLIN) & POLLHUP)); /* `both` writes too */
	CHECK(write(both, "last", 4) == 4 && close(both) == 0 && read(ends[0], got, sizeof got) == 4 && read(ends[0], got, sizeof got) == 0);
	CHECK(revents(ends[0], POLLIN) & POLLHUP);
	CHECK(fcntl(full[0], F_GETPIPE_SZ) == 4096 && write(full[1], "x", 1) == -1 && errno == EAGAIN);
	CHECK(read(full[0], page, sizeof page) == sizeof page && page[4095] == 'p' && write(full[1], "x", 1) == 1 && close(full[0]) == 0);
	CHECK(revents(full[1], POLLOUT) & POLLERR);
	return finish();
}
