/* See helper.h. */
#include "daemon/helper.h"

#include "gpu/gpu.h"

#include <fcntl.h>
#include <libgen.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

extern char **environ;

static int put_descriptor(posix_spawn_file_actions_t *actions, int fd, int number)
{
	return fd < 0 ? posix_spawn_file_actions_addopen(actions, number, "/dev/null", O_RDWR, 0) :
			posix_spawn_file_actions_adddup2(actions, fd, number);
}

int daemon_helper_start(char *const argv[], int in, int out, int err, pid_t *ret, struct error *e)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	int r = put_descriptor(&actions, in, 0);
	r = r ? r : put_descriptor(&actions, out, 1);
	r = r ? r : put_descriptor(&actions, err, 2);
	r = r ? r : posix_spawn(ret, "/proc/self/exe", &actions, &attributes, argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attributes);
	return r ? error_errno(e, -r, "cannot start %s", argv[0]) : 0;
}

int daemon_helper_start_with(char *const argv[], const json_t *document, int out, int err, pid_t *ret, struct error *e)
{
	_cleanup_close_ int fd = memfd_create("request", MFD_CLOEXEC);

	if (fd < 0 || json_dumpfd(document, fd, JSON_COMPACT) || lseek(fd, 0, SEEK_SET) < 0)
		return error_errno(e, errno ? -errno : -EIO, "cannot start %s", argv[0]);
	return daemon_helper_start(argv, fd, out, err, ret, e);
}

static int enter(const char *pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/ns/%s", pid, name);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 || setns(fd, 0) < 0 ? -errno : 0;
}

static int enter_main(int argc, char **argv)
{
	_cleanup_close_ int self = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	struct error e = {};
	int status, r = argc < 4 || self < 0 ? -EINVAL : enter(argv[1], "pid");

	if (!r)
		r = enter(argv[1], "mnt");
	pid_t child = r ? -1 : fork();
	if (child == 0) {
		char path[64];
		snprintf(path, sizeof(path), "/proc/self/fd/%d", self);
		execv(path, argv + 3);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0) {
		error_errno(&e, r ? r : -errno, "cannot enter the namespaces of process %s", argc > 1 ? argv[1] : "");
		fprintf(stderr, "Error: %s\n", e.text);
		return 1;
	}
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && !strcmp(argv[2], "end"))
		kill((pid_t)strtol(argv[1], NULL, 10), SIGKILL);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

bool daemon_helper_main(int argc, char **argv, int *ret_status)
{
	const char *name = argc ? basename(argv[0]) : "";

	if (!strcmp(name, "fermata-supervisor"))
		*ret_status = supervisor_main();
	else if (!strcmp(name, "fermata-enter"))
		*ret_status = enter_main(argc, argv);
	else if (!strcmp(name, "fermata-gpud"))
		*ret_status = gpu_resident_main(STDIN_FILENO, STDOUT_FILENO, NULL);
	else
		return false;
	return true;
}
