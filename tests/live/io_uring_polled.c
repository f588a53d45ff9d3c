/* A ring of io_uring with a thread of the kernel that submits (SQPOLL): it is the restored process's own, may what the process may, sleeps and is woken; entries
 * that were taken, completions that were not reaped, registered files and buffers, and a read and a timeout that are under way. */
#include "data.h"
#include "uring.h"
#include <dirent.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <time.h>

enum { SIZE = 8192, IDLE_MS = 1300 /* not the usual second */ };
static struct uring ring;
static char *buffer, *place, text[16];
static int stop[2];

static void wait_for(unsigned count)
{
	for (int i = 0; i < 5000 && uring_ready(&ring) < count; i++) usleep(1000);
	CHECK(uring_ready(&ring) == count);
}

static long long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static int threads(void)
{
	int count = -2;
	DIR *d = opendir("/proc/self/task");
	CHECK(d != NULL);
	while (readdir(d)) count++;
	closedir(d);
	return count;
}

static void check_nops(int count)
{
	for (int i = 0; i < count; i++) {
		uring_prepare(&ring, IORING_OP_NOP, 1000 + i);
		uring_publish_polled(&ring);
		wait_for(1);
		CHECK(uring_reap(&ring, 1000 + i) == 0);
	}
}

static void check_fixed(void)
{
	struct io_uring_sqe *e = uring_prepare(&ring, IORING_OP_READ_FIXED, 5);
	e->fd = 1;
	e->flags = IOSQE_FIXED_FILE;
	e->addr = (uintptr_t)buffer + 100;
	e->len = 3000;
	e->off = 64;
	uring_publish_polled(&ring);
	wait_for(1);
	CHECK(uring_reap(&ring, 5) == 3000 && memcmp(buffer + 100, place + 64, 3000) == 0);
}

/* The thread may no more than the process: a file that nobody may read, without the capability to do so all the same. */
static void check_may_not(void)
{
	struct io_uring_sqe *e = uring_prepare(&ring, IORING_OP_OPENAT, 6);
	e->fd = AT_FDCWD;
	e->addr = (uintptr_t)"secret";
	e->open_flags = O_RDONLY | O_CLOEXEC;
	uring_publish_polled(&ring);
	wait_for(1);
	CHECK(uring_reap(&ring, 6) == -EACCES);
}

static void drop_capabilities(void)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[2];
	CHECK(syscall(SYS_capget, &head, caps) == 0);
	caps[0].effective &= ~(1U << CAP_DAC_OVERRIDE | 1U << CAP_DAC_READ_SEARCH);
	CHECK(syscall(SYS_capset, &head, caps) == 0);
	int fd = open("secret", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0);
	CHECK(fd >= 0);
	close(fd);
}

static void begin(void)
{
	int fd = data_file("data", SIZE, 3), files[2] = {-1, fd};
	place = malloc(SIZE);
	buffer = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(place && buffer != MAP_FAILED && pread(fd, place, SIZE, 0) == SIZE && pipe2(stop, O_CLOEXEC) == 0);
	struct iovec list = {buffer, SIZE};
	CHECK(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &list, 1) == 0);
	CHECK(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, files, 2) == 0);
	check_nops(30);
	check_fixed();
	check_may_not();
}

static void begin_waiting(void)
{
	static struct __kernel_timespec hour = {3600, 0};
	struct io_uring_sqe *e = uring_prepare(&ring, IORING_OP_READ, 21);
	e->fd = stop[0];
	e->addr = (uintptr_t)text;
	e->len = sizeof text;
	uring_publish_polled(&ring);
	e = uring_prepare(&ring, IORING_OP_TIMEOUT, 22);
	e->addr = (uintptr_t)&hour;
	e->len = 1;
	uring_publish_polled(&ring);
	uring_prepare(&ring, IORING_OP_NOP, 23);
	uring_publish_polled(&ring);
	wait_for(1);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	drop_capabilities();
	if (uring_make_idle(&ring, 8, IORING_SETUP_SQPOLL, IDLE_MS) != 0) {
		live_say("skip: no io_uring");
		return 0;
	}
	begin();
	begin_waiting();
	unsigned head = *uring_at(&ring, ring.p.sq_off.head);
	int count = threads();
	CHECK(count == 2);
	wait_go();
	CHECK(threads() == count && *uring_at(&ring, ring.p.sq_off.head) == head);
	CHECK(uring_ready(&ring) == 1 && uring_reap(&ring, 23) == 0);
	/* It falls asleep when it had nothing to do for so long, and not before. */
	long long start = now_ms();
	check_nops(1);
	while (!(__atomic_load_n(uring_at(&ring, ring.p.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)) usleep(5000);
	CHECK(now_ms() - start >= IDLE_MS - 10);
	check_nops(10);
	check_fixed();
	check_may_not();
	CHECK(write(stop[1], "stopped", 7) == 7);
	wait_for(1);
	CHECK(uring_reap(&ring, 21) == 7 && memcmp(text, "stopped", 7) == 0);
	struct io_uring_sqe *e = uring_prepare(&ring, IORING_OP_TIMEOUT_REMOVE, 24);
	e->addr = 22;
	uring_publish_polled(&ring);
	wait_for(2);
	/* In either order. */
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)(ring.ring + ring.p.cq_off.cqes);
	const bool first = cqes[*uring_at(&ring, ring.p.cq_off.head) & (ring.p.cq_entries - 1)].user_data == 22;
	CHECK(uring_reap(&ring, first ? 22 : 24) == (first ? -ECANCELED : 0) && uring_reap(&ring, first ? 24 : 22) == (first ? 0 : -ECANCELED));
	return finish();
}
