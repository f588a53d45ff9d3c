/* Processes that handle faults of their own memory (userfaultfd): pages that are not there yet, private and shared ones, and write-protected ones; a thread
 * that waits in a fault, a descriptor that another process handles, one that was never set up. Pages that are there cause no fault. */
#include "gate.h"
#include "tree.h"
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PAGES 64
#define PAGE 4096L
enum { PRIVATE, SHARED, PROTECTED, REMOTE, AREAS };

static struct area { char *at; int fd; } areas[AREAS];
static volatile int faults[AREAS][PAGES], held; /* held: a fault that was read and not answered yet */
static volatile int answer;
static pid_t waiter_tid;
static int done;

static char content(int area, int page) { return (char)(area * 37 + page + 1); }

static int watch(int flags, uint64_t features)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | flags);
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	CHECK(fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0);
	return fd;
}

static void add(int i, int fd, int flags, int mode)
{
	areas[i].fd = fd;
	areas[i].at = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register area = {.range = {(uintptr_t)areas[i].at, PAGES * PAGE}, .mode = mode};
	CHECK(areas[i].at != MAP_FAILED && ioctl(fd, UFFDIO_REGISTER, &area) == 0);
}

static void give(int area, int page)
{
	static char data[PAGE];
	memset(data, content(area, page), PAGE);
	struct uffdio_copy copy = {.dst = (uintptr_t)areas[area].at + page * PAGE, .src = (uintptr_t)data, .len = PAGE};
	if (ioctl(areas[area].fd, UFFDIO_COPY, &copy) == 0) return;
	CHECK(errno == EEXIST || copy.copy == -EEXIST);
	struct uffdio_range range = {copy.dst, PAGE};
	CHECK(ioctl(areas[area].fd, UFFDIO_WAKE, &range) == 0);
}

