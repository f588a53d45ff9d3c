/* Areas split by mprotect, munmap and mremap: /proc/self/maps is the same, word for word. */
#include "data.h"
#include "proc.h"

enum { PAGE = 4096 };
static char before[PROC_TEXT], after[PROC_TEXT];

static char *map(int pages, int protection, int flags, int fd, off_t offset)
{
	char *at = mmap(NULL, pages * PAGE, protection, flags, fd, offset);
	CHECK(at != MAP_FAILED);
	return at;
}

static void make(void)
{
	int rw = PROT_READ | PROT_WRITE, fd = data_file("data", 40 * PAGE, 1);
	char *anonymous = map(100, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *file = map(40, rw, MAP_PRIVATE, fd, 0);
	char *shared = map(40, rw, MAP_SHARED | MAP_ANONYMOUS, -1, 0), *mapped = map(40, rw, MAP_SHARED, fd, 0);
	for (int i = 0; i < 100; i += 3) memset(anonymous + i * PAGE, i, PAGE);
	for (int i = 0; i < 40; i += 5) memset(file + i * PAGE, i, PAGE);
	memset(shared, 7, 20 * PAGE);
	CHECK(mprotect(anonymous + 10 * PAGE, 10 * PAGE, PROT_READ) == 0 && munmap(anonymous + 30 * PAGE, 5 * PAGE) == 0);
	CHECK(mprotect(anonymous + 50 * PAGE, 1 * PAGE, PROT_NONE) == 0);
	CHECK(mprotect(anonymous + 60 * PAGE, 9 * PAGE, rw | PROT_EXEC) == 0);
	CHECK(mprotect(anonymous + 62 * PAGE, 2 * PAGE, rw) == 0);
	CHECK(mremap(anonymous + 70 * PAGE, 10 * PAGE, 20 * PAGE, MREMAP_MAYMOVE) != MAP_FAILED);
	CHECK(mprotect(file + 7 * PAGE, 3 * PAGE, PROT_READ) == 0 && munmap(file + 20 * PAGE, PAGE) == 0);
	CHECK(mprotect(shared + 5 * PAGE, PAGE, PROT_READ) == 0 && mprotect(mapped + 9 * PAGE, 2 * PAGE, PROT_NONE) == 0);
	CHECK(munmap(shared + 30 * PAGE, PAGE) == 0);
}

static void snapshot(char *to)
{
	ssize_t n = slurp("/proc/self/maps", to, PROC_TEXT - 1);
	CHECK(n > 0 && n < PROC_TEXT - 1);
	to[n] = 0;
	/* The kernel numbers shared memory as it likes. */
	for (char *at = to; (at = strstr(at, " 00:01 ")); at += 7)
		for (char *digit = at + 7; *digit >= '0' && *digit <= '9'; digit++) memmove(digit, digit + 1, strlen(digit)), digit--;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	make();
	snapshot(before); /* so that the buffers have been touched and the stack is as deep as it gets */
	snapshot(after);
	snapshot(before);
	wait_go();
	snapshot(after);
	char *rest_before, *rest_after;
	char *line = strtok_r(before, "\n", &rest_before), *now = strtok_r(after, "\n", &rest_after);
	for (; line || now; line = strtok_r(NULL, "\n", &rest_before), now = strtok_r(NULL, "\n", &rest_after))
		if (!line || !now || strcmp(line, now)) {
			live_say("not ok: in place of \"%s\" there is \"%s\"", line ? line : "", now ? now : "");
			return 1;
		}
	return finish();
}
