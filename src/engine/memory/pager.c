/* See pager.h. Beside it: pager_space.c, pager_wait.c, guard.c. */
#include "engine/memory/pager_private.h"
#include "engine/memory/pager_space.h"

#include "base/log.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>

#define WINDOW (64UL << 10)  /* what a touched page brings along, */
#define AHEAD_MAX (1UL << 20) /* and twice as much each time that the program goes on right behind it */
#define STEP (512UL << 10)   /* what is brought at a time when nobody waits */
#define AT_ONCE 1024	     /* windows of the last time's order that do not wait */
#define BEGIN_MS 50	     /* the program has the processors to itself: until it has been there for so long, */
#define QUIET_MS 5	     /* and has not waited for a page for so long; */
#define QUIET_MAX_MS 1000    /* but it is not waited for longer than so, */
#define LITTLE_PAGES 4096    /* nor where so few are left */
#define LOOK_MS 2000	     /* how often it is seen whether they have ended */
#define FEW_SPACES 16
#define EVENTS_AT_ONCE 64
#define TRIES_AT_ONCE 200
#define NAP_MAX_NS 40000
#define ORDER_MAX (64UL << 10) /* windows that are noted */
#define SPACES_MAX 4096
#define LAST_PAGE 0x7fffffffe000ULL

struct window {
	uint32_t space, page;
};

struct pager {
	VEC(struct space *) spaces;
	size_t given;
	unsigned char *buffer;
	VEC(struct window) order, wanted; /* as it is now; as it was the last time */
	size_t next_wanted;
	const struct pager_source *sources;
	struct image_reader **readers; /* of sources that are packed, once one is read; sources of one archive have the same */
	size_t n_sources;
	int listener; /* who connects waits for the end */
	bool hurry;   /* somebody does */
	bool touched; /* nothing else is brought, unless somebody is in a hurry */
	uint64_t begun, touched_at, looked_at; /* in ms */
	size_t looked_count;
	uint64_t filled; /* how often the buffer was */
	uint64_t nap_ns;
	int dir_fd;
	const char *name;
};

_Noreturn void pager_give_up(const char *why)
{
	log_error("cannot bring the pages of a lazy restore: %s", why);
	_exit(1);
}

static void add_child(struct pager *p, const struct space *parent, int uffd)
{
	struct space **slot = VEC_PUSH(&p->spaces);

	if (!slot || p->spaces.count > SPACES_MAX)
		pager_give_up("too many processes");
	*slot = space_fork(parent, uffd);
}

/* ---- pages ---- */

static bool handle_one(struct pager *p, struct space *s);

/* Nobody has the memory any more. */
static bool is_over(int error)
{
	return error == ESRCH || error == EBADF;
}

/* The kernel brings no page as long as a thread is within mremap(2) and the like: from the call until it runs on after we were told. One that does
 * nothing else leaves moments only, which are met by trying again at once, and where it has the same processor by waking up while it runs. */
static void wait_for_change(struct pager *p, struct space *s, unsigned tries)
{
	if (tries >= TRIES_AT_ONCE) {
		p->nap_ns = (p->nap_ns * 5 + 7919) % NAP_MAX_NS;
		nanosleep(&(struct timespec){ 0, (long)p->nap_ns }, NULL);
	}
	if (!s->over)
		handle_one(p, s);
}

/* Zeroes where nothing was saved. */
static void serve_zero(struct pager *p, struct space *s, uint64_t address)
{
	struct uffdio_zeropage zero = { .range = { address & PAGE_MASK, PAGE_SIZE } };
	unsigned tries = 0;

	while (!s->over && ioctl(s->uffd, UFFDIO_ZEROPAGE, &zero) < 0) {
		if (errno == EAGAIN) {
			wait_for_change(p, s, tries++);
			zero.zeropage = 0;
		} else if (errno == EEXIST) {
			ioctl(s->uffd, UFFDIO_WAKE, &zero.range);
			return;
		} else {
			if (is_over(errno))
				space_end(s);
			return;
		}
	}
}

/* Whether the pages from `first` on still belong at an address, and the buffer has them. */
static bool is_still(const struct pager *p, const struct space *s, uint64_t address, size_t size, size_t first, uint64_t filled)
{
	size_t i = s->over || p->filled != filled ? SIZE_MAX : space_find(s, address);
	const struct piece *piece = i < s->pieces.count ? &s->pieces.data[i] : NULL;

	return piece && piece->start <= address && address + size <= piece->end && piece->page + (address - piece->start) / PAGE_SIZE == first;
}

