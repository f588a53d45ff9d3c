/* Pages that may not be touched, with content beneath; a large reservation; every second page; write-only pages. */
#include "data.h"
#include <setjmp.h>
#include <sys/mman.h>

enum { PAGE = 4096, PAGES = 64 };
static const size_t reserved = 4ULL << 30;
static sigjmp_buf back;
static void on_segv(int sig) { siglongjmp(back, 1); }

static int faults(volatile char *at, int write)
{
	if (sigsetjmp(back, 1)) return 1;
	if (write) *at = 1;
	else (void)*at;
	return 0;
}

static char *map(size_t size, int protection, int flags)
{
	char *at = mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	CHECK(at != MAP_FAILED);
	return at;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *striped = map(PAGES * PAGE, PROT_READ | PROT_WRITE, 0);
	char *reservation = map(reserved, PROT_NONE, MAP_NORESERVE);
	char *never = map(PAGES * PAGE, PROT_NONE, 0), *execute = map(PAGE, PROT_READ | PROT_EXEC, 0);
	CHECK(mprotect(reservation + reserved / 2, PAGE, PROT_READ | PROT_WRITE) == 0);
	data_fill(reservation + reserved / 2, PAGE, 1);
	for (int i = 0; i < PAGES; i++) {
		static const int protections[] = {PROT_NONE, PROT_READ, PROT_WRITE, PROT_READ | PROT_WRITE | PROT_EXEC};
		data_fill(striped + i * PAGE, PAGE, i + 10);
		CHECK(mprotect(striped + i * PAGE, PAGE, protections[i % 4]) == 0);
	}
	wait_go();
	CHECK(signal(SIGSEGV, on_segv) != SIG_ERR);
	CHECK(faults(reservation, 0) && faults(reservation + reserved - 1, 0));
	CHECK(faults(reservation + reserved / 2 + PAGE, 0) && faults(reservation + reserved / 2 - 1, 0));
	CHECK(data_holds(reservation + reserved / 2, PAGE, 1));
	CHECK(faults(never, 0) && faults(never + PAGES * PAGE - 1, 1) && faults(execute, 1) && !faults(execute, 0));
	for (int i = 0; i < PAGES; i++) {
		char *page = striped + i * PAGE;
		CHECK(faults(page, 0) == (i % 4 == 0));
		CHECK(mprotect(page, PAGE, i % 4 ? PROT_READ : PROT_READ | PROT_WRITE) == 0 && data_holds(page, PAGE, i + 10));
	}
	CHECK(mprotect(never, PAGE, PROT_READ | PROT_WRITE) == 0 && !faults(never, 1) && never[1] == 0);
	return finish();
}
