/* Memory files: name, content with holes, position, seals, mode, a read-only second description, one of a child. */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>
#include <sys/stat.h>

enum { SIZE = 1 << 20, PIECE = 5000 };
static int shared;

static int child(void *argument)
{
	char got[PIECE];
	tree_park();
	CHECK(pread(shared, got, PIECE, 0) == PIECE && data_holds(got, PIECE, 3) && pwrite(shared, "child", 5, 0) == 5);
	return 1;
}

static void name_is(int fd, const char *name)
{
	char path[64], target[128] = "";
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	CHECK(readlink(path, target, sizeof target - 1) > 0 && strcmp(target, name) == 0);
}

static int reopen(int fd)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char buffer[PIECE];
	struct stat one, other;
	int fd = memfd_create("a name (deleted)", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	int sealed = memfd_create("", MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && sealed >= 0 && (shared = memfd_create("shared", 0)) >= 0 && ftruncate(fd, SIZE) == 0);
	data_fill(buffer, PIECE, 1);
	CHECK(pwrite(fd, buffer, PIECE, SIZE / 2) == PIECE && lseek(fd, 99, SEEK_SET) == 99 && fchmod(fd, 0640) == 0);
	data_fill(buffer, PIECE, 2);
	CHECK(write(sealed, buffer, PIECE) == PIECE && fcntl(sealed, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_WRITE) == 0);
	data_fill(buffer, PIECE, 3);
	CHECK(write(shared, buffer, PIECE) == PIECE && fcntl(fd, F_ADD_SEALS, F_SEAL_GROW) == 0);
	int reader = reopen(fd);
	CHECK(reader >= 0 && lseek(reader, 11, SEEK_SET) == 11);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	name_is(fd, "/memfd:a name (deleted) (deleted)");
	name_is(sealed, "/memfd: (deleted)");
	CHECK(fcntl(fd, F_GET_SEALS) == F_SEAL_GROW && fcntl(sealed, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_WRITE));
	CHECK(fcntl(shared, F_GET_SEALS) == F_SEAL_SEAL && fcntl(fd, F_GETFD) == FD_CLOEXEC && fcntl(sealed, F_GETFD) == 0);
	CHECK(fstat(fd, &one) == 0 && fstat(reader, &other) == 0 && one.st_ino == other.st_ino && one.st_size == SIZE);
	CHECK((one.st_mode & 07777) == 0640 && one.st_blocks <= 64 && (fcntl(reader, F_GETFL) & O_ACCMODE) == O_RDONLY);
	CHECK(lseek(fd, 0, SEEK_CUR) == 99 && lseek(reader, 0, SEEK_CUR) == 11 && lseek(sealed, 0, SEEK_CUR) == PIECE);
	CHECK(pread(reader, buffer, PIECE, SIZE / 2) == PIECE && data_holds(buffer, PIECE, 1));
	CHECK(pread(fd, buffer, 10, 0) == 10 && !memcmp(buffer, "\0\0\0\0\0\0\0\0\0", 10));
	CHECK(ftruncate(fd, SIZE + 1) == -1 && errno == EPERM && pwrite(fd, "w", 1, 0) == 1);
	CHECK(pread(sealed, buffer, PIECE, 0) == PIECE && data_holds(buffer, PIECE, 2));
	CHECK(pwrite(sealed, "w", 1, 0) == -1 && errno == EPERM && ftruncate(sealed, 0) == -1);
	CHECK(tree_finish(pid) == 1 && pread(shared, buffer, 5, 0) == 5 && memcmp(buffer, "child", 5) == 0);
	return finish();
}