/* The pages from `first` on, from the buffer. Gives the number of bytes that are settled: there, or not wanted any more. 0: the memory has changed,
 * look again. */
static size_t put(struct pager *p, struct space *s, uint64_t address, size_t size, size_t first)
{
	struct uffdio_copy copy = { .dst = address, .src = (uint64_t)p->buffer, .len = size };
	const uint64_t filled = p->filled;
	int error = 0;

	for (unsigned tries = 0; ioctl(s->uffd, UFFDIO_COPY, &copy) < 0; tries++) {
		error = errno;
		if (copy.copy > 0)
			return (size_t)copy.copy;
		if (error != EAGAIN)
			break;
		wait_for_change(p, s, tries);
		if (!is_still(p, s, address, size, first, filled))
			return 0;
		error = 0;
		copy.copy = 0;
	}
	if (!error)
		return size;
	if (error == EEXIST) {
		struct uffdio_range range = { address, PAGE_SIZE };
		ioctl(s->uffd, UFFDIO_WAKE, &range);
		return PAGE_SIZE;
	}
	if (error == ENOENT || error == EINVAL || error == EFAULT) /* unmapped, or another mapping is there now */
		return PAGE_SIZE;
	if (is_over(error)) {
		space_end(s);
		return 0;
	}
	pager_give_up(strerror(error));
}

static struct image_reader *reader_of(struct pager *p, size_t source)
{
	const struct image_raw *packed = p->sources[source].packed;

	for (size_t i = 0; i < p->n_sources && !p->readers[source]; i++)
		if (p->readers[i] && image_raw_is_beside(p->sources[i].packed, packed))
			p->readers[source] = p->readers[i];
	if (!p->readers[source] && image_raw_reader_new(packed, &p->readers[source]))
		pager_give_up("out of memory");
	return p->readers[source];
}

static void read_pages(struct pager *p, size_t source, uint64_t at, size_t size)
{
	const struct pager_source *from = &p->sources[source];

	p->filled++;
	if (from->packed) {
		if (image_raw_read(from->packed, reader_of(p, source), p->buffer, size, at))
			pager_give_up("the checkpoint is damaged, or can't be read any more");
		return;
	}
	for (size_t done = 0; done < size;) {
		ssize_t n = pread(from->fd, p->buffer + done, size - done, (off_t)(at + done));
		if (n <= 0)
			pager_give_up("the checkpoint can't be read any more");
		done += (size_t)n;
	}
}

/* Pages that lack from `address` on, in one piece, up to `end`. */
static void bring_run(struct pager *p, struct space *s, uint64_t address, uint64_t end)
{
	const size_t i = space_find(s, address);
	const struct piece *piece = &s->pieces.data[i];
	size_t size = 0, first = piece->page + (address - piece->start) / PAGE_SIZE;

	while (address + size < end && size < STEP && !space_is_done(s, first + size / PAGE_SIZE))
		size += PAGE_SIZE;
	read_pages(p, piece->source, piece->offset + (address - piece->start), size);
	size_t n = put(p, s, address, size, first);
	for (size_t k = 0; !s->over && k < n / PAGE_SIZE; k++)
		space_set_done(s, first + k);
}

/* What lacks in [start, end), as far as one piece goes; what changes meanwhile is left for the next time. */
static void bring(struct pager *p, struct space *s, uint64_t start, uint64_t end)
{
	for (uint64_t at = start; !s->over && at < end;) {
		size_t i = space_find(s, at);
		if (i == s->pieces.count || s->pieces.data[i].start >= end)
			return;
		const struct piece *piece = &s->pieces.data[i];
		at = MAX(at, piece->start);
		if (space_is_done(s, piece->page + (at - piece->start) / PAGE_SIZE)) {
			at += PAGE_SIZE;
			continue;
		}
		bring_run(p, s, at, MIN(end, piece->end));
	}
}

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* `pages` from one on: all windows of them. */
static void note_order(struct pager *p, const struct space *s, size_t page, size_t pages)
{
	size_t space = 0;

	while (space < p->given && p->spaces.data[space] != s)
		space++;
	for (size_t i = 0; s->first && i < pages && p->order.count < ORDER_MAX; i += WINDOW / PAGE_SIZE) {
		struct window *w = VEC_PUSH(&p->order);
		if (w)
			*w = (struct window){ (uint32_t)space, (uint32_t)(page + i) };
	}
}

