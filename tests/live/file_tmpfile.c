/* A file without a name from birth (O_TMPFILE): content, position, owner, and a name given to it later. O_EXCL, which
 * would forbid that, can not be told from outside. */
#include "data.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static char buffer[10000];
	struct stat status;
	char path[64];
	int fd = open(".", O_TMPFILE | O_RDWR, 0640);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) {
		live_say("skip: no O_TMPFILE here");
		return 0;
	}
	CHECK(fd >= 0 && fchown(fd, 1000, 1001) == 0);
	data_fill(buffer, sizeof buffer, 4);
	CHECK(write(fd, buffer, sizeof buffer) == sizeof buffer && lseek(fd, 17, SEEK_SET) == 17);
	wait_go();
	CHECK(fstat(fd, &status) == 0 && status.st_size == sizeof buffer && status.st_nlink == 0);
	CHECK((status.st_mode & 07777) == 0640 && status.st_uid == 1000 && status.st_gid == 1001);
	CHECK(lseek(fd, 0, SEEK_CUR) == 17 && pread(fd, buffer, sizeof buffer, 0) == sizeof buffer);
	CHECK(data_holds(buffer, sizeof buffer, 4));
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW) == 0);
	CHECK(stat("named", &status) == 0 && status.st_size == sizeof buffer && status.st_nlink == 1);
	return finish();
}
