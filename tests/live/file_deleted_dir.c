/* Directories that were deleted: open, as current directory, one below another, one whose name was taken since; a file and a symbolic
 * link that were in one, and a file with another name elsewhere. Nothing of them has a name afterwards. */
#include "data.h"
#include "tree.h"
#include <dirent.h>
#include <sys/stat.h>

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

static void check_dir(int fd, unsigned mode, unsigned uid)
{
	struct stat st;
	CHECK(fstat(fd, &st) == 0 && S_ISDIR(st.st_mode) && (st.st_mode & 07777) == mode && st.st_uid == uid && st.st_nlink == 0);
	CHECK(openat(fd, "new", O_WRONLY | O_CREAT, 0600) == -1 && errno == ENOENT);
	CHECK(lseek(fd, 0, SEEK_SET) == 0);
	int copy = dup(fd);
	DIR *dir = fdopendir(copy);
	CHECK(dir && !readdir(dir));
	closedir(dir);
}

static void check_link(int fd, const char *end)
{
	char own[64], name[4096] = "";
	snprintf(own, sizeof own, "/proc/self/fd/%d", fd);
	CHECK(readlink(own, name, sizeof name - 1) > 0);
	size_t size = strlen(name), n = strlen(end);
	if (size < n || strcmp(name + size - n, end)) {
		live_say("not ok: %s does not end in %s", name, end);
		_exit(1);
	}
}

static int in_deleted(void *argument)
{
	struct stat st;
	char where[64];
	CHECK(mkdir("mine", 0711) == 0 && chdir("mine") == 0 && rmdir("../mine") == 0);
	tree_there();
	wait_signal();
	if (getcwd(where, sizeof where) || errno != ENOENT) return 2;
	if (stat(".", &st) || st.st_nlink || (st.st_mode & 07777) != 0711) return 3;
	return open("new", O_WRONLY | O_CREAT, 0600) == -1 && errno == ENOENT ? 5 : 4;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char buffer[3000], target[64] = "";
	CHECK(mkdir("plain", 0700) == 0 && mkdir("outer", 0755) == 0 && mkdir("outer/inner", 0750) == 0 && mkdir("taken", 0701) == 0);
	CHECK(chown("plain", 1000, 1000) == 0);
	int plain = open_dir("plain"), outer = open_dir("outer"), inner = open_dir("outer/inner"), taken = open_dir("taken");
	int file = data_file("outer/inner/file", sizeof buffer, 3), linked = data_file("outer/inner/linked", 50, 4);
	CHECK(symlink("some where", "outer/link") == 0);
	int link_fd = open("outer/link", O_PATH | O_NOFOLLOW);
	CHECK(link_fd >= 0 && link("outer/inner/linked", "kept") == 0);
	CHECK(unlink("outer/inner/file") == 0 && unlink("outer/inner/linked") == 0 && unlink("outer/link") == 0);
	CHECK(rmdir("plain") == 0 && rmdir("outer/inner") == 0 && rmdir("outer") == 0 && rmdir("taken") == 0 && mkdir("taken", 0755) == 0);
	CHECK(lseek(file, 77, SEEK_SET) == 77);
	pid_t child = tree_start(in_deleted, NULL);
	wait_go();
	check_dir(plain, 0700, 1000);
	check_dir(outer, 0755, 0);
	check_dir(inner, 0750, 0);
	check_dir(taken, 0701, 0);
	check_link(plain, "/plain (deleted)");
	check_link(inner, "/outer/inner (deleted)");
	check_link(file, "/outer/inner/file (deleted)");
	CHECK(lseek(file, 0, SEEK_CUR) == 77 && pread(file, buffer, sizeof buffer, 0) == sizeof buffer);
	CHECK(data_holds(buffer, sizeof buffer, 3));
	struct stat one, other;
	CHECK(fstat(linked, &one) == 0 && stat("kept", &other) == 0 && one.st_ino == other.st_ino && one.st_nlink == 1);
	CHECK(fstat(link_fd, &one) == 0 && S_ISLNK(one.st_mode));
	CHECK(readlinkat(link_fd, "", target, sizeof target - 1) == 10 && !strcmp(target, "some where"));
	CHECK(access("plain", F_OK) == -1 && access("outer", F_OK) == -1 && stat("taken", &other) == 0 && (other.st_mode & 07777) == 0755);
	CHECK(tree_finish(child) == 5);
	return finish();
}
