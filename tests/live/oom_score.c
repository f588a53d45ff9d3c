/* What the kernel is told for when memory runs out, of a parent and a child. */
#include "tree.h"

static void set(const char *value)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value) && close(fd) == 0);
}

static int get(void)
{
	char text[32] = "";
	CHECK(slurp("/proc/self/oom_score_adj", text, sizeof text - 1) > 0);
	return atoi(text);
}

static int child(void *argument)
{
	set("456"); /* only a privileged task may go below what it was */
	tree_park();
	CHECK(get() == 456);
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	set("321");
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(get() == 321 && tree_finish(pid) == 1);
	return finish();
}
