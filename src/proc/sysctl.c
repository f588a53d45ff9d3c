/* See sysctl.h. */
#include "proc/sysctl.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sys/syscall.h>

#define TEXT_MAX 4096

int sysctl_proc(void)
{
	_cleanup_close_ int fs = (int)syscall(__NR_fsopen, "proc", FSOPEN_CLOEXEC);

	if (fs < 0 || syscall(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;
	int fd = (int)syscall(__NR_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static int open_setting(const char *name, int flags)
{
	char path[128];

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	int fd = open(path, flags | O_CLOEXEC);
	if (fd >= 0 || (errno != EROFS && errno != ENOENT && errno != EACCES))
		return fd < 0 ? -errno : fd;
	const int why = -errno;
	_cleanup_close_ int root = sysctl_proc();
	if (root < 0)
		return why;
	fd = openat(root, path + strlen("/proc/"), flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int sysctl_write(const char *name, const char *text)
{
	_cleanup_close_ int fd = open_setting(name, O_WRONLY);

	if (fd < 0)
		return fd;
	return write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? 0 : -errno;
}

int sysctl_write_number(const char *name, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%lu", (unsigned long)value);
	return sysctl_write(name, text);
}

int sysctl_read_numbers(const char *name, uint64_t *ret, size_t room)
{
	_cleanup_close_ int fd = open_setting(name, O_RDONLY);
	char text[TEXT_MAX], *at = text, *end;
	size_t count = 0;

	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	if (fd < 0 || n < 0)
		return fd < 0 ? fd : -errno;
	text[n] = '\0';
	for (; count < room; at = end) {
		ret[count] = strtoull(at, &end, 10);
		if (end == at)
			break;
		count++;
	}
	return (int)count;
}
