/*
 * How others wait until a lazy restore is complete: each pager, with its guard, listens at an abstract unix socket whose name has its namespace and pid, and never
 * accepts. The end of the connection is its end. Who holds which descriptor (userfaultfd) tells whose pager it is.
 */
#include "engine/memory/pager_private.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define NAME_PREFIX "fermata-lazy-"

/* Numbers of processes are those of a namespace. */
static unsigned long own_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) < 0 ? 0 : (unsigned long)st.st_ino;
}

int pager_listen(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int n = snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, NAME_PREFIX "%lu-%d", own_namespace(), (int)getpid());
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd >= 0 && (bind(fd, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) < 0 || listen(fd, 8) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int finish_one(const char *name, size_t length)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct ucred peer;
	socklen_t size = sizeof(peer);
	char byte;

	if (fd < 0 || length >= sizeof(to.sun_path))
		return 0;
	memcpy(to.sun_path + 1, name, length);
	if (connect(fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0)
		return 0;
	/* Its end is the end of the connection. */
	while (recv(fd, &byte, 1, 0) < 0 && errno == EINTR)
		;
	return 1;
}

/* Whether a guard, by the rest of its name, is of our namespace and holds a descriptor of a process. */
static bool is_of(const char *guard, pid_t pid)
{
	char path[64], line[64], wanted[32];
	struct dirent *entry;
	bool found = false;
	char *end;

	if (strtoul(guard, &end, 10) != own_namespace() || *end != '-')
		return false;
	snprintf(path, sizeof(path), "/proc/%ld/fdinfo", strtol(end + 1, NULL, 10));
	snprintf(wanted, sizeof(wanted), "Pid:\t%d\n", (int)pid);
	DIR *dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		_cleanup_close_ int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
		_cleanup_fclose_ FILE *f = fd < 0 ? NULL : fdopen(dup(fd), "r");
		while (f && !found && fgets(line, sizeof(line), f))
			found = !strcmp(line, wanted);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* All, or those of one process. */
static int finish(pid_t pid)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/net/unix", "re");
	char line[400];
	int found = 0;

	while (f && fgets(line, sizeof(line), f)) {
		const char *name = strstr(line, " @" NAME_PREFIX);
		if (name && (!pid || is_of(name + 2 + strlen(NAME_PREFIX), pid)))
			found += finish_one(name + 2, strcspn(name + 2, " \n"));
	}
	return found;
}

int pager_finish(pid_t pid)
{
	int found = finish(pid);

	return found ? found : finish(0);
}
