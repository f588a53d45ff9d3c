/* The heap of brk: its content, its place, and that it grows and shrinks on from there. */
#include "data.h"
#include "proc.h"

enum { SIZE = 300000, MORE = 5 << 20 };

/* Where the kernel thinks that the heap begins: field 47 of stat. */
static unsigned long heap_start(void)
{
	char text[1024] = "";
	CHECK(slurp("/proc/self/stat", text, sizeof text - 1) > 0);
	char *at = strrchr(text, ')') + 1;
	for (int field = 3; field < 47; field++) at = strchr(at + 1, ' ');
	return strtoul(at, NULL, 10);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *start = sbrk(SIZE), *end = sbrk(0);
	CHECK(start != (void *)-1 && end == start + SIZE);
	data_fill(start, SIZE, 1);
	unsigned long before = heap_start();
	wait_go();
	CHECK(heap_start() == before && before && (char *)sbrk(0) == end && data_holds(start, SIZE, 1));
	CHECK((char *)sbrk(MORE) == end && (char *)sbrk(0) == end + MORE);
	for (int i = 0; i < MORE; i++) CHECK(end[i] == 0);
	memset(end, 1, MORE);
	CHECK(data_holds(start, SIZE, 1) && (char *)sbrk(-MORE - SIZE / 2) == end + MORE);
	CHECK((char *)sbrk(0) == end - SIZE / 2);
	char *more = malloc(1000);
	CHECK(more && (unsigned long)more >= before);
	free(more);
	return finish();
}
