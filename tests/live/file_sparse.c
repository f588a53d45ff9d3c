/* A large deleted file that is nearly all holes keeps its holes. */
#include "data.h"
#include <sys/stat.h>

enum { PIECE = 4096, PIECES = 5 };
static const off_t size = 4LL << 30;

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char buffer[PIECE];
	struct stat before, after;
	int fd = data_file("sparse", 0, 0);
	for (int i = 0; i < PIECES; i++) {
		data_fill(buffer, PIECE, i + 1);
		CHECK(pwrite(fd, buffer, PIECE, size / PIECES * i / PIECE * PIECE) == PIECE);
	}
	CHECK(ftruncate(fd, size) == 0 && unlink("sparse") == 0 && fsync(fd) == 0 && fstat(fd, &before) == 0);
	if (before.st_blocks > 2048) {
		live_say("skip: no holes on this file system");
		return 0;
	}
	wait_go();
	CHECK(fsync(fd) == 0 && fstat(fd, &after) == 0 && after.st_size == size && after.st_blocks <= 2048);
	for (int i = 0; i < PIECES; i++) {
		off_t at = size / PIECES * i / PIECE * PIECE;
		CHECK(pread(fd, buffer, PIECE, at) == PIECE && data_holds(buffer, PIECE, i + 1));
		CHECK(pread(fd, buffer, PIECE, at + 10 * PIECE) == PIECE);
		for (int j = 0; j < PIECE; j++) CHECK(buffer[j] == 0);
	}
	return finish();
}
