/* Memory that the kernel may drop (MAP_DROPPABLE), where the vdso keeps keys of random numbers: it is of that kind again, and what was
 * in it does not come back, so that no two processes go on with the same. */
#include "proc.h"

enum { SIZE = 16384, DROPPABLE = 8 };

static unsigned long long start_time(void)
{
	char text[1024] = "";
	CHECK(slurp("/proc/self/stat", text, sizeof text - 1) > 0);
	char *field = strrchr(text, ')');
	for (int i = 2; i < 22; i++) CHECK((field = strchr(field + 1, ' ')));
	return strtoull(field, NULL, 10);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *at = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | DROPPABLE, -1, 0);
	if (at == MAP_FAILED) {
		live_say("skip: no MAP_DROPPABLE here (Linux 6.11)");
		return 0;
	}
	at[0] = at[SIZE - 1] = 'x';
	CHECK(has_flag(at, " dp"));
	unsigned long long born = start_time();
	wait_go();
	CHECK(has_flag(at, " dp") && has_flag(at, " wf") && has_flag(at, " dd"));
	if (start_time() != born) CHECK(at[0] == 0 && at[SIZE - 1] == 0); /* else it was not dumped */
	at[5] = 'y';
	CHECK(at[5] == 'y');
	return finish();
}
