/*
 * Action scripts (--action-script): run with the shell at the moments of a dump or restore, told by CRTOOLS_SCRIPT_ACTION,
 * CRTOOLS_IMAGE_DIR and CRTOOLS_INIT_PID. One that fails before the tree runs fails the whole.
 */
#include "base/log.h"
#include "cli/cli.h"

#include <limits.h>
#include <signal.h>
#include <sys/wait.h>

static void set_environment(const struct command_line *c, const char *moment, pid_t pid)
{
	char number[16], path[PATH_MAX];

	setenv("CRTOOLS_SCRIPT_ACTION", moment, 1);
	setenv("CRTOOLS_IMAGE_DIR", realpath(c->request.images_dir, path) ? path : c->request.images_dir, 1);
	snprintf(number, sizeof(number), "%d", pid);
	if (pid > 0)
		setenv("CRTOOLS_INIT_PID", number, 1);
	else
		unsetenv("CRTOOLS_INIT_PID");
}

static int run(const struct command_line *c, const char *script, const char *moment, pid_t pid, struct error *e)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		return error_errno(e, -errno, "cannot run the action script %s", script);
	if (child == 0) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		set_environment(c, moment, pid);
		execl("/bin/sh", "sh", "-c", script, (char *)NULL);
		_exit(127);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			return error_errno(e, -errno, "cannot wait for the action script %s", script);
	if (WIFSIGNALED(status))
		return error_set(e, -ECANCELED, "action script %s: ended by signal %d at %s", script, WTERMSIG(status), moment);
	if (WEXITSTATUS(status))
		return error_set(e, -ECANCELED, "action script %s: exit status %d at %s", script, WEXITSTATUS(status), moment);
	return 0;
}

int script_call(void *data, const char *moment, pid_t pid, struct error *e)
{
	const struct command_line *c = data;

	for (size_t i = 0; i < c->scripts.count; i++) {
		log_info("Running action script %s at %s", c->scripts.data[i], moment);
		int r = run(c, c->scripts.data[i], moment, pid, e);
		if (r)
			return r;
	}
	return 0;
}
