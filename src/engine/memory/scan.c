/* See scan.h. Numbers from the kernel's Documentation/admin-guide/mm/pagemap.rst. */
#include "engine/memory/scan.h"

#include <fcntl.h>
#include <linux/types.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define WORDS 8192
#define NEAR (64 * PAGE_SIZE)
#define HUGE (2UL << 20)
#define WORD_PRESENT (1ULL << 63)
#define WORD_SWAPPED (1ULL << 62)
#define WORD_FILE (1ULL << 61)
#define WORD_EXCLUSIVE (1ULL << 56)
#define WORD_FRAME ((1ULL << 55) - 1)

/* linux/fs.h has these since 6.7. */
struct region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN _IOWR('f', 16, struct scan_arg)
enum { IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4, IS_ZERO = 1 << 5 };

static int add_part(struct page_runs *runs, uint64_t start, uint64_t end, bool shared, bool several)
{
	struct page_run *last = runs->count > runs->closed ? &runs->data[runs->count - 1] : NULL;

	if (last && last->end == start && last->shared == shared && last->several == several) {
		last->end = end;
		return 0;
	}
	last = VEC_PUSH(runs);
	if (!last)
		return -ENOMEM;
	*last = (struct page_run){ start, end, shared, several, false };
	return 0;
}

/* Cut where another area begins. */
static int add_run(struct page_runs *runs, uint64_t start, uint64_t end, bool shared, bool several)
{
	int r = 0;

	for (uint64_t at = start, to; !r && at < end; at = to) {
		for (; runs->cuts_count && *runs->cuts <= at; runs->cuts++, runs->cuts_count--)
			runs->closed = runs->count;
		to = runs->cuts_count ? MIN(end, *runs->cuts) : end;
		r = add_part(runs, at, to, shared, several);
	}
	return r;
}

static int scan_fast(int fd, uint64_t start, uint64_t end, uint64_t not, bool shared, struct page_runs *runs)
{
	struct region regions[512];
	struct scan_arg arg = { .size = sizeof(arg), .start = start, .end = end, .vec = (uint64_t)regions, .vec_len = ARRAY_SIZE(regions),
				.category_inverted = not, .category_mask = not, .category_anyof_mask = IS_PRESENT | IS_SWAPPED,
				.return_mask = IS_PRESENT | IS_SWAPPED };

	while (arg.start < end) {
		int n = ioctl(fd, SCAN, &arg), r = 0;
		if (n < 0)
			return -errno;
		for (int i = 0; i < n && !r; i++)
			r = add_run(runs, regions[i].start, regions[i].end, shared, false);
		if (r)
			return r;
		if (arg.walk_end <= arg.start)
			return -EIO;
		arg.start = arg.walk_end;
	}
	return 0;
}

static int read_words(int fd, uint64_t at, uint64_t *words, size_t count)
{
	ssize_t n = pread(fd, words, count * 8, (off_t)(at / PAGE_SIZE * 8));

	return n == (ssize_t)(count * 8) ? 0 : n < 0 ? -errno : -EIO;
}

/*
 * The frames that stand for memory which was only read, as our own memory shows them: one of a page, and one of HUGE bytes (which is there while
 * somebody has it, so ours is kept until the end). 0: not known, as where frame numbers are hidden.
 */
struct zeros {
	uint64_t small, huge;
	char *memory;
};

static uint64_t frame_of(int fd, const volatile char *page)
{
	uint64_t word = 0;

	(void)*page;
	return read_words(fd, (uintptr_t)page, &word, 1) || !(word & WORD_PRESENT) ? 0 : word & WORD_FRAME;
}

static void find_zeros(struct zeros *z)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	char *memory = mmap(NULL, 3 * HUGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (fd < 0 || memory == MAP_FAILED)
		return;
	char *huge = (char *)ALIGN_UP((uintptr_t)memory, HUGE), *small = huge + HUGE;
	madvise(huge, HUGE, MADV_HUGEPAGE);
	madvise(small, HUGE, MADV_NOHUGEPAGE);
	z->memory = memory;
	z->small = frame_of(fd, small);
	z->huge = frame_of(fd, huge);
	if (z->huge == z->small || z->huge % (HUGE / PAGE_SIZE))
		z->huge = 0;
}

static bool is_zeros(const struct zeros *z, uint64_t word)
{
	const uint64_t frame = word & WORD_FRAME;

	return word & WORD_PRESENT && frame && (frame == z->small || (z->huge && frame - frame % (HUGE / PAGE_SIZE) == z->huge));
}

