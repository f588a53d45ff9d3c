/* Files whose permissions are less by now than those of the descriptor, in a task that has become an ordinary user; and
 * a read-only description beside a writing one of the same file. */
#include "data.h"
#include <grp.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got[100];
	int writer = data_file("data", 100, 9), reader = open("data", O_RDONLY);
	int secret = data_file("secret", 100, 10);
	CHECK(reader >= 0 && lseek(writer, 50, SEEK_SET) == 50 && lseek(reader, 10, SEEK_SET) == 10);
	CHECK(chmod("data", 0444) == 0 && chmod("secret", 0) == 0);
	CHECK(setgroups(0, NULL) == 0 && setresgid(2000, 2000, 2000) == 0 && setresuid(2000, 2000, 2000) == 0);
	CHECK(open("data", O_RDWR) == -1 && errno == EACCES);
	wait_go();
	CHECK(open("data", O_RDWR) == -1 && errno == EACCES && open("secret", O_RDONLY) == -1 && errno == EACCES);
	CHECK(write(writer, "written", 7) == 7 && pread(reader, got, 7, 50) == 7 && memcmp(got, "written", 7) == 0);
	CHECK(write(reader, "x", 1) == -1 && errno == EBADF && lseek(reader, 0, SEEK_CUR) == 10);
	CHECK(pread(secret, got, 100, 0) == 100 && data_holds(got, 100, 10) && pwrite(secret, "s", 1, 0) == 1);
	return finish();
}
