/*
 * What travels in unix sockets and belongs to processes: pidfds of the process itself, of a child and of one that has ended, held by somebody as well or by nobody
 * else, files of /proc; in stream and datagram sockets, a socket within a socket, and a pair each of which has the other in its queue.
 */
#include "unix.h"
#include "tree.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

static int same(int fd, int other) { return syscall(SYS_kcmp, getpid(), getpid(), 0, fd, other) == 0; }

static void give(int socket, const int *fds, int count, const char *text)
{
	union { char bytes[256]; struct cmsghdr align; } control = {};
	struct iovec v = {(char *)text, strlen(text)};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = CMSG_SPACE(count * sizeof(int))};
	*CMSG_FIRSTHDR(&m) = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
	memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), fds, count * sizeof(int));
	CHECK(sendmsg(socket, &m, 0) == (ssize_t)strlen(text));
}

static void take(int socket, int *fds, int count, const char *text)
{
	union { char bytes[256]; struct cmsghdr align; } control;
	char got[64] = "";
	struct iovec v = {got, sizeof got - 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control};
	ssize_t n = recvmsg(socket, &m, MSG_DONTWAIT);
	CHECK((n == (ssize_t)strlen(text) && !strcmp(got, text)) || (live_say("%zd bytes, %s, not %s", n, got, text), 0));
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	CHECK(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(count * sizeof(int)));
	memcpy(fds, CMSG_DATA(c), count * sizeof(int));
}

static int body(void *unused)
{
	tree_park();
	return 4;
}

static int is_of(int pidfd, pid_t pid)
{
	char path[64], text[512] = "", expected[32];
	snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
	snprintf(expected, sizeof expected, "Pid:\t%d\n", pid);
	CHECK(slurp(path, text, sizeof text - 1) > 0);
	return strstr(text, expected) != NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int stream[2], datagram[2], inner[2], cross[2], got[4];
	char text[64] = "";
	pid_t child = tree_start(body, NULL), ended = fork();
	CHECK(ended >= 0);
	if (!ended) _exit(0);
	int gone = syscall(SYS_pidfd_open, ended, 0);
	CHECK(gone >= 0 && waitpid(ended, NULL, 0) == ended);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, stream) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, inner) == 0 &&
	      socketpair(AF_UNIX, SOCK_STREAM, 0, cross) == 0);
	int held = syscall(SYS_pidfd_open, child, O_NONBLOCK), alone = syscall(SYS_pidfd_open, getpid(), 0), status = open("/proc/self/status", O_RDONLY);
	snprintf(text, sizeof text, "/proc/%d/comm", child);
	int comm = open(text, O_RDONLY);
	CHECK(held >= 0 && alone >= 0 && status >= 0 && comm >= 0 && read(status, text, 9) == 9);
	CHECK(write(stream[0], "before", 6) == 6);
	give(stream[0], (int[]){held, alone}, 2, "two");
	CHECK(write(stream[0], "after", 5) == 5);
	give(datagram[0], (int[]){alone, gone, status}, 3, "three");
	give(datagram[0], (int[]){comm}, 1, "one");
	give(inner[0], (int[]){held}, 1, "within");
	give(datagram[0], (int[]){inner[1]}, 1, "socket");
	give(cross[0], (int[]){cross[1]}, 1, "a");
	give(cross[1], (int[]){cross[0], held}, 2, "b");
	CHECK(close(alone) == 0 && close(gone) == 0 && close(status) == 0 && close(comm) == 0 && close(inner[1]) == 0);
	wait_go();
	CHECK(read(stream[1], text, 6) == 6 && !memcmp(text, "before", 6));
	take(stream[1], got, 2, "two");
	CHECK(same(got[0], held) && is_of(got[0], child) && fcntl(got[0], F_GETFL) & O_NONBLOCK && is_of(got[1], getpid()));
	int first = got[1];
	CHECK(read(stream[1], text, sizeof text) == 5 && !memcmp(text, "after", 5));
	take(datagram[1], got, 3, "three");
	CHECK(is_of(got[0], getpid()) && is_of(got[1], -1) && lseek(got[2], 0, SEEK_CUR) == 9);
	(void)first;
	take(datagram[1], got, 1, "one");
	CHECK(read(got[0], text, sizeof text) > 5 && !memcmp(text, "live_", 5));
	take(datagram[1], got, 1, "socket");
	int within = got[0];
	take(within, got, 1, "within");
	CHECK(same(got[0], held));
	take(cross[1], got, 1, "a");
	CHECK(same(got[0], cross[1]));
	take(cross[0], got, 2, "b");
	CHECK(same(got[0], cross[0]) && same(got[1], held));
	CHECK(tree_finish(child) == 4 && epoll_create1(0) >= 0);
	return finish();
}
