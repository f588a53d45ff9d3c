/* What runs in a container: counts, every 20 ms, with a child that does too; the names and ids that it sees stand beside each count. Statically linked: the container has no library. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	const char *name = "/counts";
	pid_t child = fork();
	if (child == 0) name = "/tmp/counts";
	for (unsigned i = 0;; i++) {
		struct utsname names;
		char line[200];
		uname(&names);
		int n = snprintf(line, sizeof line, "%u %d %d %s\n", i, getpid(), getppid(), names.nodename);
		int fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (fd < 0 || write(fd, line, n) != n) return 1;
		close(fd);
		usleep(20000);
	}
}
