/* The login uid, which audit(8) and sd-login tell users by. */
#include "live.h"

static long login(void)
{
	char text[32] = "";
	return slurp("/proc/self/loginuid", text, sizeof text - 1) > 0 ? strtol(text, NULL, 10) : -1;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int fd = open("/proc/self/loginuid", O_WRONLY);
	if (fd < 0 || write(fd, "1234", 4) != 4) {
		live_say("skip: no login uid that can be set");
		return 0;
	}
	CHECK(close(fd) == 0 && login() == 1234);
	wait_go();
	CHECK(login() == 1234);
	return finish();
}
