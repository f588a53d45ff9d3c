/*
 * A program whose memory changes in every way that a chain of checkpoints must follow, when it is told to, and that can say at any moment what all
 * of it holds: a checksum over the addresses and the bytes. It has no descriptors for that; commands and answers are files in its directory:
 *
 *	cmd.PID		"step SEED COUNT", "digest", "fork", "exec", "touch PERCENT", "big MEBIBYTES", "huge MEBIBYTES", "part", "join", "share", "file", "end"
 *	reply.PID	the answer
 *
 * With "run" a child of it goes on writing sequence numbers by itself, and says "digest" whether they are all as they must be.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define AREAS 48
#define SHARED (1024 * PAGE)
#define RUN_PAGES 3000UL

struct area {
	char *at;
	size_t pages;
	int prot;
};

static struct area areas[AREAS];
static char statics[96 * PAGE] __attribute__((aligned(4096)));
static char *shared, *private_file, *big;
static size_t big_size;
static char *huge; /* of huge pages */
static size_t huge_size;
static uint64_t state, steps;
static uint64_t *run; /* a child that writes by itself: a page each */
static char *const *arguments;

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static size_t below(size_t n)
{
	return n ? (size_t)(next() % n) : 0;
}

static void fill(char *page)
{
	uint64_t *to = (uint64_t *)page;
	size_t count = 1 + below(8);

	while (count--)
		to[below(512)] = next();
}

static uint64_t mix(uint64_t hash, const char *data, size_t size)
{
	const uint64_t *from = (const uint64_t *)data;

	for (size_t i = 0; i < size / 8; i++)
		hash = (hash ^ from[i]) * 0x9e3779b97f4a7c15ull + (hash >> 29);
	return hash;
}

static uint64_t digest(void)
{
	char on_stack[8 * PAGE];
	uint64_t hash = steps;

	memset(on_stack, (int)steps, sizeof(on_stack));
	for (size_t i = 0; i < AREAS; i++) {
		if (!areas[i].at)
			continue;
		hash = (hash ^ (uint64_t)areas[i].at) * 31 + areas[i].pages;
		if (areas[i].prot & PROT_READ)
			hash = mix(hash, areas[i].at, areas[i].pages * PAGE);
	}
	hash = mix(hash, statics, sizeof(statics));
	hash = mix(hash, shared, SHARED);
	hash = mix(hash, private_file, SHARED);
	hash = huge ? mix(hash, huge, huge_size) : hash;
	return big ? mix(hash, big, big_size) : hash;
}

/* ---- what changes ---- */

