/* Threads with a descriptor table of their own (unshare): closed, opened and moved descriptors, other flags, descriptions that the process has and such that only the
 * thread has; one has directories of its own too. What one thread opens later no other sees. */
#include "gate.h"
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { COPY, OTHER, BOTH, EMPTY, COUNT };
static pid_t tids[COUNT];
static int gate, done, shared_file, shared_pipe[2], epoll, pidfd, event;

static int is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

static int same(int fd, int other) { return syscall(SYS_kcmp, gettid(), gettid(), 0, fd, other) == 0; }

static void *body(void *argument)
{
	const long i = (long)argument;
	int own = -1, pair[2];
	char bytes[8] = "", path[16];
	CHECK(unshare(i == BOTH ? CLONE_FILES | CLONE_FS : CLONE_FILES) == 0);
	switch (i) {
	case COPY: break;
	case OTHER:
		own = open("/proc/version", O_RDONLY | O_CLOEXEC);
		close(own);
		CHECK((own = open("/etc/passwd", O_RDONLY)) >= 0 && lseek(own, 5, SEEK_SET) == 5 && dup2(own, 700) == 700 && dup2(700, shared_pipe[1]) == shared_pipe[1]);
		CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && write(pair[0], "within", 6) == 6 && fcntl(pair[0], F_SETOWN, getpid()) == 0);
		CHECK(fcntl(pidfd, F_SETFD, 0) == 0 && dup2(epoll, 650) == 650);
		close(shared_file);
		break;
	case BOTH:
		CHECK(chdir("/proc") == 0 && (own = eventfd(7, EFD_NONBLOCK)) >= 0 && dup2(own, 0) == 0);
		umask(051);
		break;
	case EMPTY: CHECK(syscall(SYS_close_range, 0, ~0U, 0) == 0); break;
	}
	thread_here(&tids[i]);
	gate_wait(&gate);
	uint64_t count;
	switch (i) {
	case COPY:
		CHECK(is_open(shared_file) && is_open(epoll) && !is_open(700) && (fcntl(pidfd, F_GETFD) & FD_CLOEXEC));
		CHECK((own = dup(shared_file)) >= 0 && dup2(own, 600) == 600);
		break;
	case OTHER:
		CHECK(!is_open(shared_file) && is_open(700) && same(700, own) && same(700, shared_pipe[1]) && lseek(700, 0, SEEK_CUR) == 5 && lseek(own, 9, SEEK_SET) == 9);
		CHECK(read(pair[1], bytes, 8) == 6 && !memcmp(bytes, "within", 6) && fcntl(pair[0], F_GETOWN) == getpid());
		CHECK(fcntl(pidfd, F_GETFD) == 0 && same(650, epoll) && syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0) == 0);
		struct epoll_event e;
		CHECK(epoll_wait(650, &e, 1, 0) == 1 && e.data.u64 == 17);
		break;
	case BOTH:
		CHECK(read(0, &count, 8) == 8 && count == 7 && same(0, own) && getcwd(path, sizeof path) && !strcmp(path, "/proc") && umask(0) == 051);
		break;
	case EMPTY:
		for (int k = 0; k < 800; k++) CHECK(!is_open(k) || (live_say("%d is open", k), 0));
		break;
	}
	__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&done, __ATOMIC_SEQ_CST) < COUNT) usleep(1000);
	CHECK(is_open(600) == (i == COPY));
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread[COUNT];
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 17};
	CHECK((shared_file = open("/etc/passwd", O_RDONLY)) >= 0 && pipe(shared_pipe) == 0 && (epoll = epoll_create1(0)) >= 0 && (event = eventfd(1, 0)) >= 0);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &e) == 0 && (pidfd = syscall(SYS_pidfd_open, getpid(), 0)) >= 0);
	for (long i = 0; i < COUNT; i++) {
		CHECK(pthread_create(&thread[i], NULL, body, (void *)i) == 0);
		while (!__atomic_load_n(&tids[i], __ATOMIC_ACQUIRE)) usleep(1000);
	}
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], SYS_futex);
	wait_go();
	char path[64];
	CHECK(is_open(shared_file) && !is_open(700) && !is_open(650) && umask(022) == 022 && getcwd(path, sizeof path) && strcmp(path, "/proc"));
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(thread[i], NULL) == 0);
	CHECK(!is_open(600) && lseek(shared_file, 3, SEEK_SET) == 3);
	return finish();
}
