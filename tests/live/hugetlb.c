/* Huge pages of hugetlbfs: private, and shared with a child. */
#include "data.h"
#include "proc.h"
#include "tree.h"

enum { SIZE = 2 << 20 };
static char *own, *shared;

static char *map(int flags)
{
	char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_HUGETLB | flags, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

static int child(void *argument)
{
	tree_park();
	CHECK(data_holds(own, 10000, 1) && shared[0] == 'p');
	shared[1] = 'c';
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	if (!(own = map(MAP_PRIVATE)) || !(shared = map(MAP_SHARED))) {
		live_say("skip: no huge pages are free");
		return 0;
	}
	data_fill(own, 10000, 1);
	data_fill(shared, 10000, 2);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(data_holds(own, 10000, 1) && own[SIZE - 1] == 0 && data_holds(shared, 10000, 2) && shared[SIZE - 1] == 0);
	CHECK(has_flag(own, " ht") && has_flag(shared, " ht"));
	CHECK(smaps_kib(own, "KernelPageSize:") == SIZE / 1024);
	shared[0] = 'p';
	CHECK(tree_finish(pid) == 1 && shared[1] == 'c');
	return finish();
}
