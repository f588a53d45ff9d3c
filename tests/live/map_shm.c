/* POSIX shared memory: an object that has a name and one that has none any more, mapped in two tasks. */
#include "data.h"
#include "tree.h"
#include <sys/mman.h>
#include <sys/stat.h>

enum { SIZE = 1 << 16 };
static char *named, *gone, name[64];

static int child(void *argument)
{
	tree_park();
	CHECK(named[0] == 'p' && gone[0] == 'p');
	named[1] = gone[1] = 'c';
	return 1;
}

static char *map(const char *object, int keep)
{
	int fd = shm_open(object, O_RDWR | O_CREAT | O_EXCL, 0600);
	CHECK(fd >= 0 && ftruncate(fd, SIZE) == 0);
	char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(at != MAP_FAILED && close(fd) == 0 && (keep || shm_unlink(object) == 0));
	return at;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	char other[64];
	if (access("/dev/shm", W_OK) != 0) {
		live_say("skip: no /dev/shm");
		return 0;
	}
	snprintf(name, sizeof name, "/live-%d", getpid());
	snprintf(other, sizeof other, "/live-gone-%d", getpid());
	named = map(name, 1);
	gone = map(other, 0);
	data_fill(named, SIZE, 1);
	data_fill(gone, SIZE, 2);
	pid_t pid = tree_start(child, NULL);
	wait_go();
	int same = data_holds(named, SIZE, 1), same_gone = data_holds(gone, SIZE, 2);
	named[0] = gone[0] = 'p';
	int result = tree_finish(pid), fd = shm_open(name, O_RDWR, 0), no = shm_open(other, O_RDWR, 0);
	char got[2] = "";
	CHECK(fd >= 0 && pread(fd, got, 2, 0) == 2 && shm_unlink(name) == 0);
	CHECK(no == -1 && same && same_gone && result == 1);
	CHECK(memcmp(got, "pc", 2) == 0 && gone[1] == 'c');
	return finish();
}
