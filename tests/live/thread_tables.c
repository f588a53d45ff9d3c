/* Threads with a descriptor table of their own (unshare), and what belongs to a table or to its numbers: locks (POSIX locks are the table's), epoll sets whose
 * targets the process has not, pidfds, a userfaultfd, files of /proc, a ring of io_uring that only the thread has, with a request under way and a registered file. */
#include "gate.h"
#include "uring.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <sys/wait.h>

enum { FIRST, SECOND, COUNT };
enum { PAGE = 4096, ROOM = 900, WATCHED = 901, ALIEN = 902 };
static pid_t tids[COUNT];
static int gate, done, step, posix, epoll, pidfd;
static struct uring ring, common;
static char *area;

static int same(pid_t a, int fd, pid_t b, int other) { return syscall(SYS_kcmp, a, b, 0, fd, other) == 0; }

static int lock(int fd, int command, short type, off_t start, off_t length)
{
	struct flock part = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
	int r = fcntl(fd, command, &part);
	CHECK(r == 0 || errno == EAGAIN);
	return command == F_GETLK || command == F_OFD_GETLK ? part.l_type : r;
}

static void await_step(int n)
{
	while (__atomic_load_n(&step, __ATOMIC_SEQ_CST) < n) usleep(1000);
}

static void next_step(void) { __atomic_add_fetch(&step, 1, __ATOMIC_SEQ_CST); }

static void own_area(int *ret)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register watched = {.range = {(uintptr_t)area, 4 * PAGE}, .mode = UFFDIO_REGISTER_MODE_MISSING};
	CHECK((*ret = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)) >= 0 && ioctl(*ret, UFFDIO_API, &api) == 0 && ioctl(*ret, UFFDIO_REGISTER, &watched) == 0);
}

/* Requests under way are saved from Linux 6.13 on. */
static int under_way(void)
{
	struct utsname name;
	int major, minor;
	CHECK(uname(&name) == 0 && sscanf(name.release, "%d.%d", &major, &minor) == 2);
	return major > 6 || (major == 6 && minor >= 13);
}

static void submit(uint64_t *to)
{
	struct io_uring_sqe *s = uring_next(&ring, IORING_OP_READ, 77);
	s->fd = 0;
	s->flags = IOSQE_FIXED_FILE;
	s->addr = (uintptr_t)to;
	s->len = 8;
	s = uring_next(&ring, IORING_OP_POLL_ADD, 78);
	s->fd = WATCHED;
	s->poll32_events = EPOLLIN;
	CHECK(uring_submit(&ring, 0) == 2);
}

static void *first(void *unused)
{
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 5};
	int own, event, uffd, ofd, flocked, status, comm, second, moved, registered[2];
	uint64_t one = 1, two;
	char text[64] = "", expected[64];
	CHECK(unshare(CLONE_FILES) == 0);
	/* Numbers that mean something else in the process, or nothing. */
	CHECK(dup2(2, common.fd) == common.fd && (own = open("table", O_RDWR | O_CREAT, 0666)) >= 0);
	CHECK(lock(own, F_SETLK, F_WRLCK, 100, 10) == 0 && lock(own, F_SETLK, F_WRLCK, 0, 10) == -1);
	CHECK((ofd = open("table", O_RDWR)) >= 0 && lock(ofd, F_OFD_SETLK, F_WRLCK, 200, 10) == 0);
	CHECK((flocked = open("flocked", O_RDWR | O_CREAT, 0666)) >= 0 && flock(flocked, LOCK_EX | LOCK_NB) == 0);
	CHECK((event = eventfd(0, EFD_NONBLOCK)) >= 0 && dup2(event, WATCHED) == WATCHED);
	/* In a set of its own under a number that is gone by now, and in the process's. */
	CHECK((second = epoll_create1(0)) >= 0 && epoll_ctl(second, EPOLL_CTL_ADD, event, &e) == 0 && (moved = dup(event)) >= 0 && close(event) == 0);
	e.data.u64 = 6;
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, WATCHED, &e) == 0);
	int own_pidfd = syscall(SYS_pidfd_open, getpid(), 0);
	CHECK(own_pidfd >= 0 && dup2(own_pidfd, ROOM) == ROOM);
	own_area(&uffd);
	snprintf(expected, sizeof expected, "/proc/self/task/%d/comm", gettid());
	CHECK((status = open("/proc/self/status", O_RDONLY)) >= 0 && read(status, text, 10) == 10 && (comm = open(expected, O_RDONLY)) >= 0);
	CHECK(uring_make(&ring, 8, 0, 0) == 0);
	registered[0] = moved;
	registered[1] = own;
	CHECK(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, registered, 2) == 0);
	if (under_way()) submit(&two);
	thread_here(&tids[FIRST]);
	gate_wait(&gate);
	CHECK(lock(posix, F_GETLK, F_WRLCK, 0, 10) == F_WRLCK && lock(own, F_GETLK, F_WRLCK, 0, 10) == F_WRLCK && lock(own, F_GETLK, F_WRLCK, 100, 10) == F_UNLCK);
	next_step();
	await_step(2);
	CHECK(!same(gettid(), event, gettid(), moved) && fcntl(common.fd, F_GETFD) >= 0 && same(gettid(), common.fd, gettid(), 2) && same(gettid(), ROOM, gettid(), own_pidfd));
	CHECK(uring_ready(&ring) == 0 && epoll_wait(second, &e, 1, 0) == 0 && epoll_wait(epoll, &e, 1, 0) == 0);
	CHECK(write(moved, &one, 8) == 8);
	if (!under_way()) submit(&two);
	while (uring_ready(&ring) < 2) CHECK(syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 0);
	/* Whichever was first. */
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(ring.ring + ring.p.cq_off.cqes);
	unsigned at = *uring_at(&ring, ring.p.cq_off.head) & (ring.p.cq_entries - 1);
	CHECK(uring_reap(&ring, cqe[at].user_data) > 0 && uring_reap(&ring, cqe[at].user_data == 77 ? 78 : 77) > 0 && two == 1);
	CHECK(write(WATCHED, &one, 8) == 8 && epoll_wait(epoll, &e, 1, 0) == 1 && e.data.u64 == 6 && epoll_wait(second, &e, 1, 0) == 1 && e.data.u64 == 5);
	CHECK(lseek(status, 0, SEEK_CUR) == 10 && read(comm, text, sizeof text - 1) > 0 && !memcmp(text, "live_", 5));
	struct uffd_msg m;
	struct pollfd fault = {.fd = uffd, .events = POLLIN};
	CHECK(poll(&fault, 1, -1) == 1);
	CHECK(read(uffd, &m, sizeof m) == sizeof m && m.event == UFFD_EVENT_PAGEFAULT && m.arg.pagefault.address == (uintptr_t)area + PAGE);
	struct uffdio_zeropage zero = {.range = {(uintptr_t)area, 4 * PAGE}};
	CHECK(ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0 && syscall(SYS_pidfd_send_signal, own_pidfd, 0, NULL, 0) == 0);
	CHECK(close(own) == 0 && close(ofd) == 0 && flock(flocked, LOCK_UN) == 0);
	next_step();
	return NULL;
}

