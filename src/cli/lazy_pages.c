/*
 * criu lazy-pages. There it brings the pages of a restore; here the restore leaves a process that does (engine/memory/pager.h), and this one waits
 * for that: at the socket that criu's has too, for one restore, and until its pages are there. So scripts and units that start both go on as they do.
 */
#include "cli/cli.h"
#include "engine/request.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define SOCKET_NAME "lazy-pages.socket"

static int place(const struct command_line *c, struct sockaddr_un *to, struct error *e)
{
	const char *dir = c->work_dir ? c->work_dir : c->request.images_dir ? c->request.images_dir : ".";

	*to = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if ((size_t)snprintf(to->sun_path, sizeof(to->sun_path), "%s/" SOCKET_NAME, dir) < sizeof(to->sun_path))
		return 0;
	return error_set(e, -ENAMETOOLONG, "the name of the socket %s/" SOCKET_NAME " is too long; give a work directory with a shorter one (--work-dir)", dir);
}

static int connect_there(const struct command_line *c)
{
	struct error ignored;
	struct sockaddr_un to;
	int fd = place(c, &to, &ignored) ? -1 : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return 0;
}

int lazy_pages_connect(const struct command_line *c)
{
	int fd = connect_there(c);

	if (!fd || send(fd, "", 1, MSG_NOSIGNAL) == 1)
		return fd;
	close(fd);
	return 0;
}

/* One that nobody listens at any more is from an earlier time. */
static int listen_there(const struct command_line *c, struct sockaddr_un *name, struct error *e)
{
	int r = place(c, name, e), other = r ? 0 : connect_there(c);
	struct stat st;

	if (other > 0) {
		close(other);
		return error_set(e, -EADDRINUSE, "another lazy-pages waits at %s", name->sun_path);
	}
	if (!r && lstat(name->sun_path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(name->sun_path);
	int fd = r ? r : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (!r && (fd < 0 || bind(fd, (struct sockaddr *)name, sizeof(*name)) < 0 || chmod(name->sun_path, 0600) < 0 || listen(fd, 1) < 0)) {
		r = error_errno(e, -errno, "cannot listen at %s", name->sun_path);
		if (fd >= 0)
			close(fd);
	}
	return r ? r : fd;
}

/* As criu says that it is ready. */
static int tell_ready(const struct command_line *c, struct error *e)
{
	if (!c->status_fd)
		return 0;
	if (write(c->status_fd, "", 1) != 1)
		return error_errno(e, -errno, "cannot write to descriptor %d (--status-fd)", c->status_fd);
	close(c->status_fd);
	return 0;
}

static bool read_byte(int fd, char *ret)
{
	ssize_t n;

	while ((n = read(fd, ret, 1)) < 0 && errno == EINTR)
		;
	return n == 1;
}

/* A restore says that it is one, then how it went; if it does not, it has failed, or what brought the pages was killed. Who says nothing only looks
 * whether somebody waits. */
static int wait_for_restore(int listener, struct error *e)
{
	for (;;) {
		char hello, result = 1;
		_cleanup_close_ int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0 && errno != EINTR)
			return error_errno(e, -errno, "cannot wait for a restore");
		if (fd < 0 || !read_byte(fd, &hello))
			continue;
		if (read_byte(fd, &result) && !result)
			return 0;
		return error_set(e, -ECHILD, "the restore has failed, or not all of its pages could be brought: its log says why");
	}
}

int run_lazy_pages(struct command_line *c)
{
	struct sockaddr_un name;
	struct error e = {};
	int listener = listen_there(c, &name, &e), r = listener < 0 ? listener : tell_ready(c, &e);

	if (!r && c->request.detach && daemon(1, 0) < 0)
		r = error_errno(&e, -errno, "cannot go to the background");
	if (!r)
		r = wait_for_restore(listener, &e);
	if (listener >= 0) {
		close(listener);
		unlink(name.sun_path);
	}
	return r ? cli_report(c, &e) : 0;
}
