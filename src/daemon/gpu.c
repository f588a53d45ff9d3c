/* See gpu.h. */
#include "daemon/gpu.h"

#include "base/log.h"
#include "daemon/helper.h"
#include "gpu/gpu.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define AGAIN_NS (60LL * 1000000000)

static struct {
	pid_t pid; /* 0: it does not run */
	int lifeline;
	int64_t started_ns;
} keeper = { .lifeline = -1 };

static bool is_wanted(const struct daemon *d)
{
	const char *word = settings_text(&d->settings, SETTING_GPU_HELPER);

	return !strcmp(word, "on") || (strcmp(word, "off") && gpu_present());
}

static int listen_at(const char *path, struct error *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path))
		return error_set(e, -ENAMETOOLONG, "the path %s is too long for a socket", path);
	strcpy(address.sun_path, path);
	unlink(path);
	if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, SOMAXCONN) < 0)
		return error_errno(e, -errno, "cannot listen on %s", path);
	return TAKE_FD(fd);
}

static int start(struct error *e)
{
	const char *path = getenv("FERMATA_GPU_SOCKET");
	char *argv[] = { "fermata-gpud", NULL };
	int ends[2];

	_cleanup_close_ int listener = listen_at(path, e);
	if (listener < 0)
		return listener;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	/* Its standard input is the socket, its standard output the end of a pipe that nothing is written to. */
	int r = daemon_helper_start(argv, listener, ends[1], -1, &keeper.pid, e);
	close(ends[1]);
	if (r) {
		keeper.pid = 0;
		close(ends[0]);
		return r;
	}
	keeper.lifeline = ends[0];
	log_info("the GPU helper is process %d", (int)keeper.pid);
	return 0;
}

void gpu_keeper_tend(struct daemon *d)
{
	struct error e = {};
	int status;

	if (keeper.pid && waitpid(keeper.pid, &status, WNOHANG) == keeper.pid) {
		log_warning("the GPU helper has ended (%s %d); each dump starts the driver for itself until it is there again",
			    WIFSIGNALED(status) ? "signal" : "status", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		keeper.pid = 0;
		close(TAKE_FD(keeper.lifeline));
	}
	if (keeper.pid || !is_wanted(d) || (keeper.started_ns && now_ns() < keeper.started_ns + AGAIN_NS))
		return;
	keeper.started_ns = now_ns();
	if (start(&e))
		log_warning("no GPU helper: %s", e.text);
}

void gpu_keeper_begin(struct daemon *d)
{
	char path[STORE_PATH_MAX + 20];

	snprintf(path, sizeof(path), "%s/gpu.sock", d->state_dir);
	setenv("FERMATA_GPU_SOCKET", path, 1);
	gpu_keeper_tend(d);
}
