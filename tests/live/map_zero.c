/* /dev/zero, mapped private and shared with a child, with its descriptor closed. */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>

enum { SIZE = 20000 };
static char *own, *shared;

static int child(void *argument)
{
	tree_park();
	CHECK(data_holds(own, SIZE, 1) && data_holds(shared, SIZE, 2));
	own[0] = shared[0] = 'c';
	return 5;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int fd = open("/dev/zero", O_RDWR);
	own = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	shared = mmap(NULL, 2 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(fd >= 0 && own != MAP_FAILED && shared != MAP_FAILED && close(fd) == 0);
	data_fill(own, SIZE, 1);
	data_fill(shared, SIZE, 2);
	char first = own[0];
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(tree_finish(pid) == 5 && own[0] == first && shared[0] == 'c' && data_holds(own, SIZE, 1));
	for (int i = 2 * SIZE - 4096; i < 2 * SIZE; i++) CHECK(own[i] == 0 && shared[i] == 0);
	return finish();
}
