/* Huge pages of hugetlbfs: private, shared with a child, in a memfd, protected; the larger kind too where some are free. */
#include "data.h"
#include "proc.h"
#include "tree.h"
#include <sys/stat.h>

enum { SIZE = 2 << 20 };
static char *own, *shared, *file, *hidden, *large;

static char *map(int flags)
{
	char *at = mmap(NULL, flags >> 26 ? 1 << 30 : SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_HUGETLB | flags, -1, 0);
	return at == MAP_FAILED ? NULL : at;
}

static int child(void *argument)
{
	tree_park();
	CHECK(data_holds(own, 10000, 1) && shared[0] == 'p' && file[1] == 'f');
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
	int fd = memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING);
	CHECK(fd >= 0 && ftruncate(fd, 2 * SIZE) == 0);
	file = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, SIZE);
	CHECK(file != MAP_FAILED && (hidden = map(MAP_PRIVATE)));
	data_fill(file, 10000, 3);
	data_fill(hidden, 10000, 4);
	CHECK(mprotect(hidden, SIZE, PROT_NONE) == 0);
	if ((large = map(MAP_PRIVATE | 30 << 26))) data_fill(large, 10000, 5);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(data_holds(own, 10000, 1) && own[SIZE - 1] == 0 && data_holds(shared, 10000, 2) && shared[SIZE - 1] == 0);
	CHECK(has_flag(own, " ht") && has_flag(shared, " ht"));
	CHECK(smaps_kib(own, "KernelPageSize:") == SIZE / 1024);
	struct stat st;
	CHECK(fstat(fd, &st) == 0 && st.st_size == 2 * SIZE && st.st_blksize == SIZE && fcntl(fd, F_GET_SEALS) == 0);
	CHECK(data_holds(file, 10000, 3) && file[SIZE - 1] == 0 && has_flag(file, " ht"));
	CHECK(mprotect(hidden, SIZE, PROT_READ) == 0 && data_holds(hidden, 10000, 4));
	CHECK(!large || (data_holds(large, 10000, 5) && smaps_kib(large, "KernelPageSize:") == 1 << 20));
	file[1] = 'f';
	shared[0] = 'p';
	CHECK(tree_finish(pid) == 1 && shared[1] == 'c');
	return finish();
}
