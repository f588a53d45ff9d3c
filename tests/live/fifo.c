/* Named pipes: opened for reading, writing and both, with content; one that has been deleted since. */
#include "live.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got[32];
	struct stat one, other;
	CHECK(mkfifo("named", 0640) == 0 && mkfifo("deleted", 0600) == 0 && mkfifo("wide", 0600) == 0);
	int reader = open("named", O_RDONLY | O_NONBLOCK), writer = open("named", O_WRONLY | O_CLOEXEC);
	int wide = open("wide", O_RDWR | O_NONBLOCK);
	int gone_reader = open("deleted", O_RDONLY | O_NONBLOCK), gone_writer = open("deleted", O_WRONLY);
	CHECK(reader >= 0 && writer >= 0 && wide >= 0 && gone_reader >= 0 && gone_writer >= 0);
	CHECK(fcntl(writer, F_SETPIPE_SZ, 8192) == 8192);
	CHECK(write(writer, "content", 7) == 7 && write(wide, "both", 4) == 4 && write(gone_writer, "gone", 4) == 4);
	CHECK(unlink("deleted") == 0);
	int reader_flags = fcntl(reader, F_GETFL), writer_flags = fcntl(writer, F_GETFL);
	wait_go();
	CHECK(fstat(reader, &one) == 0 && stat("named", &other) == 0);
	CHECK(S_ISFIFO(one.st_mode) && one.st_ino == other.st_ino && one.st_dev == other.st_dev);
	CHECK((one.st_mode & 0777) == 0640 && fcntl(reader, F_GETPIPE_SZ) == 8192);
	CHECK(fcntl(reader, F_GETFL) == reader_flags && fcntl(writer, F_GETFL) == writer_flags);
	CHECK(fcntl(writer, F_GETFD) == FD_CLOEXEC && fcntl(reader, F_GETFD) == 0);
	CHECK(read(reader, got, sizeof got) == 7 && memcmp(got, "content", 7) == 0);
	CHECK(read(reader, got, 1) == -1 && errno == EAGAIN);
	int third = open("named", O_WRONLY | O_NONBLOCK);
	CHECK(third >= 0 && write(third, "z", 1) == 1 && read(reader, got, 1) == 1 && got[0] == 'z');
	CHECK(close(third) == 0 && close(writer) == 0 && read(reader, got, 1) == 0);
	CHECK(read(wide, got, sizeof got) == 4 && write(wide, "w", 1) == 1 && read(wide, got, 1) == 1 && got[0] == 'w');
	CHECK(read(gone_reader, got, sizeof got) == 4 && memcmp(got, "gone", 4) == 0);
	CHECK(fstat(gone_reader, &one) == 0 && fstat(gone_writer, &other) == 0);
	CHECK(one.st_nlink == 0 && one.st_ino == other.st_ino && access("deleted", F_OK) == -1);
	CHECK(close(gone_writer) == 0 && read(gone_reader, got, 1) == 0);
	return finish();
}
