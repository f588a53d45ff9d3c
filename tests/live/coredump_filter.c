/* What of its memory a task would leave in a core file, of a parent and a child. */
#include "tree.h"

static void set(const char *value)
{
	int fd = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value) && close(fd) == 0);
}

static long get(void)
{
	char text[32] = "";
	CHECK(slurp("/proc/self/coredump_filter", text, sizeof text - 1) > 0);
	return strtol(text, NULL, 16);
}

static int child(void *argument)
{
	set("0x7f");
	tree_park();
	CHECK(get() == 0x7f);
	return 1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	if (access("/proc/self/coredump_filter", W_OK) != 0) {
		live_say("skip: no core files here");
		return 0;
	}
	set("0x05");
	pid_t pid = tree_start(child, NULL);
	wait_go();
	CHECK(get() == 0x05 && tree_finish(pid) == 1);
	return finish();
}