static int scan_words(int fd, uint64_t start, uint64_t end, uint64_t not, bool shared, struct page_runs *runs)
{
	_cleanup_free_ uint64_t *words = malloc(WORDS * 8);
	struct zeros zeros = {};
	int r = words ? 0 : -ENOMEM;

	if (not & IS_ZERO)
		find_zeros(&zeros);
	for (uint64_t at = start; at < end && !r; at += WORDS * PAGE_SIZE) {
		size_t count = MIN((end - at) / PAGE_SIZE, (uint64_t)WORDS);
		r = read_words(fd, at, words, count);
		for (size_t i = 0; i < count && !r; i++)
			if (words[i] & (WORD_PRESENT | WORD_SWAPPED) && !(not & IS_FILE && words[i] & WORD_FILE) && !is_zeros(&zeros, words[i]))
				r = add_run(runs, at + i * PAGE_SIZE, at + (i + 1) * PAGE_SIZE, shared, false);
	}
	if (zeros.memory)
		munmap(zeros.memory, 3 * HUGE);
	return r;
}

int scan_pages(int pagemap_fd, uint64_t start, uint64_t end, bool file_backed, bool shared, struct page_runs *runs)
{
	return scan_areas(pagemap_fd, start, end, NULL, 0, file_backed ? SCAN_WRITTEN : SCAN_DATA, shared, runs);
}

int scan_areas(int pagemap_fd, uint64_t start, uint64_t end, const uint64_t *cuts, size_t count, enum scan_what what, bool shared, struct page_runs *runs)
{
	const uint64_t not = what == SCAN_ALL ? 0 : IS_ZERO | (what == SCAN_WRITTEN ? IS_FILE : 0);
	size_t before = runs->closed = runs->count;

	runs->cuts = cuts;
	runs->cuts_count = count;
	int r = scan_fast(pagemap_fd, start, end, not, shared, runs);
	if (r == -ENOTTY || r == -EINVAL) {
		runs->count = runs->closed = before;
		runs->cuts = cuts;
		runs->cuts_count = count;
		r = scan_words(pagemap_fd, start, end, not, shared, runs);
	}
	runs->cuts_count = 0;
	return r;
}

int scan_fast_works(int pagemap_fd, uint64_t start, uint64_t end)
{
	struct page_runs runs = {};
	int r = scan_fast(pagemap_fd, start, end, IS_ZERO, false, &runs);

	r = r ? r : runs.count ? 0 : -ENOTSUP;
	VEC_FREE(&runs);
	return r;
}

static bool same_frame(uint64_t a, uint64_t b)
{
	return a & WORD_PRESENT && b & WORD_PRESENT && !((a | b) & WORD_FILE) && a & WORD_FRAME &&
	       (a & WORD_FRAME) == (b & WORD_FRAME);
}

/* The words of a stretch of pages: own, and WORDS further on the parent's. */
struct words {
	uint64_t start, end;
	uint64_t *data;
};

/* From `at` in runs[i] on: with the runs behind it that are near, so that small ones do not cost a call each. */
static int read_stretch(int own, int parent, const struct page_runs *runs, size_t i, uint64_t at, struct words *w)
{
	bool compare = runs->data[i].shared;

	w->start = at;
	w->end = MIN(runs->data[i].end, at + WORDS * PAGE_SIZE);
	for (i++; w->end == runs->data[i - 1].end && i < runs->count; i++) {
		const struct page_run *next = &runs->data[i];
		if (next->several || next->start < w->end || next->start - w->end > NEAR || next->end - at > WORDS * PAGE_SIZE)
			break;
		w->end = next->end;
		compare |= next->shared;
	}
	size_t count = (w->end - w->start) / PAGE_SIZE;
	int r = read_words(own, w->start, w->data, count);
	return !r && compare && parent >= 0 ? read_words(parent, w->start, w->data + WORDS, count) : r;
}

static int split_run(int own, int parent, const struct page_runs *runs, size_t i, struct page_runs *to, struct words *w)
{
	const struct page_run *run = &runs->data[i];
	bool compare = run->shared && parent >= 0;
	int r = 0;

	if (run->several)
		return add_run(to, run->start, run->end, false, true);
	for (uint64_t at = run->start; at < run->end && !r; at += PAGE_SIZE) {
		if (at < w->start || at >= w->end)
			r = read_stretch(own, parent, runs, i, at, w);
		if (r)
			break;
		const uint64_t *word = w->data + (at - w->start) / PAGE_SIZE;
		r = add_run(to, at, at + PAGE_SIZE, compare && same_frame(word[0], word[WORDS]),
			    *word & WORD_PRESENT && !(*word & WORD_EXCLUSIVE));
	}
	return r;
}

int scan_split(int pagemap_fd, int parent_fd, struct page_runs *runs)
{
	_cleanup_free_ uint64_t *data = malloc(2 * WORDS * 8);
	struct words words = { .data = data };
	struct page_runs split = {};
	int r = data ? 0 : -ENOMEM;

	for (size_t i = 0; i < runs->count && !r; i++) {
		split.closed = split.count;
		r = split_run(pagemap_fd, parent_fd, runs, i, &split, &words);
	}
	if (r) {
		VEC_FREE(&split);
		return r;
	}
	VEC_FREE(runs);
	*runs = split;
	return 0;
}