static void serve_fault(struct pager *p, struct space *s, uint64_t address)
{
	const uint64_t page = address & PAGE_MASK, window = address & ~(WINDOW - 1);
	uint64_t end;
	size_t i = space_find(s, page);
	const struct piece *piece = i < s->pieces.count ? &s->pieces.data[i] : NULL;

	if (!piece || piece->start > page) {
		serve_zero(p, s, page);
		return;
	}
	size_t number = piece->page + (page - piece->start) / PAGE_SIZE;
	if (space_is_done(s, number)) {
		/* It came meanwhile; or the program has dropped it, in a way that is not told. */
		serve_zero(p, s, page);
		return;
	}
	p->touched_at = now_ms();
	s->ahead = page == s->next ? MIN(2 * s->ahead, AHEAD_MAX) : WINDOW;
	s->next = end = window + s->ahead;
	note_order(p, s, number, (MIN(end, piece->end) - page) / PAGE_SIZE);
	/* From here on, when nobody waits: programs go on upwards. */
	s->cursor = i;
	s->at = end > piece->start ? end - piece->start : 0;
	bring(p, s, page, page + PAGE_SIZE);
	if (!s->over)
		bring(p, s, window, end);
}

static void handle_event(struct pager *p, struct space *s, const struct uffd_msg *m)
{
	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		serve_fault(p, s, m->arg.pagefault.address);
		break;
	case UFFD_EVENT_FORK:
		add_child(p, s, (int)m->arg.fork.ufd);
		break;
	case UFFD_EVENT_REMAP:
		space_move(s, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		space_drop(s, m->arg.remove.start, m->arg.remove.end);
		break;
	default:
		break;
	}
}

static bool handle_one(struct pager *p, struct space *s)
{
	struct uffd_msg m;

	if (s->over || read(s->uffd, &m, sizeof(m)) != sizeof(m))
		return false;
	handle_event(p, s, &m);
	return true;
}

/* Not all that there may be: they can come as fast as they are read. */
static void handle_events(struct pager *p, struct space *s)
{
	for (int i = 0; i < EVENTS_AT_ONCE && handle_one(p, s); i++)
		;
}

/* What was touched the last time comes first, in that order. */
static bool bring_wanted(struct pager *p)
{
	if (p->next_wanted >= p->wanted.count)
		return false;
	const struct window *w = &p->wanted.data[p->next_wanted++];
	struct space *s = w->space < p->given ? p->spaces.data[w->space] : NULL;
	uint64_t address = s && !s->over && w->page < s->pages ? space_address_of(s, w->page) & ~(WINDOW - 1) : 0;
	if (address)
		bring(p, s, address, address + WINDOW);
	return true;
}

static bool bring_next(struct pager *p, struct space *s)
{
	size_t looked = 0;

	if (s->over || !s->left)
		return false;
	while (looked++ <= s->pieces.count) {
		if (s->cursor >= s->pieces.count)
			s->cursor = s->at = 0;
		if (s->cursor >= s->pieces.count)
			break;
		const struct piece *piece = &s->pieces.data[s->cursor];
		size_t page = piece->page + s->at / PAGE_SIZE, end = piece->page + (piece->end - piece->start) / PAGE_SIZE;
		while (page < end && space_is_done(s, page))
			page++;
		s->at = (page - piece->page) * PAGE_SIZE;
		if (page < end) {
			bring_run(p, s, piece->start + s->at, piece->end);
			return true;
		}
		s->cursor++;
		s->at = 0;
	}
	return true;
}

static void bring_some(struct pager *p)
{
	bool any = bring_wanted(p);

	for (size_t i = 0; !any && i < p->spaces.count; i++)
		any = bring_next(p, p->spaces.data[i]);
}

/* For how many ms the processors are still the program's. */
static int quiet_for(const struct pager *p)
{
	if (p->touched && !p->hurry)
		return LOOK_MS;
	const uint64_t now = now_ms(), until = MIN(MAX(p->begun + BEGIN_MS, p->touched_at + QUIET_MS), p->begun + QUIET_MAX_MS);
	size_t left = 0;

	for (size_t i = 0; i < p->spaces.count; i++)
		left += p->spaces.data[i]->left;
	if (p->hurry || left < LITTLE_PAGES || p->next_wanted < MIN(p->wanted.count, AT_ONCE) || now >= until)
		return 0;
	return (int)(until - now);
}

/* ---- the process ---- */

