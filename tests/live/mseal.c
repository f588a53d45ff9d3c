/* Memory that mseal(2) has sealed: readable and writable as it was, and not to be changed. */
#include "data.h"
#include "proc.h"
#include <sys/syscall.h>

enum { SIZE = 16384, MSEAL = 462 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *memory = mmap(NULL, 4 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	data_fill(memory, 4 * SIZE, 1);
	CHECK(mprotect(memory + SIZE, SIZE, PROT_READ) == 0);
	if (syscall(MSEAL, memory + SIZE, 2 * SIZE, 0) != 0) {
		live_say("skip: no mseal (Linux 6.10)");
		return 0;
	}
	wait_go();
	CHECK(data_holds(memory, 4 * SIZE, 1));
	CHECK(has_flag(memory + SIZE, " sl") && has_flag(memory + 2 * SIZE, " sl"));
	CHECK(!has_flag(memory, " sl") && !has_flag(memory + 3 * SIZE, " sl"));
	CHECK(mprotect(memory + SIZE, SIZE, PROT_READ | PROT_WRITE) == -1 && errno == EPERM);
	CHECK(munmap(memory + 2 * SIZE, SIZE) == -1 && errno == EPERM);
	memory[2 * SIZE] = 'x';
	CHECK(munmap(memory, SIZE) == 0 && munmap(memory + 3 * SIZE, SIZE) == 0);
	return finish();
}
