/* All memory is locked, also what is mapped later (mlockall with MCL_FUTURE and MCL_ONFAULT). */
#include "proc.h"

enum { PAGE = 4096, SIZE = 1 << 20 };

/* With a page that may not be touched on either side, so that it is an area of its own. */
static char *map(void)
{
	char *at = mmap(NULL, SIZE + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(at != MAP_FAILED && mprotect(at + PAGE, SIZE, PROT_READ | PROT_WRITE) == 0);
	return at + PAGE;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0) {
		live_say("skip: memory cannot be locked here");
		return 0;
	}
	char *before = map();
	before[0] = 'b';
	CHECK(has_flag(before, " lo"));
	long kib = proc_number("/proc/self/status", "VmLck:");
	wait_go();
	CHECK(proc_number("/proc/self/status", "VmLck:") == kib && before[0] == 'b');
	CHECK(has_flag(before, " lo") && has_flag((void *)main, " lo"));
	char *after = map();
	CHECK(has_flag(after, " lo") && smaps_kib(after, "Rss:") == 0);
	CHECK(munlockall() == 0 && !has_flag(before, " lo"));
	return finish();
}
