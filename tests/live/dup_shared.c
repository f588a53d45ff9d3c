/* Open file descriptions shared by tasks and by numbers of one task: position and flags are the same for all. */
#include "data.h"
#include "tree.h"
#include <linux/kcmp.h>
#include <sys/syscall.h>

static int shared, copy, apart;

static int same(pid_t one, int first, pid_t other, int second)
{
	return syscall(SYS_kcmp, one, other, KCMP_FILE, first, second) == 0;
}

static int child(void *argument)
{
	CHECK(close(copy) == 0);
	int own = open("data", O_RDONLY);
	CHECK(own >= 0 && lseek(own, 77, SEEK_SET) == 77);
	CHECK(dup2(shared, 100) == 100);
	tree_park();
	CHECK(lseek(shared, 0, SEEK_CUR) == 500 && lseek(100, 0, SEEK_CUR) == 500);
	CHECK(lseek(own, 0, SEEK_CUR) == 77 && lseek(shared, 600, SEEK_SET) == 600);
	CHECK(fcntl(100, F_SETFL, O_APPEND) == 0);
	CHECK(same(getpid(), shared, getppid(), copy) && same(getpid(), 100, getppid(), shared));
	CHECK(!same(getpid(), own, getppid(), shared) && same(getpid(), apart, getppid(), apart));
	return 5;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	if (syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, 0, 0) != 0) {
		live_say("skip: no kcmp");
		return 0;
	}
	shared = data_file("data", 1000, 3);
	CHECK((copy = dup(shared)) >= 0 && (apart = open("data", O_RDWR)) >= 0 && lseek(apart, 9, SEEK_SET) == 9);
	pid_t pid = tree_start(child, NULL);
	/* The child closed its own number for it only. */
	CHECK(lseek(copy, 500, SEEK_SET) == 500);
	wait_go();
	CHECK(lseek(shared, 0, SEEK_CUR) == 500 && lseek(copy, 0, SEEK_CUR) == 500);
	CHECK(same(getpid(), shared, getpid(), copy) && !same(getpid(), shared, getpid(), apart));
	CHECK(tree_finish(pid) == 5);
	CHECK(lseek(copy, 0, SEEK_CUR) == 600 && lseek(apart, 0, SEEK_CUR) == 9);
	CHECK(fcntl(shared, F_GETFL) & O_APPEND && !(fcntl(apart, F_GETFL) & O_APPEND));
	return finish();
}
