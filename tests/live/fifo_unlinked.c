/* FIFOs that were unlinked: with content, several openings, in two processes, packets, a changed size; with one end only; and one that
 * another took the name of. */
#include "tree.h"
#include <poll.h>
#include <sys/stat.h>

static int both, reader, writer, only, replaced[2];

static int child(void *argument)
{
	char got[64];
	CHECK(close(both) == 0);
	tree_there();
	wait_signal();
	CHECK(read(reader, got, 5) == 5 && memcmp(got, "start", 5) == 0);
	CHECK(write(writer, " end", 4) == 4);
	return 4;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char got[64];
	struct stat st, other;
	CHECK(mkfifo("fifo", 0640) == 0 && mkfifo("only", 0600) == 0 && mkfifo("name", 0600) == 0);
	CHECK((both = open("fifo", O_RDWR | O_NONBLOCK)) >= 0 && (reader = open("fifo", O_RDONLY)) >= 0 && (writer = open("fifo", O_WRONLY | O_APPEND)) >= 0);
	CHECK((only = open("only", O_RDONLY | O_NONBLOCK)) >= 0);
	CHECK((replaced[0] = open("name", O_RDWR)) >= 0 && unlink("name") == 0 && mkfifo("name", 0600) == 0 && (replaced[1] = open("name", O_RDWR)) >= 0);
	CHECK(write(replaced[0], "the old", 7) == 7 && write(replaced[1], "the new", 7) == 7);
	CHECK(fcntl(both, F_SETPIPE_SZ, 128 << 10) == 128 << 10 && write(writer, "start of it", 11) == 11);
	CHECK(unlink("fifo") == 0 && unlink("only") == 0);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(access("fifo", F_OK) == -1 && access("only", F_OK) == -1 && access("name", F_OK) == 0);
	CHECK(tree_finish(pid) == 4);
	CHECK(fstat(both, &st) == 0 && S_ISFIFO(st.st_mode) && (st.st_mode & 07777) == 0640 && st.st_nlink == 0);
	CHECK(fcntl(reader, F_GETPIPE_SZ) == 128 << 10 && (fcntl(writer, F_GETFL) & (O_APPEND | O_ACCMODE)) == (O_APPEND | O_WRONLY));
	CHECK(read(both, got, sizeof got) == 10 && memcmp(got, " of it end", 10) == 0);
	CHECK(read(both, got, sizeof got) == -1 && errno == EAGAIN);
	CHECK(read(only, got, 1) == 0);
	CHECK(fstat(replaced[0], &st) == 0 && fstat(replaced[1], &other) == 0 && st.st_ino != other.st_ino && st.st_nlink == 0 && other.st_nlink == 1);
	CHECK(read(replaced[0], got, sizeof got) == 7 && memcmp(got, "the old", 7) == 0);
	CHECK(read(replaced[1], got, sizeof got) == 7 && memcmp(got, "the new", 7) == 0);
	return finish();
}
