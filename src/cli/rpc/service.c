/* The verbs of the RPC: `criu swrk FD`, `criu service`. See rpc.h. */
#include "base/log.h"
#include "cli/rpc/rpc.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define SOCKET_NAME "criu_service.socket" /* in the work directory */
#define WAITING_MAX 16

int verb_swrk(struct command_line *c)
{
	struct error e = {};
	int type, fd;
	socklen_t size = sizeof(type);
	char *end;

	errno = 0;
	long number = strtol(c->words[0], &end, 10);
	fd = errno || *end || end == c->words[0] || number < 0 || number > INT_MAX ? -1 : (int)number;
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_SEQPACKET) {
		error_set(&e, -EINVAL, "criu swrk: %s is no descriptor of a SOCK_SEQPACKET socket; it is for programs, see rpc.proto", c->words[0]);
		return cli_report(c, &e);
	}
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	log_setup(LOG_LEVEL_QUIET, -1); /* until there is a file for it: stderr is the caller's */
	return rpc_serve(fd, true);
}

static int open_socket(const char *path, int *ret, struct error *e)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	_cleanup_close_ int sk = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(name.sun_path))
		return error_set(e, -ENAMETOOLONG, "option --address: %s is longer than the name of a socket can be", path);
	strcpy(name.sun_path, path);
	if (sk < 0)
		return error_errno(e, -errno, "cannot make a socket");
	if (!connect(sk, (struct sockaddr *)&name, sizeof(name)))
		return error_set(e, -EADDRINUSE, "another service answers at %s", path);
	if (errno == ECONNREFUSED)
		unlink(path); /* left behind by one that was killed */
	mode_t before = umask(0177);
	int r = bind(sk, (struct sockaddr *)&name, sizeof(name)) ? -errno : 0;
	umask(before);
	if (!r && listen(sk, WAITING_MAX))
		r = -errno;
	if (r)
		return error_errno(e, r, "cannot listen at %s", path);
	*ret = TAKE_FD(sk);
	return 0;
}

/* A descriptor that tells of the signals that end the service. */
static int open_signals(sigset_t *ret_before, struct error *e)
{
	struct sigaction unwaited = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT };
	sigset_t ends;

	sigaction(SIGCHLD, &unwaited, NULL); /* those who answer are nobody's to wait for */
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	sigprocmask(SIG_BLOCK, &ends, ret_before);
	int fd = signalfd(-1, &ends, SFD_CLOEXEC);
	return fd < 0 ? error_errno(e, -errno, "cannot make a signalfd") : fd;
}

static void answer_one(int listener, int signals, const sigset_t *mask)
{
	int sk = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	pid_t child = sk < 0 ? -1 : fork();

	if (child == 0) {
		signal(SIGCHLD, SIG_DFL);
		sigprocmask(SIG_SETMASK, mask, NULL);
		close(listener);
		close(signals);
		_exit(rpc_serve(sk, false));
	}
	if (sk >= 0 && child < 0)
		log_error("cannot answer a request: %s", strerror(errno));
	if (sk >= 0)
		close(sk);
}

static int write_pidfile(const struct command_line *c, pid_t pid, struct error *e)
{
	_cleanup_fclose_ FILE *f = c->request.pidfile ? fopen(c->request.pidfile, "we") : NULL;

	if (c->request.pidfile && (!f || fprintf(f, "%d", pid) < 0 || fflush(f)))
		return error_errno(e, -errno, "cannot write the pid file %s", c->request.pidfile);
	return 0;
}

/* Whoever started it finds the pid file there, and the socket, when it comes back from that. */
static int go_to_background(const struct command_line *c, struct error *e)
{
	pid_t child = fork();

	if (child < 0)
		return error_errno(e, -errno, "cannot go to the background");
	if (child > 0) {
		int r = write_pidfile(c, child, e);
		if (r)
			kill(child, SIGKILL);
		_exit(r ? cli_report(c, e) : 0);
	}
	setsid();
	_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; null >= 0 && fd < 3; fd++)
		dup2(null, fd);
	return 0;
}

int verb_service(struct command_line *c)
{
	char buffer[PATH_MAX];
	const char *path = c->address ? c->address : cli_in_work_dir(c, SOCKET_NAME, buffer);
	_cleanup_close_ int listener = -1, signals = -1;
	struct error e = {};
	sigset_t mask;
	int r = cli_require_root(&e);

	if (!r)
		r = open_socket(path, &listener, &e);
	if (!r && (signals = open_signals(&mask, &e)) < 0)
		r = signals;
	if (!r)
		r = c->request.detach ? go_to_background(c, &e) : write_pidfile(c, getpid(), &e);
	if (r)
		return cli_report(c, &e);
	struct pollfd both[2] = { { .fd = listener, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
	while (!both[1].revents)
		if (poll(both, 2, -1) > 0 && both[0].revents)
			answer_one(listener, signals, &mask);
	unlink(path);
	return 0;
}
