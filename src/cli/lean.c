/* What fermata leaves to fermata-daemon, see full.c: it becomes that program, with the same arguments. */
#include "cli/cli.h"

#include <limits.h>
#include <unistd.h>

/* Beside this program, as it is built, or where `make install` puts it. */
int cli_become_full(struct command_line *c)
{
	static const char *const places[] = { "fermata-daemon", "../libexec/fermata/fermata-daemon" };
	char own[PATH_MAX], path[PATH_MAX + 64];
	struct error e = {};
	ssize_t n = readlink("/proc/self/exe", own, sizeof(own) - 1);

	own[MAX(n, 0)] = 0;
	char *slash = strrchr(own, '/');
	for (size_t i = 0; slash && i < ARRAY_SIZE(places); i++) {
		snprintf(path, sizeof(path), "%.*s/%s", (int)(slash - own), own, places[i]);
		execv(path, c->argv);
	}
	error_set(&e, -ENOENT, "the program fermata-daemon is not beside %s, nor in ../libexec/fermata from there; install it again", own);
	return cli_report(c, &e);
}

int verb_daemon_start(struct command_line *c)
{
	return cli_become_full(c);
}

int verb_daemon_openapi(struct command_line *c)
{
	return cli_become_full(c);
}
