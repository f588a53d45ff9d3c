/* Memory that was only read, or written with zeros and given back, costs no pages after either. */
#include "proc.h"

enum { PAGE = 4096, SIZE = 64 << 20 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *memory = mmap(NULL, SIZE + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED && mprotect(memory + SIZE, PAGE, PROT_NONE) == 0);
	CHECK(madvise(memory, SIZE, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
	for (int i = 0; i < SIZE / 2; i += PAGE) CHECK(*(volatile char *)(memory + i) == 0);
	for (int i = SIZE / 2; i < SIZE / 2 + 200 * PAGE; i += PAGE) memory[i] = 1;
	CHECK(madvise(memory + SIZE / 2, 200 * PAGE, MADV_DONTNEED) == 0);
	memory[100 * PAGE] = 'a';
	memory[SIZE - PAGE] = 'b';
	long before = smaps_kib(memory, "Rss:");
	CHECK(before <= 2 * PAGE / 1024);
	wait_go();
	CHECK(smaps_kib(memory, "Rss:") <= before);
	CHECK(memory[100 * PAGE] == 'a' && memory[SIZE - PAGE] == 'b');
	memory[100 * PAGE] = memory[SIZE - PAGE] = 0;
	for (int i = 0; i < SIZE; i += PAGE) CHECK(memory[i] == 0);
	return finish();
}
