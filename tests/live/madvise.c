/* Advice and other properties of areas that stay: VmFlags of /proc/self/smaps are the same. */
#include "data.h"
#include "proc.h"

enum { PAGE = 4096, SIZE = 4 << 20 };
static const struct { const char *name; int advice; const char *flag; } kinds[] = {
	{"nothing", -1, NULL}, {"hugepage", MADV_HUGEPAGE, " hg"}, {"nohugepage", MADV_NOHUGEPAGE, " nh"},
	{"dontfork", MADV_DONTFORK, " dc"}, {"dontdump", MADV_DONTDUMP, " dd"}, {"wipeonfork", MADV_WIPEONFORK, " wf"},
	{"mergeable", MADV_MERGEABLE, " mg"}, {"sequential", MADV_SEQUENTIAL, " sr"}, {"random", MADV_RANDOM, " rr"}};
enum { KINDS = sizeof kinds / sizeof *kinds };
static char *areas[KINDS], flags[KINDS][256];

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int used = 0;
	for (int i = 0; i < KINDS; i++) {
		/* Mapped apart, so that the kernel cannot merge two of the same kind. */
		areas[i] = mmap(NULL, SIZE + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(areas[i] != MAP_FAILED && mprotect(areas[i] + SIZE, PAGE, PROT_NONE) == 0);
		if (kinds[i].advice >= 0 && madvise(areas[i], SIZE, kinds[i].advice) != 0) {
			CHECK(errno == EINVAL); /* a kernel without it */
			continue;
		}
		data_fill(areas[i], 3 * PAGE, i);
		vm_flags(areas[i], flags[i], sizeof *flags);
		CHECK(!kinds[i].flag || strstr(flags[i], kinds[i].flag));
		used++;
	}
	CHECK(used >= KINDS - 3);
	wait_go();
	for (int i = 0; i < KINDS; i++) {
		char now[256];
		if (!*flags[i]) continue;
		vm_flags(areas[i], now, sizeof now);
		if (strcmp(now, flags[i])) {
			live_say("not ok: %s: VmFlags are%s, not%s", kinds[i].name, now, flags[i]);
			return 1;
		}
		CHECK(data_holds(areas[i], 3 * PAGE, i));
	}
	return finish();
}
