/* Command line and environment that the program has overwritten in place, and the mm fields in /proc/self/stat. */
#include "live.h"

static char before[3][8192], after[3][8192];

static void snapshot(char to[3][8192])
{
	CHECK(slurp("/proc/self/cmdline", to[0], 8192) > 0);
	CHECK(slurp("/proc/self/environ", to[1], 8192) >= 0);
	char text[1024] = "";
	CHECK(slurp("/proc/self/stat", text, sizeof text - 1) > 0);
	int field = 2;
	/* 26 to 28: code and stack; 45 to 51: data, heap, arguments, environment */
	for (char *word = strtok(strrchr(text, ')') + 1, " "); word; word = strtok(NULL, " ")) {
		field++;
		if ((field >= 26 && field <= 28) || (field >= 45 && field <= 51)) strcat(strcat(to[2], word), " ");
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char *copy = strdup(argv[1]);
	CHECK(copy);
	live_report = copy;
	memset(argv[0], 'x', strlen(argv[0]));
	memset(argv[1], 'y', strlen(argv[1]));
	if (environ[0]) memset(environ[0], 'z', strlen(environ[0]));
	snapshot(before);
	CHECK(before[0][0] == 'x');
	wait_go();
	snapshot(after);
	for (int i = 0; i < 3; i++)
		if (memcmp(before[i], after[i], sizeof before[i])) {
			live_say("not ok: %s differs", (const char *[]){"cmdline", "environ", "stat"}[i]);
			return 1;
		}
	return finish();
}
