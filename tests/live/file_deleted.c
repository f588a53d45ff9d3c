/* A deleted file that several descriptions and a child share; another whose name a new file has taken. */
#include "data.h"
#include "tree.h"
#include <dirent.h>
#include <sys/stat.h>

enum { SIZE = 30000 };
static int fd, reader, replaced;

static int child(void *argument)
{
	static char buffer[SIZE];
	struct stat status;
	tree_park();
	CHECK(fstat(fd, &status) == 0 && status.st_nlink == 0 && status.st_size == SIZE);
	CHECK(pread(reader, buffer, SIZE, 0) == SIZE && data_holds(buffer, SIZE, 5));
	CHECK(lseek(reader, 4000, SEEK_SET) == 4000 && pwrite(fd, "child", 5, 100) == 5);
	return 6;
}

static void check_nothing_left(void)
{
	DIR *dir = opendir(".");
	CHECK(dir);
	for (struct dirent *entry; (entry = readdir(dir));) {
		const char *name = entry->d_name;
		if (*name == '.' || !strcmp(name, "report") || !strncmp(name, "images", 6) || !strcmp(name, "other")) continue;
		live_say("not ok: a file %s is left over", name);
		_exit(1);
	}
	closedir(dir);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	struct stat one, other;
	char got[16];
	fd = data_file("gone", SIZE, 5);
	CHECK(fchmod(fd, 0604) == 0 && fchown(fd, 1000, 1001) == 0);
	CHECK((reader = open("gone", O_RDONLY | O_CLOEXEC)) >= 0);
	replaced = data_file("other", 100, 6);
	CHECK(unlink("gone") == 0 && unlink("other") == 0);
	close(data_file("other", 200, 7));
	CHECK(lseek(fd, 123, SEEK_SET) == 123 && lseek(reader, 456, SEEK_SET) == 456);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(lseek(fd, 0, SEEK_CUR) == 123 && lseek(reader, 0, SEEK_CUR) == 456);
	CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR && (fcntl(reader, F_GETFL) & O_ACCMODE) == O_RDONLY);
	CHECK(fstat(fd, &one) == 0 && fstat(reader, &other) == 0);
	CHECK(one.st_ino == other.st_ino && one.st_dev == other.st_dev);
	CHECK((one.st_mode & 07777) == 0604 && one.st_uid == 1000 && one.st_gid == 1001 && one.st_nlink == 0);
	CHECK(tree_finish(pid) == 6 && lseek(reader, 0, SEEK_CUR) == 4000);
	CHECK(pread(reader, got, 5, 100) == 5 && memcmp(got, "child", 5) == 0);
	CHECK(fstat(replaced, &one) == 0 && one.st_size == 100 && stat("other", &other) == 0 && other.st_size == 200);
	CHECK(one.st_ino != other.st_ino && other.st_nlink == 1);
	check_nothing_left();
	return finish();
}
