/* Names of anonymous areas (PR_SET_VMA_ANON_NAME). */
#include "live.h"
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
enum { PAGE = 4096 };
static char text[1 << 18];

static void check(char *memory)
{
	ssize_t n = slurp("/proc/self/maps", text, sizeof text - 1);
	char wanted[64];
	CHECK(n > 0);
	text[n] = 0;
	snprintf(wanted, sizeof wanted, "%lx-%lx ", (long)memory + PAGE, (long)memory + 3 * PAGE);
	char *line = strstr(text, wanted);
	CHECK(line && (*strchr(line, '\n') = 0, strstr(line, "[anon:first name]")));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *memory = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	if (prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory + PAGE, 2 * PAGE, "first name") != 0) {
		live_say("skip: anonymous areas have no names here");
		return 0;
	}
	check(memory);
	wait_go();
	check(memory);
	return finish();
}
