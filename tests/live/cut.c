/*
 * Memory that is written all the time, in many ways, is saved as it was at one moment: each thread looks at what it wrote last time before it writes
 * again, so that a page from another moment is seen. Some are emptied, moved, unmapped and mapped anew, written by the kernel, or grow.
 */
#include "gate.h"
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define PAGE 4096UL
#define PAGES 2048UL
#define WRITERS 3
#define WORDS (PAGE / 8)

static int stop, failed_line;
static uint64_t rounds[16];

#define MUST(c) do { if (!(c)) { __atomic_store_n(&failed_line, __LINE__, __ATOMIC_SEQ_CST); return NULL; } } while (0)

static int over(void) { return __atomic_load_n(&stop, __ATOMIC_ACQUIRE); }

static char *map(size_t size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(p != MAP_FAILED);
	return p;
}

/* Page after page, in an order that jumps about; the number of the round to each. */
static void *write_numbers(void *arg)
{
	uint64_t *count = arg;
	char *p = map(PAGES * PAGE);
	madvise(p, PAGES * PAGE, count == &rounds[0] ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (uint64_t n = 1; !over(); n++) {
		for (uint64_t i = 0; i < PAGES; i++) {
			uint64_t *at = (uint64_t *)(p + (i * 1237 % PAGES) * PAGE) + i % WORDS;
			MUST(*at == n - 1);
			*at = n;
		}
		++*count;
	}
	return NULL;
}

/* What was emptied is zero, what was written after it is there. */
static void *empty(void *arg)
{
	char *p = map(PAGES * PAGE);
	for (int first = 1; !over(); first = 0) {
		for (size_t i = 0; i < PAGES; i++) {
			int gone = i < PAGES / 2 || (i > PAGES / 2 && i <= PAGES / 2 + 64);
			MUST(p[i * PAGE] == (first || (gone && i % 2 == 0) ? 0 : 2));
			p[i * PAGE] = 1;
		}
		MUST(madvise(p, PAGES * PAGE / 2, MADV_DONTNEED) == 0);
		MUST(madvise(p + PAGES * PAGE / 2 + PAGE, 64 * PAGE, MADV_DONTNEED) == 0);
		for (size_t i = 0; i < PAGES; i++) {
			int gone = i < PAGES / 2 || (i > PAGES / 2 && i <= PAGES / 2 + 64);
			MUST(p[i * PAGE] == !gone);
			if (!gone || i % 2)
				p[i * PAGE] = 2;
		}
		++*(uint64_t *)arg;
	}
	return NULL;
}

/* Areas that come and go at one address, and one that moves. */
static void *remap(void *arg)
{
	char *place = map(256 * PAGE), *moving = map(256 * PAGE);
	for (uint64_t n = 1; !over(); n++) {
		uint64_t *p = mmap(place, 256 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		MUST(p == (void *)place);
		for (size_t i = 0; i < 256; i += 3) {
			MUST(p[i * WORDS] == 0);
			p[i * WORDS] = n;
		}
		for (size_t i = 0; i < 256; i++) {
			uint64_t *m = (uint64_t *)moving + i * WORDS;
			MUST(*m == n - 1);
			*m = n;
		}
		moving = mremap(moving, 256 * PAGE, (256 + n % 7) * PAGE, MREMAP_MAYMOVE);
		MUST(moving != MAP_FAILED);
		moving = mremap(moving, (256 + n % 7) * PAGE, 256 * PAGE, MREMAP_MAYMOVE);
		char *to = map(256 * PAGE);
		moving = mremap(moving, 256 * PAGE, 256 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		MUST(moving == to);
		for (size_t i = 0; i < 256; i++)
			MUST(p[i * WORDS] == (i % 3 ? 0 : n));
		MUST(mmap(place, 128 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == place);
		++*(uint64_t *)arg;
	}
	return NULL;
}

/* Written by the kernel, and a protection that changes. */
static void *by_kernel(void *arg)
{
	char *p = map(256 * PAGE);
	int ends[2];
	MUST(pipe(ends) == 0);
	for (uint64_t n = 1; !over(); n++) {
		for (size_t i = 0; i < 256; i++) {
			uint64_t *at = (uint64_t *)(p + i * PAGE);
			MUST(*at == n - 1);
			MUST(write(ends[1], &n, 8) == 8 && read(ends[0], at, 8) == 8);
		}
		MUST(mprotect(p, 128 * PAGE, PROT_NONE) == 0 && mprotect(p, 128 * PAGE, PROT_READ | PROT_WRITE) == 0);
		++*(uint64_t *)arg;
	}
	return NULL;
}

/* Heap that grows and shrinks. */
static void *grow(void *arg)
{
	for (uint64_t n = 1; !over(); n++) {
		size_t step = 64 * PAGE;
		uint64_t *p = sbrk((intptr_t)step);
		MUST(p != (void *)-1);
		for (size_t i = 0; i < step / 8; i += WORDS) {
			MUST(p[i] == 0);
			p[i] = n;
		}
		for (size_t i = 0; i < step / 8; i += WORDS)
			MUST(p[i] == n);
		if (n % 4) {
			memset(p, 0, step);
			MUST(sbrk(-(intptr_t)step) != (void *)-1);
		}
		if (n % 100 == 0)
			usleep(1000);
		if (n > 400)
			n = 399, usleep(100);
		++*(uint64_t *)arg;
	}
	return NULL;
}

/* A process that keeps writing what it had from its parent. */
static pid_t make_child(void)
{
	char *p = map(512 * PAGE);
	memset(p, 7, 512 * PAGE);
	pid_t pid = fork();
	CHECK(pid >= 0);
	if (pid)
		return pid;
	for (int i = 0; i < 256; i++)
		p[i * PAGE] = 0;
	for (unsigned char n = 0;; n++) {
		for (int i = 0; i < 512; i++) {
			if (p[i * PAGE] != (i < 256 ? (char)n : 7) || p[i * PAGE + 9] != 7)
				_exit(1);
			if (i < 256)
				p[i * PAGE] = (char)(n + 1);
		}
		usleep(1000);
		if (live_go)
			_exit(0);
	}
}

int main(int argc, char **argv)
{
	void *(*const work[])(void *) = { write_numbers, write_numbers, write_numbers, empty, remap, by_kernel, grow };
	enum { COUNT = sizeof work / sizeof *work };
	pthread_t threads[COUNT];
	uint64_t before[COUNT];

	live_init(argc, argv);
	pid_t child = make_child();
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	for (int i = 0; i < COUNT; i++)
		CHECK(pthread_create(&threads[i], NULL, work[i], &rounds[i]) == 0);
	usleep(100000);
	wait_go();
	/* Every page is looked at once more by whoever wrote it. */
	for (int i = 0; i < COUNT; i++)
		before[i] = __atomic_load_n(&rounds[i], __ATOMIC_ACQUIRE);
	for (int i = 0; i < COUNT; i++)
		for (int tries = 0; __atomic_load_n(&rounds[i], __ATOMIC_ACQUIRE) < before[i] + 2; tries++) {
			if (__atomic_load_n(&failed_line, __ATOMIC_SEQ_CST)) {
				live_say("not ok: %s:%d: a page is from another moment", __FILE__, failed_line);
				return 1;
			}
			CHECK(tries < 8000);
			usleep(1000);
		}
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < COUNT; i++)
		pthread_join(threads[i], NULL);
	if (failed_line) {
		live_say("not ok: %s:%d: a page is from another moment", __FILE__, failed_line);
		return 1;
	}
	usleep(5000);
	int status = -1;
	CHECK(waitpid(child, &status, WNOHANG) == 0);
	kill(child, SIGKILL);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
	return finish();
}
