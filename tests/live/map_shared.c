/* Shared mappings of a file: writes reach the file and the other mappings, in a child too; one is read-only. */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>

enum { PAGE = 4096, SIZE = 8 * PAGE };
static char *whole, *part, *reading;

static char *map(int fd, int protection, size_t size, off_t offset)
{
	char *at = mmap(NULL, size, protection, MAP_SHARED, fd, offset);
	CHECK(at != MAP_FAILED);
	return at;
}

static int child(void *argument)
{
	tree_park();
	CHECK(memcmp(whole + 100, "parent", 6) == 0 && memcmp(whole + 3 * PAGE, "to the part", 11) == 0);
	memcpy(whole + 200, "child", 5);
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char got[32];
	int fd = data_file("data", SIZE, 1), reader = open("data", O_RDONLY);
	whole = map(fd, PROT_READ | PROT_WRITE, SIZE, 0);
	part = map(fd, PROT_READ | PROT_WRITE, 2 * PAGE, 3 * PAGE);
	reading = map(reader, PROT_READ, SIZE, 0);
	CHECK(close(fd) == 0 && close(reader) == 0);
	memcpy(whole + 50, "before", 6);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(memcmp(whole + 50, "before", 6) == 0 && memcmp(reading + 50, "before", 6) == 0);
	memcpy(whole + 100, "parent", 6);
	memcpy(part, "to the part", 11);
	CHECK(memcmp(whole + 3 * PAGE, "to the part", 11) == 0 && memcmp(reading + 3 * PAGE, "to the part", 11) == 0);
	CHECK(tree_finish(pid) == 1 && memcmp(reading + 200, "child", 5) == 0);
	CHECK((fd = open("data", O_RDWR)) >= 0);
	CHECK(pread(fd, got, 6, 100) == 6 && memcmp(got, "parent", 6) == 0);
	CHECK(pread(fd, got, 5, 200) == 5 && memcmp(got, "child", 5) == 0);
	CHECK(pwrite(fd, "from the file", 13, 6 * PAGE) == 13 && memcmp(whole + 6 * PAGE, "from the file", 13) == 0);
	/* A mapping of a description opened for reading only cannot be made writable. */
	CHECK(mprotect(reading, PAGE, PROT_READ | PROT_WRITE) == -1 && errno == EACCES);
	return finish();
}
