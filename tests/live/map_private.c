/* Private mappings of a file: pages written to, pages still the file's, an offset, the end of the file within. */
#include "data.h"
#include <setjmp.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 16 };
static sigjmp_buf back;
static void on_bus(int sig) { siglongjmp(back, 1); }

static int faults(volatile char *at)
{
	if (sigsetjmp(back, 1)) return 1;
	(void)*at;
	return 0;
}

static char *map(int fd, int protection, int pages, off_t offset)
{
	char *at = mmap(NULL, pages * PAGE, protection, MAP_PRIVATE, fd, offset);
	CHECK(at != MAP_FAILED);
	return at;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static char file[PAGES * PAGE];
	int fd = data_file("data", sizeof file, 1), shorter = data_file("short", 2 * PAGE + 100, 2);
	CHECK(pread(fd, file, sizeof file, 0) == sizeof file);
	char *whole = map(fd, PROT_READ | PROT_WRITE, PAGES, 0), *reading = map(fd, PROT_READ, PAGES - 4, 4 * PAGE);
	char *end = map(shorter, PROT_READ | PROT_WRITE, 4, 0), *frozen = map(fd, PROT_READ | PROT_WRITE, 2, PAGE);
	CHECK(close(fd) == 0 && close(shorter) == 0);
	whole[3 * PAGE] = 'w';
	data_fill(whole + 5 * PAGE, PAGE, 3);
	end[2 * PAGE + 50] = 'e';
	frozen[0] = 'f';
	CHECK(mprotect(frozen, 2 * PAGE, PROT_READ) == 0);
	for (int i = 0; i < PAGES; i += 3) (void)*(volatile char *)(whole + i * PAGE);
	wait_go();
	for (int i = 0; i < PAGES; i++) {
		if (i == 5) CHECK(data_holds(whole + i * PAGE, PAGE, 3));
		else if (i == 3) CHECK(whole[i * PAGE] == 'w' && !memcmp(whole + i * PAGE + 1, file + i * PAGE + 1, PAGE - 1));
		else CHECK(memcmp(whole + i * PAGE, file + i * PAGE, PAGE) == 0);
	}
	CHECK(memcmp(reading, file + 4 * PAGE, (PAGES - 4) * PAGE) == 0);
	CHECK(frozen[0] == 'f' && memcmp(frozen + 1, file + PAGE + 1, 2 * PAGE - 1) == 0);
	CHECK(end[2 * PAGE + 50] == 'e' && end[2 * PAGE + 200] == 0 && signal(SIGBUS, on_bus) != SIG_ERR);
	CHECK(faults(end + 3 * PAGE) && !faults(end + 2 * PAGE));
	/* A page not written to is still the file's, one that was is not. */
	CHECK((fd = open("data", O_RDWR)) >= 0 && pwrite(fd, "changed", 7, 7 * PAGE) == 7);
	CHECK(pwrite(fd, "changed", 7, 5 * PAGE) == 7);
	CHECK(memcmp(whole + 7 * PAGE, "changed", 7) == 0 && memcmp(reading + 3 * PAGE, "changed", 7) == 0);
	CHECK(data_holds(whole + 5 * PAGE, PAGE, 3));
	whole[9 * PAGE] ^= 1;
	char got;
	CHECK(pread(fd, &got, 1, 9 * PAGE) == 1 && got == file[9 * PAGE]);
	return finish();
}
