/* No memory for writing may become runnable (PR_SET_MDWE). */
#include "live.h"
#include <sys/mman.h>
#include <sys/prctl.h>

enum { SET_MDWE = 65, GET_MDWE = 66, REFUSE_EXEC_GAIN = 1, PAGE = 4096 };

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED);
	if (prctl(SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0) != 0) {
		live_say("skip: no PR_SET_MDWE");
		return 0;
	}
	CHECK(mprotect(memory, PAGE, PROT_READ | PROT_EXEC) == -1);
	wait_go();
	CHECK(prctl(GET_MDWE, 0, 0, 0, 0) == REFUSE_EXEC_GAIN);
	CHECK(mprotect(memory, PAGE, PROT_READ | PROT_EXEC) == -1 && errno == EACCES);
	CHECK(mmap(NULL, PAGE, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	return finish();
}
