/* Code that the program has made itself: in memory for writing and running, and in two mappings of a memory file. */
#include "live.h"
#include <sys/mman.h>

enum { PAGE = 4096 };
#if defined(__x86_64__)
static const unsigned char code[] = {0xb8, 0x2a, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
enum { NUMBER_AT = 1 };
#else
static const unsigned char code[] = {0};
enum { NUMBER_AT = 0 };
#endif

static int call(char *at) { return ((int (*)(void))at)(); }

int main(int argc, char **argv)
{
	live_init(argc, argv);
	if (!NUMBER_AT) {
		live_say("skip: x86-64 only");
		return 0;
	}
	int rw = PROT_READ | PROT_WRITE, rx = PROT_READ | PROT_EXEC, fd = memfd_create("jit", MFD_CLOEXEC);
	char *both = mmap(NULL, PAGE, rw | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *sealed = mmap(NULL, PAGE, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0 && both != MAP_FAILED && sealed != MAP_FAILED);
	char *writing = mmap(NULL, PAGE, rw, MAP_SHARED, fd, 0), *running = mmap(NULL, PAGE, rx, MAP_SHARED, fd, 0);
	CHECK(writing != MAP_FAILED && running != MAP_FAILED && close(fd) == 0);
	memcpy(both, code, sizeof code);
	memcpy(sealed, code, sizeof code);
	memcpy(writing, code, sizeof code);
	CHECK(mprotect(sealed, PAGE, rx) == 0 && call(both) == 42 && call(sealed) == 42 && call(running) == 42);
	wait_go();
	CHECK(call(both) == 42 && call(sealed) == 42 && call(running) == 42);
	both[NUMBER_AT] = 43;
	writing[NUMBER_AT] = 44;
	CHECK(call(both) == 43 && call(running) == 44 && call(sealed) == 42);
	return finish();
}
