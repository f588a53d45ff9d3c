/* Mappings of a deleted file, private and shared, in two tasks; the descriptor is closed. */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>

enum { PAGE = 4096, SIZE = 8 * PAGE };
static char *shared, *own, *late;

static int child(void *argument)
{
	tree_park();
	CHECK(shared[1] == 'p' && own[PAGE] == 'o');
	shared[2] = 'c';
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int fd = data_file("gone", SIZE, 1);
	shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	own = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	late = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 2 * PAGE);
	CHECK(shared != MAP_FAILED && own != MAP_FAILED && late != MAP_FAILED && close(fd) == 0 && unlink("gone") == 0);
	own[PAGE] = 'o';
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(data_holds(shared, SIZE, 1) && own[PAGE] == 'o' && memcmp(own, shared, PAGE) == 0);
	CHECK(memcmp(own + 2 * PAGE, shared + 2 * PAGE, SIZE - 2 * PAGE) == 0);
	CHECK(memcmp(late, shared + 2 * PAGE, PAGE) == 0);
	shared[1] = 'p';
	CHECK(tree_finish(pid) == 1 && shared[2] == 'c' && own[1] == 'p'); /* the first page of own is still the file's */
	shared[2 * PAGE] = 'l';
	CHECK(late[0] == 'l' && access("gone", F_OK) == -1);
	return finish();
}
