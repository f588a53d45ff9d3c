/* An area that grows downwards (MAP_GROWSDOWN) and the stack itself: both grow on. */
#include "proc.h"

enum { PAGE = 4096, ROOM = 16 << 20, GUARD = 2 << 20 };

static __attribute__((noinline)) int deeper(int pages)
{
	volatile char page[PAGE];
	page[0] = pages;
	int below = pages ? deeper(pages - 1) : 0;
	return below + (page[0] == (char)pages);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *room = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(room != MAP_FAILED && munmap(room, ROOM - 4 * PAGE) == 0);
	char *area = mmap(room + ROOM - 4 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	CHECK(area != MAP_FAILED);
	for (int i = 3; i >= -3; i--) area[i * PAGE] = 'g' + i; /* three pages below where it began */
	CHECK(has_flag(area - 3 * PAGE, " gd") && deeper(10) == 11);
	wait_go();
	for (int i = 3; i >= -3; i--) CHECK(area[i * PAGE] == 'g' + i);
	CHECK(has_flag(area, " gd"));
	for (int i = -4; i >= -20; i--) area[i * PAGE] = 1;
	CHECK(area[-20 * PAGE] == 1 && area[-20 * PAGE + 1] == 0);
	CHECK(deeper(400) == 401);
	return finish();
}
