/* cuda-checkpoint of the tests, over their driver. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cuCheckpointProcessGetState(int pid, int *state);
int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid);
int cuCheckpointProcessLock(int pid, const void *args);
int cuCheckpointProcessCheckpoint(int pid, const void *args);
int cuCheckpointProcessRestore(int pid, const void *args);
int cuCheckpointProcessUnlock(int pid, const void *args);

int main(int argc, char **argv)
{
	static const char *const states[] = { "running", "locked", "checkpointed" };
	const char *action = NULL;
	uint64_t args[8] = { 0 };
	int pid = 0, value = 0, r = 0, what = 0;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--get-state"))
			what = 1;
		else if (!strcmp(argv[i], "--get-restore-tid"))
			what = 2;
		else if (i + 1 < argc && !strcmp(argv[i], "--action"))
			action = argv[++i];
		else if (i + 1 < argc && !strcmp(argv[i], "--pid"))
			pid = atoi(argv[++i]);
		else if (i + 1 < argc && !strcmp(argv[i], "--timeout"))
			args[0] = (uint64_t)atoi(argv[++i]);
		else
			return fprintf(stderr, "Unrecognized argument %s\n", argv[i]), 2;
	}
	if (what == 1) {
		r = cuCheckpointProcessGetState(pid, &value);
		if (!r)
			puts(states[value]);
	} else if (what == 2) {
		r = cuCheckpointProcessGetRestoreThreadId(pid, &value);
		if (!r)
			printf("%d\n", value);
	} else if (action) {
		r = !strcmp(action, "lock")	  ? cuCheckpointProcessLock(pid, args) :
		    !strcmp(action, "checkpoint") ? cuCheckpointProcessCheckpoint(pid, args) :
		    !strcmp(action, "restore")	  ? cuCheckpointProcessRestore(pid, args) :
						    cuCheckpointProcessUnlock(pid, args);
	}
	if (r)
		printf("Could not do it: %s\n", r == 600 ? "the operation timed out" : r == 801 ? "it is not supported" : "an error");
	return r != 0;
}
