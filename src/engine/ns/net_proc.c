/* See net_proc.h. What is below net and sys/net is the reader's own, whatever mount it is reached by. fsmount(2), Linux 5.2. */
#include "engine/ns/net_proc.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>

int net_proc_open(void)
{
	_cleanup_close_ int fs = (int)syscall(__NR_fsopen, "proc", FSOPEN_CLOEXEC);

	if (fs >= 0 && syscall(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
		int fd = (int)syscall(__NR_fsmount, fs, FSMOUNT_CLOEXEC, 0);
		if (fd >= 0)
			return fd;
	}
	int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}
