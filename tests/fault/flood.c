/*
 * flood READY WHAT MEBIBYTES: writes the number of the pass to each page in turn, faster than that can be copied. At any moment the pages are those of
 * this pass up to where it is, and behind that those of the pass before; so it can tell whether its memory is all of one moment. As WHAT says it writes
 *
 *	itself		by itself
 *	kernel		to one page in 32 by calls that make the kernel write: pread(2), process_vm_writev(2)
 *	direct		to one page in 32 by pread(2) from a file with O_DIRECT, which passes by the page table
 *	brief		the same, from a file that is opened for each page, and closed again
 *	lent		the same, by a ring of another process that is none of its tree, and has its memory as fixed buffers (io_uring)
 *	ring		the same, by a ring of its own
 *	closing		the same, from a file whose descriptor another thread closes meanwhile
 *	spliced		by itself; and of one page in 32 it takes what it has written from a pipe that holds the page itself (vmsplice(2))
 *	outside		by itself; and it has memory that another process may write to (process_vm_writev): the numbers from 1 on, each to a page of the
 *			first half and then to the same of the second, in turn. Where that is it says: "at ADDRESS"
 *	zeros		by itself, but for each sixteenth page, which it only reads until it writes all of them, at SIGUSR1
 *	pieces		by itself, and of each 4 MiB the first 64 KiB are an area of their own
 *	scattered	by itself, and between each two pages there is none
 *	drops		by itself; and at SIGUSR1 the second half of its memory is emptied, and not used any more
 *	exits		by itself; and at SIGUSR1 it ends
 *
 * READY: "go" once the first pass is over; at each SIGUSR2 "ok", or "bad" and what is wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define WORDS 512
#define NUMBERS 65536
#define BLOCKS 4096
#define OUTSIDE 2048UL /* pages of half of it */

static volatile sig_atomic_t asked, checked;
static volatile uint64_t *memory;
static volatile uint64_t step = WORDS; /* from one page to the next */
static volatile uint64_t pages, pass, at, skipped, filled; /* skipped: of so many pages one is not written, but once, up to `filled` */
static const char *ready;
static int is_direct, closing, splices;
static volatile uint64_t *outside;
static int numbers = -1;
static char direct[] = "blocks-XXXXXX";

/* Between it and who reads for it: the page and the block of the file; 0: that is done. In a file, which others may have too. */
struct order {
	volatile uint64_t number, page, block;
};
static struct order *order;
static volatile int is_ordered; /* page `at` may be as it was or as it will be */
static int handed = -1; /* the descriptor that is to be closed next */
static int ends[2];

static void on_signal(int sig)
{
	*(sig == SIGUSR1 ? &asked : &checked) = 1;
}

