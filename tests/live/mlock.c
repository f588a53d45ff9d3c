/* Locked memory: with its pages, and only as they are touched (MLOCK_ONFAULT). */
#include "data.h"
#include "proc.h"

enum { PAGE = 4096, SIZE = 64 * PAGE, LOCKED = 48 * PAGE }; /* of which half a SIZE has content */

static char *map(int protection)
{
	char *at = mmap(NULL, SIZE + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(at != MAP_FAILED && mprotect(at + SIZE, PAGE, PROT_NONE) == 0);
	data_fill(at, SIZE / 2, 1);
	CHECK(mprotect(at, SIZE, protection) == 0);
	return at;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *locked = map(PROT_READ | PROT_WRITE), *reading = map(PROT_READ), *touched = map(PROT_READ | PROT_WRITE);
	char *plain = map(PROT_READ | PROT_WRITE), *barred = map(PROT_NONE);
	CHECK(mlock(locked, LOCKED) == 0 && mlock(reading, SIZE) == 0 && mlock2(touched, SIZE, MLOCK_ONFAULT) == 0);
	/* Its pages can't be brought, but it is locked, as guard pages are after mlockall(2). */
	CHECK(mlock(barred, SIZE) == -1 && errno == ENOMEM && has_flag(barred, " lo"));
	long kib = proc_number("/proc/self/status", "VmLck:");
	CHECK(kib == (LOCKED + 3 * SIZE) / 1024 && smaps_kib(locked, "Rss:") == LOCKED / 1024);
	wait_go();
	CHECK(proc_number("/proc/self/status", "VmLck:") == kib);
	CHECK(has_flag(locked, " lo") && !has_flag(locked + LOCKED, " lo") && !has_flag(plain, " lo"));
	CHECK(has_flag(reading, " lo") && has_flag(touched, " lo") && has_flag(barred, " lo"));
	CHECK(smaps_kib(locked, "Rss:") == LOCKED / 1024 && smaps_kib(touched, "Rss:") == SIZE / 2 / 1024);
	CHECK(data_holds(locked, SIZE / 2, 1) && data_holds(reading, SIZE / 2, 1) && data_holds(touched, SIZE / 2, 1));
	CHECK(munlock(touched, SIZE) == 0 && !has_flag(touched, " lo"));
	return finish();
}
