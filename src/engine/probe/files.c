/* Probes of files, sockets and the like. */
#include "engine/kinds/unix_diag.h"
#include "engine/probe/probe.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE 0x89e0
#endif
#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif

/* The file has no name, now or later. */
int probe_tmpfile(struct probe_ground *g)
{
	struct stat st;
	char path[64];
	_cleanup_close_ int fd = open(g->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_errno(g->e, -errno, "in %s", g->dir);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return stat(path, &st) < 0 ? -errno : 0;
}

int probe_unix_diag(struct probe_ground *g)
{
	struct unix_diags diags = {};
	struct stat st;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	int r = fstat(pair[0], &st) < 0 ? -errno : unix_diag_read(&diags);
	if (!r && !unix_diag_find(&diags, (uint32_t)st.st_ino))
		r = -ENOTSUP;
	unix_diag_free(&diags);
	close(pair[0]);
	close(pair[1]);
	return r;
}

int probe_unix_file(struct probe_ground *g)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	_cleanup_close_ int file = fd < 0 ? -1 : ioctl(fd, SIOCUNIXFILE);

	/* It has no name: a kernel that knows the request says ENOENT. */
	return fd < 0 || (file < 0 && errno != ENOENT) ? -errno : 0;
}

int probe_buf_lock(struct probe_ground *g)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int value;
	socklen_t size = sizeof(value);

	return fd < 0 || getsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &value, &size) < 0 ? -errno : 0;
}

int probe_handles(struct probe_ground *g)
{
	struct {
		struct file_handle head;
		unsigned char room[MAX_HANDLE_SZ];
	} handle = { .head.handle_bytes = MAX_HANDLE_SZ };
	int mount;

	if (name_to_handle_at(AT_FDCWD, g->dir, &handle.head, &mount, 0) < 0)
		return -errno;
	_cleanup_close_ int dir = open(g->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int fd = dir < 0 ? -1 : open_by_handle_at(dir, &handle.head, O_PATH | O_CLOEXEC);
	return fd < 0 ? -errno : 0;
}

int probe_timerfd(struct probe_ground *g)
{
	_cleanup_close_ int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	uint64_t ticks = 1;

	return fd < 0 || ioctl(fd, TFD_IOC_SET_TICKS, &ticks) < 0 ? -errno : 0;
}

int probe_shm_id(struct probe_ground *g)
{
	return access("/proc/sys/kernel/shm_next_id", W_OK) < 0 ? -errno : 0;
}