/* Has the first one's pidfd, and a ring that only it may submit to. */
static void *second(void *unused)
{
	struct uring mine;
	int fd, files[1];
	char byte = 0;
	CHECK(unshare(CLONE_FILES) == 0 && (fd = syscall(SYS_pidfd_open, tids[FIRST], O_EXCL)) >= 0);
	int got = syscall(SYS_pidfd_getfd, fd, ROOM, 0), zero = open("/dev/zero", O_RDONLY);
	CHECK(got >= 0 && zero >= 0 && dup2(got, ALIEN) == ALIEN && close(got) == 0 && close(fd) == 0 && dup2(zero, 800) == 800);
	CHECK(uring_make(&mine, 4, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0) == 0);
	files[0] = 800;
	CHECK(syscall(SYS_io_uring_register, mine.fd, IORING_REGISTER_FILES, files, 1) == 0);
	uring_nops(&mine, 9, 1000);
	thread_here(&tids[SECOND]);
	gate_wait(&gate);
	CHECK(same(gettid(), ALIEN, tids[FIRST], ROOM) && syscall(SYS_pidfd_send_signal, ALIEN, 0, NULL, 0) == 0);
	byte = 1;
	struct io_uring_sqe *s = uring_next(&mine, IORING_OP_READ, 5);
	s->fd = 0;
	s->flags = IOSQE_FIXED_FILE;
	s->addr = (uintptr_t)&byte;
	s->len = 1;
	CHECK(uring_submit(&mine, 1) == 1 && uring_reap(&mine, 5) == 1 && byte == 0);
	uring_nops(&mine, 5, 2000);
	next_step();
	await_step(3);
	CHECK(area[PAGE] == 0);
	__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* Meets the page that lacks. */
static void *toucher(void *unused)
{
	char byte = area[PAGE];
	CHECK(byte == 0);
	return NULL;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t thread[COUNT], touching;
	CHECK((area = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED);
	CHECK((posix = open("table", O_RDWR | O_CREAT, 0666)) >= 0 && lock(posix, F_SETLK, F_WRLCK, 0, 10) == 0 && (epoll = epoll_create1(0)) >= 0);
	CHECK((pidfd = syscall(SYS_pidfd_open, getpid(), 0)) >= 0 && uring_make(&common, 4, 0, 0) == 0);
	uring_nops(&common, 7, 100);
	CHECK(pthread_create(&thread[FIRST], NULL, first, NULL) == 0);
	await_call(&tids[FIRST], SYS_futex);
	CHECK(pthread_create(&thread[SECOND], NULL, second, NULL) == 0);
	await_call(&tids[SECOND], SYS_futex);
	wait_go();
	/* The kernel lets whoever has the file under that lock in the way know of the process. */
	CHECK(lock(posix, F_GETLK, F_WRLCK, 100, 10) == F_WRLCK && lock(posix, F_GETLK, F_WRLCK, 110, 10) == F_UNLCK && lock(posix, F_GETLK, F_WRLCK, 0, 10) == F_UNLCK);
	CHECK(lock(posix, F_GETLK, F_WRLCK, 200, 10) == F_WRLCK && fcntl(WATCHED, F_GETFD) < 0 && fcntl(ROOM, F_GETFD) < 0);
	int other = open("flocked", O_RDWR | O_CLOEXEC);
	CHECK(other >= 0 && flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
	uring_nops(&common, 7, 200);
	CHECK(pthread_create(&touching, NULL, toucher, NULL) == 0);
	gate_open(&gate);
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(thread[i], NULL) == 0);
	CHECK(pthread_join(touching, NULL) == 0 && flock(other, LOCK_EX | LOCK_NB) == 0 && lock(posix, F_SETLK, F_WRLCK, 100, 10) == 0);
	return finish();
}
