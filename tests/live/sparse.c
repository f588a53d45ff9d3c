/* 64 TiB of reserved memory with a few pages in it, as sanitizers have: only those are looked at, and there, before and after. */
#include "data.h"
#include "proc.h"

enum { PAGE = 4096, PAGES = 50 };
static const size_t size = 1ULL << 46;

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		live_say("skip: no room for so much");
		return 0;
	}
	/* A huge page a touch is not what this is about. */
	CHECK(madvise(memory, size, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
	for (int i = 0; i < PAGES; i++) data_fill(memory + size / PAGES / PAGE * PAGE * i, PAGE, i);
	wait_go();
	CHECK(smaps_kib(memory, "Size:") == (long)(size / 1024) && smaps_kib(memory, "Rss:") <= PAGES * PAGE / 1024);
	CHECK(has_flag(memory, " nr"));
	for (int i = 0; i < PAGES; i++) {
		char *page = memory + size / PAGES / PAGE * PAGE * i;
		CHECK(data_holds(page, PAGE, i) && page[PAGE] == 0);
	}
	return finish();
}
