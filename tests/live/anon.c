/* Private anonymous memory: a pattern, a readonly page, a PROT_NONE guard, zero pages. */
#include "live.h"
#include <setjmp.h>
#include <sys/mman.h>

enum { PAGE = 4096, COUNT = 64 };
static sigjmp_buf back;
static void on_segv(int sig) { siglongjmp(back, 1); }

static int faults(volatile char *at, int write)
{
    if (sigsetjmp(back, 1)) return 1;
    if (write) *at = 1;
    else (void)*at;
    return 0;
}

static char *map(size_t size)
{
    char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

int main(int argc, char **argv)
{
    live_init(argc, argv);
    char *pattern = map(COUNT * PAGE), *readonly = map(PAGE), *guard = map(3 * PAGE), *zero = map(COUNT * PAGE);
    for (int i = 0; i < COUNT * PAGE; i++) pattern[i] = i * 31 + i / PAGE;
    memset(readonly, 0x5a, PAGE);
    CHECK(mprotect(readonly, PAGE, PROT_READ) == 0);
    memset(guard, 0x33, 3 * PAGE);
    CHECK(mprotect(guard + PAGE, PAGE, PROT_NONE) == 0);
    zero[7 * PAGE + 5] = 1; /* one page in use amid untouched ones */
    for (int i = 20; i < 30; i++) (void)*(volatile char *)(zero + i * PAGE); /* the zero page, read */
    wait_go();
    for (int i = 0; i < COUNT * PAGE; i++) CHECK(pattern[i] == (char)(i * 31 + i / PAGE));
    for (int i = 0; i < COUNT * PAGE; i++) CHECK(zero[i] == (i == 7 * PAGE + 5));
    for (int i = 0; i < PAGE; i++) CHECK(readonly[i] == 0x5a && guard[i] == 0x33 && guard[2 * PAGE + i] == 0x33);
    signal(SIGSEGV, on_segv);
    CHECK(faults(readonly, 1) && !faults(readonly, 0));
    CHECK(faults(guard + PAGE, 0) && faults(guard + PAGE, 1));
    CHECK(!faults(guard, 1) && !faults(zero, 1) && !faults(pattern, 1));
    CHECK(mprotect(guard + PAGE, PAGE, PROT_READ) == 0);
    for (int i = 0; i < PAGE; i++) CHECK(guard[PAGE + i] == 0x33);
    return finish();
}