static void protect(int page, int count, int on)
{
	struct uffdio_writeprotect p = {.range = {(uintptr_t)areas[PROTECTED].at + page * PAGE, count * PAGE}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
	CHECK(ioctl(areas[PROTECTED].fd, UFFDIO_WRITEPROTECT, &p) == 0);
}

static void handle(int fd)
{
	struct uffd_msg m;
	ssize_t n = read(fd, &m, sizeof m);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
	CHECK(n == sizeof m && m.event == UFFD_EVENT_PAGEFAULT);
	for (int i = 0; i < AREAS; i++) {
		long page = ((char *)m.arg.pagefault.address - areas[i].at) / PAGE;
		if ((char *)m.arg.pagefault.address < areas[i].at || page >= PAGES) continue;
		faults[i][page]++;
		if (i == PROTECTED) {
			CHECK(m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP);
			protect(page, 1, 0);
			return;
		}
		if (i == PRIVATE && page == 20 && !answer) { held = 1; return; }
		give(i, page);
		return;
	}
	CHECK(!"a fault of no area");
}

static void *handler(void *unused)
{
	struct pollfd fds[2] = {{.fd = areas[PRIVATE].fd, .events = POLLIN}, {.fd = areas[PROTECTED].fd, .events = POLLIN}};
	for (;;) {
		if (poll(fds, 2, -1) < 0) continue;
		for (int i = 0; i < 2; i++) if (fds[i].revents & POLLIN) handle(fds[i].fd);
	}
	return NULL;
}

static void *waiter(void *unused)
{
	__atomic_store_n(&waiter_tid, gettid(), __ATOMIC_SEQ_CST);
	CHECK(((volatile char *)areas[PRIVATE].at)[20 * PAGE] == content(PRIVATE, 20));
	__atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

/* In a process of its own: the memory is the parent's. */
static void remote(void *unused)
{
	for (;;) {
		struct uffd_msg m;
		static char data[PAGE];
		if (read(areas[REMOTE].fd, &m, sizeof m) != sizeof m) continue;
		uintptr_t at = m.arg.pagefault.address & ~(PAGE - 1);
		memset(data, content(REMOTE, (at - (uintptr_t)areas[REMOTE].at) / PAGE), PAGE);
		struct uffdio_copy copy = {.dst = at, .src = (uintptr_t)data, .len = PAGE};
		CHECK(ioctl(areas[REMOTE].fd, UFFDIO_COPY, &copy) == 0 || errno == EEXIST);
	}
}

static void touch(int area, int from, int to)
{
	for (int i = from; i < to; i++) {
		if (((volatile char *)areas[area].at)[i * PAGE] != content(area, i)) live_say("area %d, page %d: %d, %d faults", area, i, areas[area].at[i * PAGE], faults[area][i]);
		CHECK(((volatile char *)areas[area].at)[i * PAGE + 100] == content(area, i));
	}
}

static int total(int area)
{
	int sum = 0;
	for (int i = 0; i < PAGES; i++) sum += faults[area][i];
	return sum;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int one = watch(O_NONBLOCK, 0), two = watch(O_NONBLOCK, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_THREAD_ID), three = watch(0, 0), fresh = syscall(SYS_userfaultfd, O_NONBLOCK);
	add(PRIVATE, one, MAP_PRIVATE, UFFDIO_REGISTER_MODE_MISSING);
	add(SHARED, one, MAP_SHARED, UFFDIO_REGISTER_MODE_MISSING);
	add(PROTECTED, two, MAP_PRIVATE, UFFDIO_REGISTER_MODE_WP);
	add(REMOTE, three, MAP_PRIVATE, UFFDIO_REGISTER_MODE_MISSING);
	memset(areas[PROTECTED].at, 7, PAGES * PAGE);
	protect(8, 24, 1);
	pthread_t thread;
	pid_t child = fork();
	if (!child) { remote(NULL); _exit(0); }
	CHECK(pthread_create(&thread, NULL, handler, NULL) == 0);
	touch(PRIVATE, 0, 8);
	touch(SHARED, 0, 8);
	touch(REMOTE, 0, 8);
	struct uffdio_zeropage zero = {.range = {(uintptr_t)areas[PRIVATE].at + 8 * PAGE, 4 * PAGE}};
	CHECK(ioctl(one, UFFDIO_ZEROPAGE, &zero) == 0);
	areas[PRIVATE].at[3 * PAGE] = 99;
	areas[PROTECTED].at[10 * PAGE] = 8;
	CHECK(total(PROTECTED) == 1);
	CHECK(pthread_create(&thread, NULL, waiter, NULL) == 0);
	while (!held) usleep(1000);
	wait_go();

	int before = total(PRIVATE) - faults[PRIVATE][20];
	CHECK(areas[PRIVATE].at[3 * PAGE] == 99);
	areas[PRIVATE].at[3 * PAGE] = content(PRIVATE, 3);
	touch(PRIVATE, 0, 8);
	for (int i = 8 * PAGE; i < 12 * PAGE; i++) CHECK(areas[PRIVATE].at[i] == 0);
	CHECK(total(PRIVATE) - faults[PRIVATE][20] == before && !done);
	answer = 1;
	give(PRIVATE, 20);
	while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST)) usleep(1000);
	touch(PRIVATE, 12, 40);
	for (int i = 21; i < 40; i++) CHECK(faults[PRIVATE][i] >= 1);
	int shared = total(SHARED);
	touch(SHARED, 0, 8);
	CHECK(total(SHARED) == shared);
	touch(SHARED, 8, 30);
	CHECK(total(SHARED) >= shared + 22);
	CHECK(total(PROTECTED) == 1);
	for (int i = 0; i < PAGES; i++) {
		CHECK(areas[PROTECTED].at[i * PAGE] == (i == 10 ? 8 : 7));
		areas[PROTECTED].at[i * PAGE] = 9;
		CHECK(faults[PROTECTED][i] == (i >= 8 && i < 32));
	}
	touch(REMOTE, 0, PAGES);
	struct uffdio_api api = {.api = UFFD_API};
	CHECK(ioctl(fresh, UFFDIO_API, &api) == 0 && fcntl(fresh, F_GETFL) & O_NONBLOCK && !(fcntl(three, F_GETFL) & O_NONBLOCK) && fcntl(three, F_GETFD) == FD_CLOEXEC);
	kill(child, SIGKILL);
	return finish();
}
