/* Another root directory, of the root task, of a child below it and of one whose current directory is outside it. */
#include "tree.h"
#include <sys/stat.h>

static void make(const char *path)
{
	CHECK(close(open(path, O_WRONLY | O_CREAT | O_EXCL, 0644)) == 0);
}

static int inner(void *argument)
{
	CHECK(chroot("jail") == 0 && chdir("/sub") == 0);
	tree_there();
	wait_signal();
	char where[64];
	/* Its report is out of reach: what is wrong shows in its exit status only. */
	if (access("/inside", F_OK) != 0 || access("/jail", F_OK) == 0 || access("../inside", F_OK) != 0) return 2;
	if (!getcwd(where, sizeof where) || strcmp(where, "/sub") != 0) return 3;
	return 1;
}

static int escaped(void *argument)
{
	CHECK(chroot("jail") == 0); /* stays in the directory above */
	tree_there();
	wait_signal();
	if (access("/inside", F_OK) != 0 || access("/jail", F_OK) == 0) return 2;
	if (access("jail/inside", F_OK) != 0 || access("outside", F_OK) != 0) return 3;
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(mkdir("jail", 0755) == 0 && mkdir("jail/sub", 0755) == 0);
	make("jail/inside");
	make("outside");
	CHECK(chroot(".") == 0 && chdir("/") == 0);
	live_report = strrchr(live_report, '/');
	CHECK(live_report && access(live_report, W_OK) == 0);
	pid_t first = tree_start(inner, NULL), second = tree_start(escaped, NULL);
	wait_go();
	CHECK(access("/jail/inside", F_OK) == 0 && access("/outside", F_OK) == 0 && access("/proc", F_OK) == -1);
	CHECK(tree_finish(first) == 1 && tree_finish(second) == 1);
	return finish();
}
