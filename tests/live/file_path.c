/* O_PATH descriptors of a file, a directory and a symbolic link. */
#include "data.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got[64] = "";
	struct stat one, other;
	close(data_file("data", 100, 1));
	CHECK(mkdir("dir", 0755) == 0 && symlink("data", "link") == 0);
	int file = open("data", O_PATH), dir = open("dir", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int link = open("link", O_PATH | O_NOFOLLOW);
	CHECK(file >= 0 && dir >= 0 && link >= 0);
	int before = fcntl(link, F_GETFL);
	wait_go();
	CHECK(fcntl(file, F_GETFL) & O_PATH && fcntl(dir, F_GETFL) & O_PATH && fcntl(link, F_GETFL) == before);
	CHECK(fcntl(dir, F_GETFL) & O_DIRECTORY && fcntl(dir, F_GETFD) == FD_CLOEXEC && fcntl(file, F_GETFD) == 0);
	CHECK(read(file, got, 1) == -1 && errno == EBADF);
	CHECK(fstat(file, &one) == 0 && stat("data", &other) == 0 && one.st_ino == other.st_ino);
	CHECK(fstat(link, &one) == 0 && S_ISLNK(one.st_mode) && lstat("link", &other) == 0 && one.st_ino == other.st_ino);
	CHECK(readlinkat(link, "", got, sizeof got) == 4 && memcmp(got, "data", 4) == 0);
	int made = openat(dir, "made", O_WRONLY | O_CREAT | O_EXCL, 0600);
	CHECK(made >= 0 && access("dir/made", F_OK) == 0);
	return finish();
}