static void map_one(struct area *a)
{
	a->pages = 1 + below(60);
	a->prot = PROT_READ | PROT_WRITE;
	a->at = mmap(NULL, a->pages * PAGE, a->prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (a->at == MAP_FAILED) {
		a->at = NULL;
		return;
	}
	for (size_t i = 0; i < a->pages; i++)
		if (below(3))
			fill(a->at + i * PAGE);
}

static void move_one(struct area *a)
{
	size_t pages = 1 + below(80);
	char *to = mremap(a->at, a->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);

	if (to == MAP_FAILED)
		return;
	a->at = to;
	a->pages = pages;
}

/* To the very place of another that has gone: the address is the same, the content is not. */
static void move_over(struct area *a, struct area *b)
{
	if (a == b || !a->at || !b->at || a->pages > b->pages || a->prot != b->prot)
		return;
	char *to = b->at;
	munmap(b->at, b->pages * PAGE);
	b->at = NULL;
	/* It may be several by now, of which some were moved. */
	if (mremap(a->at, a->pages * PAGE, a->pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
		munmap(a->at, a->pages * PAGE);
		munmap(to, a->pages * PAGE);
		a->at = NULL;
		return;
	}
	*b = *a;
	b->at = to;
	a->at = NULL;
}

/* The same, by new memory. */
static void map_over(struct area *a)
{
	size_t first = below(a->pages), count = 1 + below(a->pages - first);

	if (mmap(a->at + first * PAGE, count * PAGE, a->prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		abort();
	if (a->prot & PROT_WRITE && below(2))
		fill(a->at + first * PAGE);
}

static void unmap_end(struct area *a)
{
	size_t keep = below(a->pages);

	munmap(a->at + keep * PAGE, (a->pages - keep) * PAGE);
	a->pages = keep;
	if (!keep)
		a->at = NULL;
}

static void empty_some(struct area *a)
{
	size_t first = below(a->pages), count = 1 + below(a->pages - first);

	madvise(a->at + first * PAGE, count * PAGE, MADV_DONTNEED);
	if (a->prot & PROT_WRITE && below(2))
		fill(a->at + (first + below(count)) * PAGE);
}

static void write_some(struct area *a)
{
	for (size_t n = 1 + below(6); n-- && a->prot & PROT_WRITE;)
		fill(a->at + below(a->pages) * PAGE);
}

static void protect_one(struct area *a)
{
	a->prot = a->prot & PROT_WRITE ? PROT_READ : PROT_READ | PROT_WRITE;
	mprotect(a->at, a->pages * PAGE, a->prot);
}

/* By the kernel, on our behalf. */
static void read_into(struct area *a)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	if (fd >= 0 && a->prot & PROT_WRITE && pread(fd, a->at, PAGE, (off_t)(below(3) * 64)) < 0)
		abort();
	if (fd >= 0)
		close(fd);
}

static void grow_heap(void)
{
	static char *kept[16];
	size_t i = below(16);

	free(kept[i]);
	kept[i] = below(4) ? malloc(1 + below(60000)) : NULL;
	if (kept[i])
		kept[i][0] = (char)next();
}

/* What was written of it is at times dropped again: then the file's own is there. */
static void change_private_file(void)
{
	char *at = private_file + below(64) * PAGE;

	if (below(3))
		fill(at);
	else
		madvise(at, (1 + below(8)) * PAGE, MADV_DONTNEED);
}

static void change_huge(void)
{
	if (below(3))
		fill(huge + below(huge_size / PAGE) * PAGE);
	else
		madvise(huge + below(huge_size >> 21) * (2UL << 20), 2UL << 20, MADV_DONTNEED);
}

static void step(void)
{
	struct area *a = &areas[below(AREAS)];
	size_t what = below(14);

	steps++;
	if (!a->at && what < 10) {
		map_one(a);
		return;
	}
	switch (a->at ? what : what < 10 ? 13 : what) {
	case 0: unmap_end(a); break;
	case 1: move_one(a); break;
	case 2: move_over(a, &areas[below(AREAS)]); break;
	case 3: map_over(a); break;
	case 4: empty_some(a); break;
	case 5: protect_one(a); break;
	case 6: read_into(a); break;
	case 10: fill(statics + below(96) * PAGE); break;
	case 11: fill(shared + below(SHARED / PAGE) * PAGE); break;
	case 12: below(2) && huge ? change_huge() : change_private_file(); break;
	case 13: grow_heap(); break;
	default: write_some(a);
	}
}

static void touch(size_t percent)
{
	for (size_t n = big_size / PAGE * percent / 100; n--;)
		fill(big + below(big_size / PAGE) * PAGE);
}

/* The second half goes away, or comes back to the first, which makes them one area again. Gives the number of areas between both ends. */
static int part(bool away)
{
	const size_t half = big_size / 2;
	static char *place;
	char line[256];
	int count = 0;

	if (away)
		place = mmap(NULL, half, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (away)
		mremap(big + half, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, place);
	else
		mremap(place, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, big + half);
	FILE *maps = fopen("/proc/self/maps", "re");
	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long start = 0, end = 0;
		sscanf(line, "%lx-%lx", &start, &end);
		count += start < (unsigned long)big + big_size && end > (unsigned long)big;
	}
	if (maps)
		fclose(maps);
	return count;
}

static void make_big(size_t mib)
{
	big_size = mib << 20;
	big = mmap(NULL, big_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < big_size / PAGE; i++)
		fill(big + i * PAGE);
}

static int make_huge(size_t mib)
{
	if (!huge) {
		huge_size = mib << 20;
		huge = mmap(NULL, huge_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
		huge = huge == MAP_FAILED ? NULL : huge;
	}
	for (size_t i = 0; huge && i < huge_size; i += PAGE)
		fill(huge + i);
	return huge != NULL;
}

/* ---- one that goes on writing ---- */

/* Page n has the last number below run[0] that is n modulo their count; the one that is being written may be one off. */
static _Noreturn void run_on(void)
{
	for (uint64_t n = run[0];; n++) {
		uint64_t *page = run + 512 * (1 + n % RUN_PAGES);
		page[1] = n;
		page[511] = ~n;
		__atomic_store_n(&run[0], n + 1, __ATOMIC_SEQ_CST);
		if (n % 5000)
			continue;
		/* An area comes and goes. */
		static char *other;
		if (other)
			munmap(other, 40 * PAGE);
		other = mmap(NULL, 40 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		other[n % 40 * PAGE] = 1;
		usleep(200);
		char name[64];
		snprintf(name, sizeof(name), "check.%d", (int)getpid());
		if (access(name, F_OK))
			continue;
		uint64_t now = run[0], bad = 0;
		for (uint64_t i = 0; i < RUN_PAGES; i++) {
			uint64_t *p = run + 512 * (1 + i), want = now - 1 - (now - 1 + RUN_PAGES - i) % RUN_PAGES;
			if (now > RUN_PAGES && (p[1] != want || p[511] != ~want))
				bad++;
		}
		unlink(name);
		snprintf(name, sizeof(name), "checked.%d", (int)getpid());
		FILE *f = fopen("checked.tmp", "w");
		fprintf(f, "%llu %llu\n", (unsigned long long)bad, (unsigned long long)now);
		fclose(f);
		rename("checked.tmp", name);
	}
}

/* ---- commands ---- */

static void answer(const char *text)
{
	char name[64], early[64];

	snprintf(early, sizeof(early), "early.%d", (int)getpid());
	snprintf(name, sizeof(name), "reply.%d", (int)getpid());
	FILE *f = fopen(early, "w");
	if (!f || fprintf(f, "%s\n", text) < 0 || fclose(f) || rename(early, name))
		abort();
}

static void obey(char *line)
{
	char text[64] = "ok";
	unsigned long long a = 0, b = 0;
	char word[16] = "";

	sscanf(line, "%15s %llu %llu", word, &a, &b);
	if (!strcmp(word, "step")) {
		for (state = a * 2654435761u + 88172645463325252ull; b--;)
			step();
	} else if (!strcmp(word, "digest")) {
		snprintf(text, sizeof(text), "%016llx", (unsigned long long)digest());
	} else if (!strcmp(word, "touch")) {
		state = b + 1;
		touch(a);
	} else if (!strcmp(word, "share")) {
		for (size_t i = 0; i < SHARED; i += PAGE)
			fill(shared + i);
	} else if (!strcmp(word, "file")) {
		for (size_t i = 0; i < SHARED; i += PAGE)
			fill(private_file + i);
	} else if (!strcmp(word, "huge")) {
		if (!make_huge(a))
			snprintf(text, sizeof(text), "none");
	} else if (!strcmp(word, "big")) {
		state = 1;
		make_big(a);
	} else if (!strcmp(word, "part") || !strcmp(word, "join")) {
		snprintf(text, sizeof(text), "%d", part(*word == 'p'));
	} else if (!strcmp(word, "fork") || !strcmp(word, "run")) {
		pid_t pid = fork();
		if (pid == 0) {
			if (*word == 'f')
				return;
			run = mmap(NULL, (RUN_PAGES + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			run_on();
		}
		snprintf(text, sizeof(text), "%d", (int)pid);
	} else if (!strcmp(word, "exec")) {
		execv("/proc/self/exe", arguments);
	} else if (!strcmp(word, "end")) {
		_exit(0);
	}
	answer(text);
}

int main(int argc, char **argv)
{
	char name[64], line[128];

	arguments = argv;
	if (argc > 1 && chdir(argv[1]))
		return 1;
	shared = mmap(NULL, SHARED, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = open("private", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, SHARED))
		return 1;
	private_file = mmap(NULL, SHARED, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	answer("ready");
	for (;;) {
		snprintf(name, sizeof(name), "cmd.%d", (int)getpid());
		FILE *f = fopen(name, "r");
		if (!f || !fgets(line, sizeof(line), f)) {
			if (f)
				fclose(f);
			usleep(1000);
			continue;
		}
		fclose(f);
		unlink(name);
		obey(line);
	}
}
