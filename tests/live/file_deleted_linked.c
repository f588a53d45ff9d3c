/* A deleted file that has another name still: the descriptor stays with that file. */
#include "data.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct stat one, other;
	char got[100];
	CHECK(mkdir("elsewhere", 0755) == 0);
	int fd = data_file("first", 100, 8);
	CHECK(link("first", "elsewhere/second") == 0 && unlink("first") == 0 && lseek(fd, 40, SEEK_SET) == 40);
	wait_go();
	CHECK(fstat(fd, &one) == 0 && stat("elsewhere/second", &other) == 0);
	CHECK(one.st_ino == other.st_ino && one.st_dev == other.st_dev && lseek(fd, 0, SEEK_CUR) == 40);
	CHECK(one.st_nlink == 1 && access("first", F_OK) == -1 && errno == ENOENT);
	CHECK(pwrite(fd, "through", 7, 0) == 7);
	CHECK(slurp("elsewhere/second", got, sizeof got) == 100 && memcmp(got, "through", 7) == 0);
	return finish();
}
