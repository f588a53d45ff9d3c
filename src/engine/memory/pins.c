/* See pins.h. */
#include "engine/memory/pins.h"

#include "base/log.h"
#include "engine/dump.h"
#include "engine/kernel_pages.h"
#include "engine/watch.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

#define WORDS 8192UL
#define NEAR (8 * PAGE_SIZE) /* to read what is between takes as long as another call */
#define PRESENT (1ULL << 63)
#define FRAME ((1ULL << 55) - 1)
#define PINNED 1024 /* what one who pins a small page adds to its count: the kernel's GUP_PIN_COUNTING_BIAS */
#define BATCH 1024  /* pages that are looked at in one run */
#define BEHIND 2    /* descriptions behind the last: those of a large page's head */
#define SPAN_MAX (KERNEL_PIECE_MAX / KERNEL_PAGE_DESCRIPTION - BEHIND)
#define ADDRESSES_AT 8
#define DATA_AT 256U

struct pins {
	struct kernel *main, *beside; /* the dump's, for its main thread; for the others, when the first of them asks */
	pthread_t main_thread;
	uint64_t descriptions;
	uint32_t count_at, maps_at, head_at, pins_at; /* in a description; in that of a large page */
	uint64_t mark;				      /* in the flags of an address space: a page was held; 0: not known */
	pthread_mutex_t lock;
};

/* Descriptions that are read together, of neighbouring frames. */
struct stretch {
	uint64_t first, last;
	uint32_t at; /* in the window */
};

/* `frame`: as the page table has it, or of the head of the large page that it is a part of. */
struct page {
	uint64_t address, frame;
	size_t stretch;
};

struct look {
	struct pins *p;
	struct kernel *k;
	int uffd, pagemap_fd;
	struct page pages[BATCH];
	struct stretch stretches[KERNEL_PIECES];
	size_t count, stretch_count;
	uint64_t known_head; /* of a large page that was looked at last; 0: none */
	bool known_is_held;
	uint64_t start, end; /* held, and still protected */
	uint64_t found;	     /* pages */
};

static int find_layout(struct kernel *k, struct pins *p)
{
	const int count = kernel_offset(k, "page", "_refcount"), maps = kernel_offset(k, "page", "_mapcount");
	const int head = kernel_offset(k, "page", "compound_head"), pins = kernel_offset(k, "folio", "_pincount");

	if (count < 0 || maps < 0 || head < 0 || pins < 0 || pins > (int)(BEHIND + 1) * (int)KERNEL_PAGE_DESCRIPTION - 4)
		return -ENOTSUP;
	p->count_at = (uint32_t)count;
	p->maps_at = (uint32_t)maps;
	p->head_at = (uint32_t)head;
	p->pins_at = (uint32_t)pins;
	return kernel_pages_find_descriptions(k, &p->descriptions);
}

static int read_flags(struct kernel *k, uint64_t task, uint64_t *ret)
{
	const int mm = kernel_offset(k, "task_struct", "mm"), flags = kernel_offset(k, "mm_struct", "flags");
	uint64_t at = 0;
	int r = mm < 0 || flags < 0 ? -ENOTSUP : kernel_read(k, task + (uint64_t)mm, &at, sizeof(at));

	return r ? r : at ? kernel_read(k, at + (uint64_t)flags, ret, sizeof(*ret)) : -ESRCH;
}

/* Which bit it is, a page of our own shows. */
static void learn_mark(struct pins *p)
{
	uint64_t self, before, after;
	char from = 0, to;
	struct iovec ours = { &to, 1 }, its = { &from, 1 };

	if (kernel_self(p->main, &self) || read_flags(p->main, self, &before) || process_vm_readv(getpid(), &ours, 1, &its, 1, 0) != 1 ||
	    read_flags(p->main, self, &after))
		return;
	const uint64_t mark = before ^ after;
	p->mark = before & mark || mark & (mark - 1) ? 0 : mark;
}

/* So far. */
static bool none_was_held(struct pins *p, const struct pins_of *of)
{
	char path[64];
	uint64_t task, flags;

	if (!p->mark || !pthread_equal(p->main_thread, pthread_self()))
		return false;
	snprintf(path, sizeof(path), "/proc/%d/task/%d", of->pid, of->pid);
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
	return fd >= 0 && !kernel_task(p->main, fd, of->comm, &task) && !read_flags(p->main, task, &flags) && !(flags & p->mark);
}

void pins_open(struct dump *d)
{
	struct kernel *k = d->pins ? NULL : dump_kernel(d);
	struct pins *p = k ? calloc(1, sizeof(*p)) : NULL;

	if (!p)
		return;
	pthread_mutex_init(&p->lock, NULL);
	p->main = k;
	p->main_thread = pthread_self();
	int r = find_layout(k, p);
	if (!r)
		learn_mark(p);
	if (r) {
		log_info("It can't be seen who holds pages of the tree: %s", strerror(-r));
		pins_close(p);
		return;
	}
	d->pins = p;
}