static void read_order(struct pager *p)
{
	_cleanup_close_ int fd = p->dir_fd < 0 ? -1 : openat(p->dir_fd, p->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	struct window w;

	while (fd >= 0 && p->wanted.count < ORDER_MAX && read(fd, &w, sizeof(w)) == sizeof(w)) {
		struct window *slot = VEC_PUSH(&p->wanted);
		if (slot)
			*slot = w;
	}
}

/* What came without being touched was wanted by the last order: it stays. */
static void write_order(struct pager *p)
{
	char path[64];

	if (p->dir_fd < 0 || p->wanted.count || !p->order.count)
		return;
	_cleanup_close_ int fd = openat(p->dir_fd, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	size_t size = p->order.count * sizeof(struct window);
	if (fd < 0 || write(fd, p->order.data, size) != (ssize_t)size)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (linkat(AT_FDCWD, path, p->dir_fd, p->name, AT_SYMLINK_FOLLOW) < 0)
		log_debug("the order of the pages can't be kept: %s", strerror(errno));
}

static size_t alive(const struct pager *p)
{
	size_t n = 0;

	for (size_t i = 0; i < p->spaces.count; i++)
		n += !p->spaces.data[i]->over;
	return n;
}

/* Whether anything happened within `ms`. */
static bool look_around(struct pager *p, int ms)
{
	size_t n = p->spaces.count;
	struct pollfd *fds = calloc(n + 1, sizeof(*fds));

	if (!fds)
		pager_give_up("out of memory");
	fds[n] = (struct pollfd){ .fd = p->hurry ? -1 : p->listener, .events = POLLIN };
	for (size_t i = 0; i < n; i++)
		fds[i] = (struct pollfd){ .fd = p->spaces.data[i]->over ? -1 : p->spaces.data[i]->uffd, .events = POLLIN };
	int ready = poll(fds, n + 1, ms);
	p->hurry |= ready > 0 && fds[n].revents;
	for (size_t i = 0; ready > 0 && i < n; i++) {
		if (fds[i].revents & POLLIN)
			handle_events(p, p->spaces.data[i]);
		else if (fds[i].revents)
			space_end(p->spaces.data[i]);
	}
	free(fds);
	return ready > 0;
}

/* Nothing tells that a process has ended, or has another address space by exec; any call does. From time to time, and when there are twice as many. */
static void look_for_ended(struct pager *p)
{
	if (now_ms() < p->looked_at + LOOK_MS && p->spaces.count < 2 * p->looked_count + FEW_SPACES)
		return;
	for (size_t i = 0; i < p->spaces.count; i++) {
		struct space *s = p->spaces.data[i];
		struct uffdio_zeropage none = { .range = { LAST_PAGE, PAGE_SIZE } }; /* nothing of theirs can be there */
		if (!s->over && ioctl(s->uffd, UFFDIO_ZEROPAGE, &none) < 0 && is_over(errno))
			space_end(s);
	}
	p->looked_at = now_ms();
	p->looked_count = alive(p);
}

/* Those of children, who come and go; the others have their numbers in the order. */
static void forget_ended(struct pager *p)
{
	size_t kept = p->given;

	for (size_t i = p->given; i < p->spaces.count; i++) {
		if (p->spaces.data[i]->over)
			free(p->spaces.data[i]);
		else
			p->spaces.data[kept++] = p->spaces.data[i];
	}
	p->spaces.count = kept;
}

struct pager *pager_new(const struct pager_lot *lot, int listener)
{
	struct pager *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	*p = (struct pager){ .dir_fd = lot->dir_fd, .name = lot->name, .buffer = malloc(STEP), .given = lot->n_spaces, .sources = lot->sources, .n_sources = lot->n_sources,
			     .readers = calloc(lot->n_sources, sizeof(*p->readers)), .touched = lot->touched, .listener = listener };
	if (!p->buffer || !p->readers)
		return NULL;
	for (size_t i = 0; i < lot->n_spaces; i++) {
		struct space **slot = VEC_PUSH(&p->spaces);
		if (!slot || !(*slot = space_new(&lot->spaces[i])))
			return NULL;
	}
	return p;
}

_Noreturn void pager_serve(struct pager *p)
{
	prctl(PR_SET_NAME, "fermata-lazy");
	prctl(PR_SET_TIMERSLACK, 1);
	read_order(p);
	p->begun = now_ms();
	while (alive(p)) {
		int quiet = quiet_for(p);
		bool quieter = !look_around(p, quiet);
		look_for_ended(p);
		if (!quiet || (quieter && !p->touched))
			bring_some(p);
		for (size_t i = 0; i < p->spaces.count; i++)
			if (!p->spaces.data[i]->left)
				space_end(p->spaces.data[i]);
		forget_ended(p);
	}
	write_order(p);
	_exit(0);
}
