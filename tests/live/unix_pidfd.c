/* Who sent what waits, asked for only afterwards: with SO_PASSCRED, and with SO_PASSPIDFD (Linux 6.5) as a pidfd; of the process itself, of
 * a child and of one that has gone. */
#include "unix.h"
#include "tree.h"
#include <poll.h>
#include <sys/wait.h>

#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#define SCM_PIDFD_ 4

static int plain[2], by_pidfd[2], stream[2];

static void send_as_self(int fd, const char *text)
{
	struct ucred me = {getpid(), getuid(), getgid()};
	char control[CMSG_SPACE(sizeof me)] = "";
	struct iovec vector = {(char *)text, strlen(text)};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){CMSG_LEN(sizeof me), SOL_SOCKET, SCM_CREDENTIALS};
	memcpy(CMSG_DATA(header), &me, sizeof me);
	CHECK(sendmsg(fd, &message, 0) == (ssize_t)strlen(text));
}

static int child(void *argument)
{
	send_as_self(plain[1], "child");
	send_as_self(by_pidfd[1], "child");
	if (argument) return tree_there(), 0;
	tree_park();
	return 4;
}

static int on(int fd, int option) { return setsockopt(fd, SOL_SOCKET, option, &(int){1}, sizeof(int)); }

/* *pidfd: -1 where none came. */
static pid_t receive(int fd, const char *text, int *pidfd)
{
	char control[256], got[64];
	pid_t pid = 0;
	struct iovec vector = {got, strlen(text)};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
	CHECK(recvmsg(fd, &message, MSG_DONTWAIT) == (ssize_t)strlen(text) && memcmp(got, text, strlen(text)) == 0);
	*pidfd = -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
		struct ucred sender;
		if (c->cmsg_type == SCM_CREDENTIALS) memcpy(&sender, CMSG_DATA(c), sizeof sender), pid = sender.pid;
		else if (c->cmsg_type == SCM_PIDFD_) memcpy(pidfd, CMSG_DATA(c), sizeof *pidfd);
	}
	return pid;
}

static pid_t pid_of(int pidfd)
{
	char path[64], text[1024], *at;
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	ssize_t n = slurp(path, text, sizeof text - 1);
	CHECK(n > 0);
	text[n] = 0;
	return (at = strstr(text, "Pid:")) ? atoi(at + 4) : 0;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int value, pidfd;
	socklen_t size = sizeof value;
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, plain) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, by_pidfd) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0);
	int has_pidfd = on(by_pidfd[0], SO_PASSPIDFD) == 0;
	send_as_self(plain[1], "self");
	send_as_self(by_pidfd[1], "self");
	send_as_self(stream[1], "first");
	say(stream[1], "none");
	pid_t pid = tree_start(child, NULL);
	pid_t gone = tree_start(child, "");
	siginfo_t info;
	CHECK(waitid(P_PID, gone, &info, WEXITED) == 0);
	wait_go();
	CHECK(getsockopt(plain[0], SOL_SOCKET, SO_PASSCRED, &value, &size) == 0 && value == 0);
	CHECK(on(plain[0], SO_PASSCRED) == 0 && on(stream[0], SO_PASSCRED) == 0);
	CHECK(receive(plain[0], "self", &pidfd) == getpid() && pidfd == -1);
	CHECK(receive(plain[0], "child", &pidfd) == pid);
	CHECK(receive(plain[0], "child", &pidfd) == gone);
	CHECK(receive(stream[0], "first", &pidfd) == getpid());
	CHECK(receive(stream[0], "none", &pidfd) == 0);
	if (has_pidfd) {
		CHECK(getsockopt(by_pidfd[0], SOL_SOCKET, SO_PASSPIDFD, &value, &size) == 0 && value == 1);
		CHECK(on(by_pidfd[0], SO_PASSCRED) == 0);
		CHECK(receive(by_pidfd[0], "self", &pidfd) == getpid() && pidfd >= 0 && pid_of(pidfd) == getpid());
		CHECK(receive(by_pidfd[0], "child", &pidfd) == pid && pidfd >= 0 && pid_of(pidfd) == pid);
		struct pollfd p = {.fd = pidfd, .events = POLLIN};
		CHECK(poll(&p, 1, 0) == 0); /* it lives */
		CHECK(receive(by_pidfd[0], "child", &pidfd) == gone);
		if (pidfd >= 0) CHECK(pid_of(pidfd) == -1);
	}
	CHECK(tree_finish(pid) == 4);
	return finish();
}