static void say(const char *text)
{
	int fd = open(ready, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		_exit(3);
	close(fd);
}

/* The last number that page `i` of a half can have when the last of all is `last`. */
static uint64_t last_of(uint64_t i, uint64_t last)
{
	uint64_t back = (last - i) % OUTSIDE;

	return back < last ? last - back : 0;
}

static void check_outside(char *text, size_t size)
{
	uint64_t last = 0, then;

	for (uint64_t i = 0; i < OUTSIDE; i++)
		last = outside[i * WORDS] > last ? outside[i * WORDS] : last;
	/* The second half has the last of all, too, or it is under way. */
	then = outside[(OUTSIDE + last % OUTSIDE) * WORDS] == last ? last : last - 1;
	for (uint64_t i = 0; last && i < OUTSIDE; i++)
		if (outside[i * WORDS] != last_of(i, last) || outside[(OUTSIDE + i) * WORDS] != last_of(i, then))
			snprintf(text, size, "bad last number %llu: page %llu has %llu and %llu\n", (unsigned long long)last, (unsigned long long)i,
				 (unsigned long long)outside[i * WORDS], (unsigned long long)outside[(OUTSIDE + i) * WORDS]);
}

static void check(void)
{
	char text[120] = "ok\n";

	for (uint64_t i = 0; i < pages; i++) {
		uint64_t want = skipped && i % skipped == 0 ? i < filled : i <= at ? pass : pass - 1;
		if (skipped && i % skipped == 0 && memory[i * step] == want)
			continue;
		if (is_ordered && i == at && memory[i * step] == pass - 1)
			continue;
		if (memory[i * step] == want && memory[i * step + 1 + want % (WORDS - 1)] == want)
			continue;
		snprintf(text, sizeof(text), "bad pass %llu at %llu: page %llu has %llu\n", (unsigned long long)pass, (unsigned long long)at,
			 (unsigned long long)i, (unsigned long long)memory[i * step]);
		break;
	}
	if (outside)
		check_outside(text, sizeof(text));
	say(text);
}

static unsigned *ring_at(char *ring, unsigned offset)
{
	return (unsigned *)(ring + offset);
}

#define FIXED_SIZE (64UL << 20) /* of one fixed buffer */

struct ring {
	struct io_uring_params p;
	int fd, file;
	char *memory;
	struct io_uring_sqe *entries;
};

static void make_ring(struct ring *r)
{
	const uint64_t size = pages * step * sizeof(*memory);
	struct iovec all[64];
	unsigned n = 0;

	for (uint64_t at = 0; at < size && n < 64; at += FIXED_SIZE)
		all[n++] = (struct iovec){ (char *)memory + at, size - at < FIXED_SIZE ? size - at : FIXED_SIZE };
	memset(&r->p, 0, sizeof(r->p));
	r->fd = (int)syscall(SYS_io_uring_setup, 4, &r->p);
	r->file = open(direct, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (r->fd < 0 || r->file < 0 || syscall(SYS_io_uring_register, r->fd, IORING_REGISTER_BUFFERS, all, n) < 0)
		_exit(77);
	r->memory = mmap(NULL, r->p.cq_off.cqes + r->p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQ_RING);
	r->entries = mmap(NULL, r->p.sq_entries * sizeof(*r->entries), PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, IORING_OFF_SQES);
	if (r->memory == MAP_FAILED || r->entries == MAP_FAILED)
		_exit(5);
}

static void read_by_ring(struct ring *r, uint64_t page, uint64_t block)
{
	unsigned *tail = ring_at(r->memory, r->p.sq_off.tail), *head = ring_at(r->memory, r->p.cq_off.head), slot = *tail & (r->p.sq_entries - 1);
	char *to = (char *)&memory[page * step];

	r->entries[slot] = (struct io_uring_sqe){ .opcode = IORING_OP_READ_FIXED, .fd = r->file, .addr = (uintptr_t)to, .len = PAGE, .off = block * PAGE,
						   .buf_index = (uint16_t)((uint64_t)(to - (char *)memory) / FIXED_SIZE) };
	ring_at(r->memory, r->p.sq_off.array)[slot] = slot;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, r->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		_exit(6);
	/* A stop may have ended the wait. */
	while (__atomic_load_n(ring_at(r->memory, r->p.cq_off.tail), __ATOMIC_ACQUIRE) == *head)
		if (syscall(SYS_io_uring_enter, r->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0 && errno != EINTR)
			_exit(6);
	struct io_uring_cqe *done = (struct io_uring_cqe *)(r->memory + r->p.cq_off.cqes) + (*head & (r->p.cq_entries - 1));
	if (done->res != (int)PAGE)
		_exit(6);
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
}

static struct ring ring;

static void close_rings(void)
{
	munmap(ring.memory, ring.p.cq_off.cqes + ring.p.cq_entries * sizeof(struct io_uring_cqe));
	munmap(ring.entries, ring.p.sq_entries * sizeof(*ring.entries));
	close(ring.fd);
	close(ring.file);
}

/* Until the process has ended that the memory is of; one that is restored has its number, and other memory. */
static void serve(int whose)
{
	struct pollfd ended = { .fd = whose, .events = POLLIN };

	while (whose >= 0) {
		const uint64_t number = __atomic_load_n(&order->number, __ATOMIC_ACQUIRE);
		if (number)
			read_by_ring(&ring, order->page, order->block);
		else
			sched_yield();
		if (poll(&ended, 1, 0) != 0)
			break;
		if (number)
			__atomic_store_n(&order->number, 0, __ATOMIC_RELEASE);
	}
	_exit(0);
}

/* The ring goes to a grandchild, which is somebody else's as soon as its parent has ended. */
static void lend_ring(void)
{
	const int whose = (int)syscall(SYS_pidfd_open, getpid(), 0);
	char path[] = "order-XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0 || ftruncate(fd, PAGE) < 0)
		_exit(5);
	order = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (order == MAP_FAILED)
		_exit(5);
	make_ring(&ring);
	pid_t child = fork();
	if (!child && fork())
		_exit(0);
	if (!child) {
		setsid();
		serve(whose);
	}
	close(whose);
	waitpid(child, NULL, 0);
	close_rings();
}

/* Who waits for it checks, too. */
static void wait_for_order(uint64_t page)
{
	order->page = page;
	order->block = pass % BLOCKS;
	is_ordered = 1;
	__atomic_store_n(&order->number, 1, __ATOMIC_RELEASE);
	while (__atomic_load_n(&order->number, __ATOMIC_ACQUIRE)) {
		if (checked) {
			checked = 0;
			check();
		}
		sched_yield();
	}
	is_ordered = 0;
}

static void *close_handed(void *unused)
{
	for (;;) {
		int fd = __atomic_exchange_n(&handed, -1, __ATOMIC_SEQ_CST);
		if (fd >= 0)
			close(fd);
		else
			sched_yield();
	}
	return unused;
}

static void put_and_close(uint64_t page)
{
	int fd = open(direct, O_RDONLY | O_DIRECT | O_CLOEXEC);

	__atomic_store_n(&handed, fd, __ATOMIC_SEQ_CST);
	/* It may have been closed already. */
	while (pread(fd, (void *)&memory[page * step], PAGE, (off_t)(pass % BLOCKS * PAGE)) != (ssize_t)PAGE) {
		while (__atomic_load_n(&handed, __ATOMIC_SEQ_CST) >= 0)
			sched_yield();
		fd = open(direct, O_RDONLY | O_DIRECT | O_CLOEXEC);
		__atomic_store_n(&handed, fd, __ATOMIC_SEQ_CST);
	}
	while (__atomic_load_n(&handed, __ATOMIC_SEQ_CST) >= 0)
		sched_yield();
}

/* The whole page: what the pass before has put there is gone. */
static void put_directly(uint64_t page)
{
	if (order) {
		wait_for_order(page);
		return;
	}
	if (ring.memory) {
		read_by_ring(&ring, page, pass % BLOCKS);
		return;
	}
	if (closing) {
		put_and_close(page);
		return;
	}
	int fd = numbers < 0 ? open(direct, O_RDONLY | O_DIRECT | O_CLOEXEC) : numbers;

	if (pread(fd, (void *)&memory[page * step], PAGE, (off_t)(pass % BLOCKS * PAGE)) != (ssize_t)PAGE)
		_exit(6);
	if (numbers < 0)
		close(fd);
}

/* Through a pipe that holds the page that is read. */
static void splice_back(uint64_t page)
{
	struct iovec v = { (void *)&memory[page * step], PAGE };
	static uint64_t copy[WORDS];

	if (vmsplice(ends[1], &v, 1, 0) != (ssize_t)PAGE || read(ends[0], copy, PAGE) != (ssize_t)PAGE || copy[0] != pass || copy[1 + pass % (WORDS - 1)] != pass)
		_exit(7);
}

static void put(uint64_t word)
{
	uint64_t value = pass;
	struct iovec from = { &value, sizeof(value) }, to = { (void *)&memory[word], sizeof(value) };

	if (numbers < 0 || is_direct || word / WORDS % 32)
		memory[word] = value;
	else if (word % 2 ? pread(numbers, (void *)&memory[word], sizeof(value), (off_t)(value * sizeof(value))) != sizeof(value)
			  : process_vm_writev(getpid(), &from, 1, &to, 1, 0) != sizeof(value))
		_exit(4);
}

/* A file whose pages are as one that has been put. 77: none here can be read so. */
static void make_blocks(int keep_open)
{
	static uint64_t block[WORDS];
	int fd = mkstemp(direct);

	for (uint64_t i = 0; i < BLOCKS; i++) {
		memset(block, 0, sizeof(block));
		block[0] = block[1 + i % (WORDS - 1)] = i;
		if (fd < 0 || write(fd, block, sizeof(block)) != sizeof(block))
			_exit(5);
	}
	close(fd);
	fd = open(direct, O_RDONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		_exit(77);
	numbers = keep_open ? fd : -1;
	if (!keep_open)
		close(fd);
}

static void make_outside(void)
{
	char text[64];

	outside = mmap(NULL, 2 * OUTSIDE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (outside == MAP_FAILED)
		_exit(1);
	madvise((void *)outside, 2 * OUTSIDE * PAGE, MADV_NOHUGEPAGE);
	memset((void *)outside, 0, 2 * OUTSIDE * PAGE);
	snprintf(text, sizeof(text), "at %lx\n", (unsigned long)outside);
	say(text);
}

/* A file that holds each number at its place. */
static void make_numbers(void)
{
	static uint64_t all[NUMBERS];
	char path[] = "numbers-XXXXXX";

	for (uint64_t i = 0; i < NUMBERS; i++)
		all[i] = i;
	numbers = mkstemp(path);
	if (numbers < 0 || write(numbers, all, sizeof(all)) != sizeof(all))
		_exit(5);
}

static void change(char what)
{
	asked = 0;
	if (what == 'e')
		_exit(0);
	for (filled = 0; what == 'z' && filled < pages;) {
		memory[filled * step] = filled % skipped ? memory[filled * step] : 1;
		filled++;
	}
	if (what != 'd')
		return;
	pages /= 2;
	madvise((void *)(memory + pages * step), pages * PAGE, MADV_DONTNEED);
	if (at >= pages)
		at = pages - 1;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	if (argc < 4)
		return 2;
	ready = argv[1];
	pages = strtoul(argv[3], NULL, 10) << 8;
	if (!strcmp(argv[2], "scattered"))
		step = 2 * WORDS;
	memory = mmap(NULL, pages * step * sizeof(*memory), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pages || memory == MAP_FAILED)
		return 1;
	madvise((void *)memory, pages * step * sizeof(*memory), MADV_NOHUGEPAGE);
	for (uint64_t i = 0; !strcmp(argv[2], "pieces") && i < pages; i += 1024)
		madvise((void *)&memory[i * WORDS], 16 * PAGE, MADV_DONTDUMP);
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	if (argv[2][0] == 'k')
		make_numbers();
	closing = !strcmp(argv[2], "closing");
	splices = !strcmp(argv[2], "spliced");
	is_direct = closing || !strcmp(argv[2], "direct") || !strcmp(argv[2], "brief") || !strcmp(argv[2], "lent") || !strcmp(argv[2], "ring");
	if (is_direct)
		make_blocks(argv[2][0] == 'd');
	if (!strcmp(argv[2], "ring"))
		make_ring(&ring);
	if (!strcmp(argv[2], "lent"))
		lend_ring();
	if (closing && pthread_create(&thread, NULL, close_handed, NULL))
		return 1;
	if (splices && pipe(ends))
		return 1;
	if (argv[2][0] == 'o')
		make_outside();
	if (argv[2][0] == 'z')
		skipped = 16;
	for (pass = 1;; pass++) {
		for (at = 0; at < pages; at++) {
			if (skipped && at % skipped == 0) {
				(void)memory[at * step];
			} else if (is_direct && at % 32 == 0) {
				put_directly(at);
			} else {
				put(at * step + 1 + pass % (WORDS - 1));
				put(at * step);
			}
			if (splices && at % 32 == 0)
				splice_back(at);
			if (asked)
				change(argv[2][0]);
			if (checked) {
				checked = 0;
				check();
			}
		}
		if (pass == 1)
			say("go\n");
	}
}
