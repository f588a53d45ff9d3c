/* A hundred thousand memory areas, or as many as the system allows one process to have, each second one with content. */
#include "data.h"
#include <sys/mman.h>

enum { PAGE = 4096, MOST = 100000, SPARE = 530 };
static int count;

static int lines(void)
{
	char text[65536];
	int fd = open("/proc/self/maps", O_RDONLY), sum = 0;
	ssize_t n;
	CHECK(fd >= 0);
	while ((n = read(fd, text, sizeof text)) > 0)
		for (ssize_t i = 0; i < n; i++) sum += text[i] == '\n';
	close(fd);
	return sum;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char limit[32] = "";
	CHECK(slurp("/proc/sys/vm/max_map_count", limit, sizeof limit - 1) > 0);
	count = (atoi(limit) - SPARE < MOST ? atoi(limit) - SPARE : MOST) & ~1;
	char *memory = mmap(NULL, (size_t)count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	for (int i = 0; i < count; i += 2) {
		data_fill(memory + (size_t)i * PAGE, 64, i);
		CHECK(mprotect(memory + (size_t)i * PAGE, PAGE, PROT_READ) == 0);
	}
	int before = lines();
	CHECK(before > count);
	wait_go();
	CHECK(lines() <= before && lines() > count); /* an area at the edge may join its neighbour */
	for (int i = 0; i < count; i += 2) CHECK(data_holds(memory + (size_t)i * PAGE, 64, i) && memory[(size_t)i * PAGE + 64] == 0);
	for (int i = 1; i < count; i += 2) {
		CHECK(memory[(size_t)i * PAGE] == 0);
		memory[(size_t)i * PAGE] = 1;
	}
	return finish();
}
