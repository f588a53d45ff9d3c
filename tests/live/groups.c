/* Three hundred supplementary groups, and filesystem ids apart from the effective ones. */
#include "live.h"
#include <grp.h>
#include <sys/fsuid.h>

enum { COUNT = 300 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	gid_t groups[COUNT], now[COUNT + 1];
	for (int i = 0; i < COUNT; i++) groups[i] = 100000 + i * i;
	CHECK(setgroups(COUNT, groups) == 0);
	setfsgid(4001);
	setfsuid(4002);
	CHECK(setfsgid(-1) == 4001 && setfsuid(-1) == 4002);
	wait_go();
	CHECK(getgroups(COUNT + 1, now) == COUNT && memcmp(groups, now, sizeof groups) == 0);
	CHECK(setfsgid(-1) == 4001 && setfsuid(-1) == 4002 && geteuid() == 0 && getegid() == 0);
	return finish();
}
