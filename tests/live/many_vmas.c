/* Twelve thousand memory areas, each second one with content. */
#include "data.h"
#include <sys/mman.h>

enum { PAGE = 4096, COUNT = 12000 };

static int lines(void)
{
	char text[65536];
	int fd = open("/proc/self/maps", O_RDONLY), count = 0;
	ssize_t n;
	CHECK(fd >= 0);
	while ((n = read(fd, text, sizeof text)) > 0)
		for (ssize_t i = 0; i < n; i++) count += text[i] == '\n';
	close(fd);
	return count;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *memory = mmap(NULL, COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	for (int i = 0; i < COUNT; i += 2) {
		data_fill(memory + i * PAGE, 64, i);
		CHECK(mprotect(memory + i * PAGE, PAGE, PROT_READ) == 0);
	}
	int before = lines();
	CHECK(before > COUNT);
	wait_go();
	CHECK(lines() <= before && lines() > COUNT); /* an area at the edge may join its neighbour */
	for (int i = 0; i < COUNT; i += 2) CHECK(data_holds(memory + i * PAGE, 64, i) && memory[i * PAGE + 64] == 0);
	for (int i = 1; i < COUNT; i += 2) {
		CHECK(memory[i * PAGE] == 0);
		memory[i * PAGE] = 1;
	}
	return finish();
}
