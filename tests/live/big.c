/* 64 MiB of random bytes. */
#include "data.h"
#include <sys/mman.h>

enum { SIZE = 64 << 20 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	data_fill(memory, SIZE, 1);
	wait_go();
	CHECK(data_holds(memory, SIZE, 1));
	return finish();
}
