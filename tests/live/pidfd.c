/* pidfds: of a child, of oneself, of a zombie, of a process that was waited for; duplicates, flags, one shared with a child that
 * opened it no more, one in an epoll set. */
#include "tree.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>

#define MOVED 40

static int self;

static int child(void *argument)
{
	int own = pidfd_open(getpid(), PIDFD_NONBLOCK);
	CHECK(own >= 0);
	tree_park();
	CHECK(fcntl(self, F_GETFL) & O_NONBLOCK);
	CHECK(pidfd_send_signal(self, 0, NULL, 0) == 0 && pidfd_send_signal(own, 0, NULL, 0) == 0);
	/* The same description: what is set here shows there. */
	CHECK(fcntl(self, F_SETFL, fcntl(self, F_GETFL) & ~O_NONBLOCK) == 0);
	return 5;
}

static int readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	CHECK(poll(&p, 1, 0) >= 0);
	return p.revents & POLLIN;
}

static pid_t pid_of(int fd)
{
	char path[64], text[512] = "";
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
	CHECK(slurp(path, text, sizeof text - 1) > 0);
	char *line = strstr(text, "\nPid:");
	CHECK(line);
	return (pid_t)strtol(line + 5, NULL, 10);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	self = pidfd_open(getpid(), PIDFD_NONBLOCK);
	if (self < 0) {
		live_say("skip: no pidfds");
		return 0;
	}
	pid_t pid = tree_start(child, NULL), dead = fork(), gone = fork();
	CHECK(pid > 0 && dead >= 0 && gone >= 0);
	if (!dead || !gone) _exit(7);
	int of_child = pidfd_open(pid, 0), of_dead = pidfd_open(dead, 0), of_gone = pidfd_open(gone, 0);
	int epoll = epoll_create1(0), late = pidfd_open(pid, 0);
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = 9};
	siginfo_t info;
	CHECK(of_child >= 0 && of_dead >= 0 && of_gone >= 0 && epoll >= 0 && late > epoll);
	CHECK(waitpid(gone, NULL, 0) == gone && waitid(P_PIDFD, of_dead, &info, WEXITED | WNOWAIT) == 0);
	CHECK(dup2(of_child, MOVED) == MOVED && fcntl(MOVED, F_GETFD) == 0 && fcntl(of_child, F_GETFD) == FD_CLOEXEC);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, late, &event) == 0);
	int thread = pidfd_open(getpid(), O_EXCL); /* PIDFD_THREAD, Linux 6.9 */
	int flags = thread >= 0 ? fcntl(thread, F_GETFL) : 0;
	wait_go();
	CHECK(thread < 0 || (fcntl(thread, F_GETFL) == flags && pid_of(thread) == getpid() && pidfd_send_signal(thread, 0, NULL, 0) == 0));
	CHECK(fcntl(of_child, F_GETFD) == FD_CLOEXEC && fcntl(MOVED, F_GETFD) == 0);
	CHECK(pid_of(self) == getpid() && pid_of(of_child) == pid && pid_of(MOVED) == pid && pid_of(of_dead) == dead && pid_of(of_gone) == -1);
	CHECK(syscall(SYS_kcmp, getpid(), getpid(), 0, of_child, MOVED) == 0);
	CHECK(syscall(SYS_kcmp, getpid(), getpid(), 0, of_child, late) != 0);
	CHECK(syscall(SYS_kcmp, getpid(), pid, 0, self, self) == 0);
	CHECK(!readable(self) && !readable(of_child) && readable(of_dead) && readable(of_gone));
	CHECK(pidfd_send_signal(of_gone, 0, NULL, 0) == -1 && errno == ESRCH);
	CHECK(waitid(P_PIDFD, of_dead, &info, WEXITED) == 0 && info.si_pid == dead && info.si_status == 7);
	CHECK(epoll_wait(epoll, &event, 1, 0) == 0);
	CHECK(fcntl(self, F_GETFL) & O_NONBLOCK);
	CHECK(pidfd_send_signal(of_child, SIGUSR1, NULL, 0) == 0);
	CHECK(epoll_wait(epoll, &event, 1, 5000) == 1 && event.data.u32 == 9);
	CHECK(waitid(P_PIDFD, MOVED, &info, WEXITED) == 0 && info.si_pid == pid && info.si_status == 5);
	CHECK(!(fcntl(self, F_GETFL) & O_NONBLOCK));
	return finish();
}
