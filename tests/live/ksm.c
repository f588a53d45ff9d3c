/* The task's wish that all of its memory may be merged with equal pages (PR_SET_MEMORY_MERGE). */
#include "proc.h"
#include <sys/prctl.h>

enum { SET_MEMORY_MERGE = 67, GET_MEMORY_MERGE = 68, SIZE = 1 << 20 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	if (prctl(SET_MEMORY_MERGE, 1, 0, 0, 0) != 0) {
		live_say("skip: no PR_SET_MEMORY_MERGE");
		return 0;
	}
	wait_go();
	CHECK(prctl(GET_MEMORY_MERGE, 0, 0, 0, 0) == 1);
	char *later = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(later != MAP_FAILED && has_flag(later, " mg"));
	return finish();
}
