/* Small switches of a task that prctl sets and gets. */
#include "live.h"
#include <sys/prctl.h>

enum { SPEC_PRCTL = 1, SPEC_DISABLE = 4 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
	int flusher = prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0;
	int bypass = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
	if (bypass > 0 && bypass & SPEC_PRCTL)
		CHECK(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, SPEC_DISABLE, 0, 0) == 0);
	bypass = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
	wait_go();
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_EARLY);
	CHECK(!flusher || prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1);
	CHECK(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0) == bypass);
	return finish();
}
