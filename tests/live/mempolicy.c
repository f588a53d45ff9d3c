/* Memory policy of the task and of an area. */
#include "live.h"
#include <sys/mman.h>
#include <sys/syscall.h>

enum { SIZE = 1 << 20, PREFERRED = 1, BIND = 2, INTERLEAVE = 3, OF_ADDRESS = 2 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	unsigned long nodes = 1, now = 0;
	int mode = -1;
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	if (syscall(SYS_set_mempolicy, INTERLEAVE, &nodes, 8 * sizeof nodes) != 0) {
		live_say("skip: no memory policies");
		return 0;
	}
	CHECK(syscall(SYS_mbind, memory, SIZE / 2, BIND, &nodes, 8 * sizeof nodes, 0) == 0);
	CHECK(syscall(SYS_mbind, memory + SIZE / 2, SIZE / 4, PREFERRED, &nodes, 8 * sizeof nodes, 0) == 0);
	memory[0] = memory[SIZE / 2] = 'm';
	wait_go();
	CHECK(syscall(SYS_get_mempolicy, &mode, &now, 8 * sizeof now, NULL, 0) == 0 && mode == INTERLEAVE && now == 1);
	CHECK(syscall(SYS_get_mempolicy, &mode, &now, 8 * sizeof now, memory, OF_ADDRESS) == 0 && mode == BIND && now == 1);
	CHECK(syscall(SYS_get_mempolicy, &mode, &now, 8 * sizeof now, memory + SIZE / 2, OF_ADDRESS) == 0);
	CHECK(mode == PREFERRED && now == 1 && memory[0] == 'm' && memory[SIZE / 2] == 'm');
	CHECK(syscall(SYS_get_mempolicy, &mode, &now, 8 * sizeof now, memory + SIZE - 1, OF_ADDRESS) == 0);
	CHECK(mode == 0); /* an area without a policy of its own */
	return finish();
}