void pins_close(struct pins *p)
{
	if (!p)
		return;
	kernel_close(p->beside);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* ---- one batch ---- */

static uint64_t stretch_size(const struct stretch *s)
{
	return (s->last - s->first + 1 + BEHIND) * KERNEL_PAGE_DESCRIPTION;
}

/* All that can be read; whether the page behind the last is there is another question. */
static int read_stretches(struct look *l)
{
	struct kernel *k = l->k;
	struct kernel_piece pieces[KERNEL_PIECES];
	char *window = kernel_window(k);

	for (size_t i = 0; i < l->stretch_count; i++) {
		const struct stretch *s = &l->stretches[i];
		const uint64_t at = l->p->descriptions + s->first * KERNEL_PAGE_DESCRIPTION;
		pieces[i] = (struct kernel_piece){ .base = (uint32_t)(ADDRESSES_AT + 8 * i), .size = (uint32_t)stretch_size(s), .to = s->at };
		memcpy(window + pieces[i].base, &at, sizeof(at));
	}
	int r = kernel_read_pieces(k, pieces, l->stretch_count);
	if (r != -EFAULT)
		return r;
	for (size_t i = 0; i < l->stretch_count; i++) {
		if (!kernel_read_pieces(k, &pieces[i], 1))
			continue;
		memset(window + pieces[i].to, 0, pieces[i].size);
		pieces[i].size -= BEHIND * KERNEL_PAGE_DESCRIPTION;
		if ((r = kernel_read_pieces(k, &pieces[i], 1)))
			return r;
	}
	return 0;
}

static int take_protection(struct look *l)
{
	struct uffdio_writeprotect wp = { .range = { l->start, l->end - l->start } };
	int r = 0;

	while (l->end > l->start && (r = ioctl(l->uffd, UFFDIO_WRITEPROTECT, &wp)) < 0 && errno == EAGAIN)
		;
	l->start = l->end = 0;
	return r < 0 && errno != ENOENT && errno != ESRCH ? -errno : 0; /* it has gone */
}

static int note_held(struct look *l, uint64_t address)
{
	int r = l->end == address ? 0 : take_protection(l);

	if (l->end != address || !l->end)
		l->start = address;
	l->end = address + PAGE_SIZE;
	l->found++;
	return r;
}

/* 1: it is held; -EAGAIN: *ret_head tells. */
static int judge(struct look *l, const struct page *x, uint64_t *ret_head)
{
	const struct pins *p = l->p;
	const struct stretch *s = &l->stretches[x->stretch];
	const char *at = kernel_window(l->k) + s->at + (x->frame - s->first) * KERNEL_PAGE_DESCRIPTION;
	const uint64_t self = p->descriptions + x->frame * KERNEL_PAGE_DESCRIPTION;
	uint64_t head, next;
	int32_t count, maps, pins;

	memcpy(&head, at + p->head_at, sizeof(head));
	memcpy(&next, at + KERNEL_PAGE_DESCRIPTION + p->head_at, sizeof(next));
	if (head & 1) {
		*ret_head = (head - 1 - p->descriptions) / KERNEL_PAGE_DESCRIPTION;
		return *ret_head == l->known_head ? l->known_is_held : -EAGAIN;
	}
	if (next == (self | 1)) {
		memcpy(&pins, at + p->pins_at, sizeof(pins));
		l->known_head = x->frame;
		return l->known_is_held = pins > 0;
	}
	memcpy(&count, at + p->count_at, sizeof(count));
	memcpy(&maps, at + p->maps_at, sizeof(maps));
	return (int64_t)count - ((int64_t)maps + 1) >= PINNED;
}

static int choose_kernel(struct look *l)
{
	struct pins *p = l->p;

	if (pthread_equal(p->main_thread, pthread_self())) {
		l->k = p->main;
		return 0;
	}
	int r = p->beside ? 0 : kernel_open_beside(p->main, &p->beside);
	l->k = p->beside;
	return r;
}

static int add_page(struct look *l, uint64_t address, uint64_t frame);

/* What is a part of a large page is looked at once more, by the head of that. */
static int flush(struct look *l)
{
	struct page again[BATCH];
	size_t count = 0;

	pthread_mutex_lock(&l->p->lock);
	int r = choose_kernel(l);
	if (!r && l->count)
		r = read_stretches(l);
	for (size_t i = 0; !r && i < l->count; i++) {
		uint64_t head;
		int s = judge(l, &l->pages[i], &head);
		if (s == -EAGAIN)
			again[count++] = (struct page){ .address = l->pages[i].address, .frame = head };
		else if (s)
			r = note_held(l, l->pages[i].address);
	}
	pthread_mutex_unlock(&l->p->lock);
	l->count = l->stretch_count = 0;
	for (size_t i = 0; !r && i < count; i++)
		r = add_page(l, again[i].address, again[i].frame);
	return !r && count ? flush(l) : r;
}

/* Whether a frame lies near to the last stretch, which then has it too. */
static bool join_stretch(struct look *l, uint64_t frame)
{
	struct stretch *s = l->stretch_count ? &l->stretches[l->stretch_count - 1] : NULL;
	struct stretch wider = s ? (struct stretch){ MIN(s->first, frame), MAX(s->last, frame), s->at } : (struct stretch){};

	if (!s || wider.last - wider.first >= SPAN_MAX || wider.at + stretch_size(&wider) > KERNEL_WINDOW)
		return false;
	*s = wider;
	return true;
}

static bool add_stretch(struct look *l, uint64_t frame)
{
	const struct stretch *last = l->stretch_count ? &l->stretches[l->stretch_count - 1] : NULL;
	struct stretch s = { frame, frame, last ? last->at + (uint32_t)stretch_size(last) : DATA_AT };

	if (l->stretch_count == KERNEL_PIECES || s.at + stretch_size(&s) > KERNEL_WINDOW)
		return false;
	l->stretches[l->stretch_count++] = s;
	return true;
}

static int add_page(struct look *l, uint64_t address, uint64_t frame)
{
	int r = 0;

	if (l->count == BATCH || (!join_stretch(l, frame) && !add_stretch(l, frame))) {
		r = flush(l);
		add_stretch(l, frame);
	}
	l->pages[l->count++] = (struct page){ address, frame, l->stretch_count - 1 };
	return r;
}

/* ---- all ---- */

/* Those that are not there, and frame numbers that are hidden: nobody could be seen. */
static int add_words(struct look *l, const struct extent *x, uint64_t at, uint64_t end, const uint64_t *words, uint64_t words_at)
{
	int r = 0;

	for (at = MAX(at, x->start); !r && at < MIN(end, x->end); at += PAGE_SIZE) {
		const uint64_t word = words[(at - words_at) / PAGE_SIZE];
		if (!(word & PRESENT))
			continue;
		r = word & FRAME ? add_page(l, at, word & FRAME) : -EPERM;
	}
	return r;
}

/* Runs that are near to each other, and so much of one, in one call. */
static int look_at_all(struct look *l, const struct extents *runs, uint64_t *words)
{
	int r = 0;

	for (size_t i = 0, next; !r && i < runs->count; i = next) {
		for (next = i + 1; next < runs->count && runs->data[next].start - runs->data[next - 1].end <= NEAR; next++)
			;
		const uint64_t end = runs->data[next - 1].end;
		size_t first = i;
		for (uint64_t at = runs->data[i].start, size; !r && at < end; at += size) {
			size = MIN(end - at, WORDS * PAGE_SIZE);
			ssize_t n = pread(l->pagemap_fd, words, size / PAGE_SIZE * 8, (off_t)(at / PAGE_SIZE * 8));
			if (n != (ssize_t)(size / PAGE_SIZE * 8))
				return n < 0 ? -errno : -ESRCH;
			for (; first < next && runs->data[first].end <= at; first++)
				;
			for (size_t m = first; !r && m < next && runs->data[m].start < at + size; m++)
				r = add_words(l, &runs->data[m], at, at + size, words, at);
		}
	}
	return r;
}

int pins_release(struct pins *p, const struct pins_of *of, const struct extents *runs)
{
	if (!p || !runs->count)
		return 0;
	if (none_was_held(p, of))
		return 1;
	_cleanup_free_ uint64_t *words = malloc(WORDS * 8);
	_cleanup_free_ struct look *l = malloc(sizeof(*l));
	if (!l || !words)
		return -ENOMEM;
	*l = (struct look){ .p = p, .uffd = of->uffd, .pagemap_fd = of->pagemap_fd };
	int r = look_at_all(l, runs, words), s = r ? 0 : flush(l);
	r = r ? r : s;
	s = take_protection(l);
	if (l->found)
		log_info("%llu pages are held by others, who may write to them unseen", (unsigned long long)l->found);
	return r ? r : s;
}

int pins_release_written(struct pins *p, const struct pins_of *of, const struct track_runs *runs)
{
	struct extents list = {};
	int r = 0;

	for (size_t i = 0; p && !r && i < runs->count; i++)
		r = extents_add(&list, (struct extent){ .start = runs->data[i].start, .end = runs->data[i].end, .shared = true });
	if (!r)
		r = pins_release(p, of, &list);
	VEC_FREE(&list);
	return MIN(r, 0);
}

void pins_wait(const struct pins *p, int uffd, uint64_t settled)
{
	const uint64_t now = watch_now();

	track_wait_for_lock(uffd);
	if (!p && now < settled)
		nanosleep(&(struct timespec){ 0, (long)(settled - now) }, NULL);
}
