/* Mappings of memory files: two shared ones of the same file, a private one with pages of its own. */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>

enum { PAGE = 4096, SIZE = 16 * PAGE };
static char *first, *second, *own;

static int child(void *argument)
{
	tree_park();
	CHECK(memcmp(first + 10, "parent", 6) == 0 && data_holds(own + PAGE, PAGE, 3));
	memcpy(second + 20, "child", 5);
	return 1;
}

static char *map(int fd, int flags, size_t size, off_t offset)
{
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, offset);
	CHECK(at != MAP_FAILED);
	return at;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int fd = memfd_create("mapped", MFD_CLOEXEC), kept = memfd_create("kept", MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && kept >= 0 && ftruncate(fd, SIZE) == 0 && ftruncate(kept, SIZE) == 0);
	first = map(fd, MAP_SHARED, SIZE, 0);
	second = map(fd, MAP_SHARED, SIZE / 2, 0);
	own = map(fd, MAP_PRIVATE, SIZE, 0);
	char *held = map(kept, MAP_SHARED, SIZE, 0);
	CHECK(close(fd) == 0);
	data_fill(first, SIZE, 2);
	data_fill(own + PAGE, PAGE, 3);
	held[5 * PAGE] = 'h';
	CHECK(fcntl(kept, F_ADD_SEALS, F_SEAL_FUTURE_WRITE) == 0); /* what is mapped may still be written to */
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(data_holds(first, SIZE, 2) && memcmp(second, first, SIZE / 2) == 0 && data_holds(own + PAGE, PAGE, 3));
	CHECK(memcmp(own + 2 * PAGE, first + 2 * PAGE, SIZE - 2 * PAGE) == 0);
	memcpy(first + 10, "parent", 6);
	CHECK(memcmp(second + 10, "parent", 6) == 0 && memcmp(own + 10, "parent", 6) == 0);
	CHECK(tree_finish(pid) == 1 && memcmp(first + 20, "child", 5) == 0);
	char got;
	held[6 * PAGE] = 'i';
	CHECK(pread(kept, &got, 1, 5 * PAGE) == 1 && got == 'h' && pread(kept, &got, 1, 6 * PAGE) == 1 && got == 'i');
	CHECK(pwrite(kept, "x", 1, 0) == -1 && errno == EPERM && fcntl(kept, F_GET_SEALS) == F_SEAL_FUTURE_WRITE);
	return finish();
}
