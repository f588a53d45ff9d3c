/* See pager.h. */
#include "engine/memory/pager.h"

#include "base/log.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/ioprio.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
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
#define CHECK_NICE 10
#define NAME_PREFIX "fermata-lazy-"

/* A range of addresses whose pages come from one place; pieces are ascending and do not overlap. `page`: the number of its first page, in the
 * space's count of them, which stays when mremap(2) moves it. */
struct piece {
	uint64_t start, end, offset;
	size_t page, source;
};

struct space {
	int uffd;
	pid_t pid;
	VEC(struct piece) pieces;
	struct piece *given; /* as they were at first, by which windows of an order are found; or NULL */
	size_t n_given;
	unsigned char *done; /* a bit a page */
	size_t pages, left, cursor; /* cursor: a piece */
	uint64_t at;		    /* where in that piece */
	uint64_t next, ahead;	    /* where the last touch's window ended, and how much it was */
	bool first;		    /* of those that were given, not a child's */
	bool over;
};

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

static _Noreturn void give_up(const char *why)
{
	log_error("cannot bring the pages of a lazy restore: %s", why);
	_exit(1);
}

static bool is_done(const struct space *s, size_t page)
{
	return s->done[page / 8] & 1u << page % 8;
}

static void set_done(struct space *s, size_t page)
{
	if (is_done(s, page))
		return;
	s->done[page / 8] |= (unsigned char)(1u << page % 8);
	s->left--;
}

/* The first piece that ends behind the address. */
static size_t find_piece(const struct space *s, uint64_t address)
{
	size_t low = 0, high = s->pieces.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (s->pieces.data[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void end_space(struct space *s)
{
	if (s->over)
		return;
	s->over = true;
	s->left = 0;
	close(s->uffd);
	VEC_FREE(&s->pieces);
	free(TAKE_PTR(s->given));
	free(TAKE_PTR(s->done));
}

/* ---- what processes do with their memory ---- */

static void insert_piece(struct space *s, size_t at, struct piece p)
{
	if (!VEC_PUSH(&s->pieces))
		give_up("out of memory");
	memmove(&s->pieces.data[at + 1], &s->pieces.data[at], (s->pieces.count - 1 - at) * sizeof(p));
	s->pieces.data[at] = p;
}

/* No piece reaches over `address` any more. */
static void cut_at(struct space *s, uint64_t address)
{
	size_t i = find_piece(s, address);

	if (i == s->pieces.count || s->pieces.data[i].start >= address)
		return;
	struct piece rest = s->pieces.data[i];
	s->pieces.data[i].end = address;
	rest.offset += address - rest.start;
	rest.page += (address - rest.start) / PAGE_SIZE;
	rest.start = address;
	insert_piece(s, i + 1, rest);
}

/* Takes the pieces within the range out. They go to `moved`, or their pages are wanted no more. */
static void take_range(struct space *s, uint64_t start, uint64_t end, struct piece **moved, size_t *count)
{
	size_t first, last;

	cut_at(s, start);
	cut_at(s, end);
	first = find_piece(s, start);
	last = find_piece(s, end - 1);
	last += last < s->pieces.count && s->pieces.data[last].start < end;
	if (first >= last)
		return;
	if (moved) {
		*moved = malloc((last - first) * sizeof(**moved));
		if (!*moved)
			give_up("out of memory");
		memcpy(*moved, &s->pieces.data[first], (last - first) * sizeof(**moved));
		*count = last - first;
	} else {
		for (size_t i = first; i < last; i++)
			for (uint64_t at = s->pieces.data[i].start; at < s->pieces.data[i].end; at += PAGE_SIZE)
				set_done(s, s->pieces.data[i].page + (at - s->pieces.data[i].start) / PAGE_SIZE);
	}
	memmove(&s->pieces.data[first], &s->pieces.data[last], (s->pieces.count - last) * sizeof(struct piece));
	s->pieces.count -= last - first;
	s->cursor = s->at = 0;
}

static void drop_range(struct space *s, uint64_t start, uint64_t end)
{
	take_range(s, start, end, NULL, NULL);
}

static void move_range(struct space *s, uint64_t from, uint64_t to, uint64_t size)
{
	struct piece *moved = NULL;
	size_t count = 0;

	take_range(s, from, from + size, &moved, &count);
	drop_range(s, to, to + size);
	for (size_t i = 0; i < count; i++) {
		moved[i].start += to - from;
		moved[i].end += to - from;
		insert_piece(s, find_piece(s, moved[i].start), moved[i]);
	}
	free(moved);
}

/* A child has what its parent has, and lacks what that lacks. */
static void add_child(struct pager *p, const struct space *parent, int uffd)
{
	struct space *s = calloc(1, sizeof(*s)), **slot = VEC_PUSH(&p->spaces);

	if (!s || !slot || p->spaces.count > SPACES_MAX)
		give_up("too many processes");
	*s = *parent;
	*slot = s;
	s->uffd = uffd;
	s->first = false;
	s->given = NULL;
	s->pieces.data = NULL;
	s->pieces.count = s->pieces.capacity = 0;
	s->done = malloc(s->pages / 8 + 1);
	if (!s->done)
		give_up("out of memory");
	memcpy(s->done, parent->done, s->pages / 8 + 1);
	for (size_t i = 0; i < parent->pieces.count; i++)
		insert_piece(s, i, parent->pieces.data[i]);
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
				end_space(s);
			return;
		}
	}
}

/* Whether the pages from `first` on still belong at an address, and the buffer has them. */
static bool is_still(const struct pager *p, const struct space *s, uint64_t address, size_t size, size_t first, uint64_t filled)
{
	size_t i = s->over || p->filled != filled ? SIZE_MAX : find_piece(s, address);
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
		end_space(s);
		return 0;
	}
	give_up(strerror(error));
}

static struct image_reader *reader_of(struct pager *p, size_t source)
{
	const struct image_raw *packed = p->sources[source].packed;

	for (size_t i = 0; i < p->n_sources && !p->readers[source]; i++)
		if (p->readers[i] && image_raw_is_beside(p->sources[i].packed, packed))
			p->readers[source] = p->readers[i];
	if (!p->readers[source] && image_raw_reader_new(packed, &p->readers[source]))
		give_up("out of memory");
	return p->readers[source];
}

static void read_pages(struct pager *p, size_t source, uint64_t at, size_t size)
{
	const struct pager_source *from = &p->sources[source];

	p->filled++;
	if (from->packed) {
		if (image_raw_read(from->packed, reader_of(p, source), p->buffer, size, at))
			give_up("the checkpoint is damaged, or can't be read any more");
		return;
	}
	for (size_t done = 0; done < size;) {
		ssize_t n = pread(from->fd, p->buffer + done, size - done, (off_t)(at + done));
		if (n <= 0)
			give_up("the checkpoint can't be read any more");
		done += (size_t)n;
	}
}

/* Pages that lack from `address` on, in one piece, up to `end`. */
static void bring_run(struct pager *p, struct space *s, uint64_t address, uint64_t end)
{
	const size_t i = find_piece(s, address);
	const struct piece *piece = &s->pieces.data[i];
	size_t size = 0, first = piece->page + (address - piece->start) / PAGE_SIZE;

	while (address + size < end && size < STEP && !is_done(s, first + size / PAGE_SIZE))
		size += PAGE_SIZE;
	read_pages(p, piece->source, piece->offset + (address - piece->start), size);
	size_t n = put(p, s, address, size, first);
	for (size_t k = 0; !s->over && k < n / PAGE_SIZE; k++)
		set_done(s, first + k);
}

/* What lacks in [start, end), as far as one piece goes; what changes meanwhile is left for the next time. */
static void bring(struct pager *p, struct space *s, uint64_t start, uint64_t end)
{
	for (uint64_t at = start; !s->over && at < end;) {
		size_t i = find_piece(s, at);
		if (i == s->pieces.count || s->pieces.data[i].start >= end)
			return;
		const struct piece *piece = &s->pieces.data[i];
		at = MAX(at, piece->start);
		if (is_done(s, piece->page + (at - piece->start) / PAGE_SIZE)) {
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
	size_t i = find_piece(s, page);
	const struct piece *piece = i < s->pieces.count ? &s->pieces.data[i] : NULL;

	if (!piece || piece->start > page) {
		serve_zero(p, s, page);
		return;
	}
	size_t number = piece->page + (page - piece->start) / PAGE_SIZE;
	if (is_done(s, number)) {
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
		move_range(s, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		drop_range(s, m->arg.remove.start, m->arg.remove.end);
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

/* ---- when nobody waits ---- */

/* Where a page is, if it is still where it was. Otherwise 0. */
static uint64_t address_of(const struct space *s, size_t page)
{
	size_t low = 0, high = s->n_given;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (s->given[middle].page + (s->given[middle].end - s->given[middle].start) / PAGE_SIZE <= page)
			low = middle + 1;
		else
			high = middle;
	}
	uint64_t address = low < s->n_given ? s->given[low].start + (page - s->given[low].page) * PAGE_SIZE : 0;
	size_t i = address ? find_piece(s, address) : 0;
	const struct piece *now = address && i < s->pieces.count ? &s->pieces.data[i] : NULL;
	return now && now->start <= address && now->page + (address - now->start) / PAGE_SIZE == page ? address : 0;
}

/* What was touched the last time comes first, in that order. */
static bool bring_wanted(struct pager *p)
{
	if (p->next_wanted >= p->wanted.count)
		return false;
	const struct window *w = &p->wanted.data[p->next_wanted++];
	struct space *s = w->space < p->given ? p->spaces.data[w->space] : NULL;
	uint64_t address = s && !s->over && w->page < s->pages ? address_of(s, w->page) & ~(WINDOW - 1) : 0;
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
		while (page < end && is_done(s, page))
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

/* ---- others that ask ---- */

/* Numbers of processes are those of a namespace. */
static unsigned long own_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/pid", &st) < 0 ? 0 : (unsigned long)st.st_ino;
}

/* Whoever connects waits for the end of pager and guard, and nothing else: nobody accepts. */
static int listen_for_others(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int n = snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, NAME_PREFIX "%lu-%d", own_namespace(), (int)getpid());
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd >= 0 && (bind(fd, (struct sockaddr *)&name, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) < 0 || listen(fd, 8) < 0)) {
		close(fd);
		return -1;
	}
	return fd;
}

static int finish_one(const char *name, size_t length)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct ucred peer;
	socklen_t size = sizeof(peer);
	char byte;

	if (fd < 0 || length >= sizeof(to.sun_path))
		return 0;
	memcpy(to.sun_path + 1, name, length);
	if (connect(fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid != 0)
		return 0;
	/* Its end is the end of the connection. */
	while (recv(fd, &byte, 1, 0) < 0 && errno == EINTR)
		;
	return 1;
}

/* Whether a guard, by the rest of its name, is of our namespace and holds a descriptor of a process. */
static bool is_of(const char *guard, pid_t pid)
{
	char path[64], line[64], wanted[32];
	struct dirent *entry;
	bool found = false;
	char *end;

	if (strtoul(guard, &end, 10) != own_namespace() || *end != '-')
		return false;
	snprintf(path, sizeof(path), "/proc/%ld/fdinfo", strtol(end + 1, NULL, 10));
	snprintf(wanted, sizeof(wanted), "Pid:\t%d\n", (int)pid);
	DIR *dir = opendir(path);
	while (dir && !found && (entry = readdir(dir))) {
		_cleanup_close_ int fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
		_cleanup_fclose_ FILE *f = fd < 0 ? NULL : fdopen(dup(fd), "r");
		while (f && !found && fgets(line, sizeof(line), f))
			found = !strcmp(line, wanted);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* All, or those of one process. */
static int finish(pid_t pid)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/net/unix", "re");
	char line[400];
	int found = 0;

	while (f && fgets(line, sizeof(line), f)) {
		const char *name = strstr(line, " @" NAME_PREFIX);
		if (name && (!pid || is_of(name + 2 + strlen(NAME_PREFIX), pid)))
			found += finish_one(name + 2, strcspn(name + 2, " \n"));
	}
	return found;
}

int pager_finish(pid_t pid)
{
	int found = finish(pid);

	return found ? found : finish(0);
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
		give_up("out of memory");
	fds[n] = (struct pollfd){ .fd = p->hurry ? -1 : p->listener, .events = POLLIN };
	for (size_t i = 0; i < n; i++)
		fds[i] = (struct pollfd){ .fd = p->spaces.data[i]->over ? -1 : p->spaces.data[i]->uffd, .events = POLLIN };
	int ready = poll(fds, n + 1, ms);
	p->hurry |= ready > 0 && fds[n].revents;
	for (size_t i = 0; ready > 0 && i < n; i++) {
		if (fds[i].revents & POLLIN)
			handle_events(p, p->spaces.data[i]);
		else if (fds[i].revents)
			end_space(p->spaces.data[i]);
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
			end_space(s);
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

static _Noreturn void serve(struct pager *p)
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
				end_space(p->spaces.data[i]);
		forget_ended(p);
	}
	write_order(p);
	_exit(0);
}

static struct space *make_space(const struct pager_space *from)
{
	struct space *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->uffd = from->uffd;
	s->pid = from->pid;
	s->first = true;
	for (size_t i = 0; i < from->count; i++) {
		struct piece *piece = VEC_PUSH(&s->pieces);
		if (!piece)
			return NULL;
		*piece = (struct piece){ from->extents[i].start, from->extents[i].end, from->extents[i].offset, s->pages, from->extents[i].source };
		s->pages += (piece->end - piece->start) / PAGE_SIZE;
	}
	s->left = s->pages;
	s->done = calloc(1, s->pages / 8 + 1);
	s->n_given = s->pieces.count;
	s->given = malloc((s->n_given + 1) * sizeof(*s->given));
	if (!s->done || !s->given)
		return NULL;
	for (size_t i = 0; i < s->n_given; i++)
		s->given[i] = s->pieces.data[i];
	return s;
}

static int next_kept(const int *kept, size_t count, int from)
{
	int next = INT32_MAX;

	for (size_t i = 0; i < count; i++)
		if (kept[i] >= from)
			next = MIN(next, kept[i]);
	return next;
}

/* Whatever else the caller had is closed: the other end of a pipe, say, which the processes wait to see closed. */
static void close_others(const int *kept, size_t count)
{
	for (int fd = 3; fd < INT32_MAX;) {
		int next = next_kept(kept, count, fd);
		if (next > fd)
			syscall(__NR_close_range, fd, next == INT32_MAX ? ~0U : (unsigned int)next - 1, 0);
		fd = next == INT32_MAX ? next : next + 1;
	}
}

static void leave_caller(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct stat st;
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	/* A log file stays; pipes and terminals would seem to be in use. */
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		if (fd == 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
			dup2(null, fd);
	if (null > 2)
		close(null);
	log_setup(-1, STDERR_FILENO);
}

/* Kills those whose memory can't be had. A descriptor of the process is the caller's way to be sure that it is still the same. */
static void end_processes(const struct pager_space *spaces, size_t count, const int *pidfds, const char *why)
{
	for (size_t i = 0; i < count; i++) {
		log_error("process %d is ended: %s", (int)spaces[i].pid, why);
		syscall(__NR_pidfd_send_signal, pidfds[i], SIGKILL, NULL, 0);
	}
}

static bool is_damaged(const struct pager_source *sources, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (sources[i].digest.size && image_digest_check(sources[i].fd, sources[i].packed, &sources[i].digest))
			return true;
	return false;
}

/* For the processors, which the kernel may share out between sessions first (autogroup), and for the disk. */
static void set_priority(pid_t pid, int nice)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/autogroup", (int)pid);
	_cleanup_close_ int group = open(path, O_WRONLY | O_CLOEXEC);
	if ((group >= 0 && dprintf(group, "%d", nice) < 0) || setpriority(PRIO_PROCESS, (id_t)pid, nice) < 0 ||
	    syscall(__NR_ioprio_set, IOPRIO_WHO_PROCESS, pid, IOPRIO_PRIO_VALUE(nice ? IOPRIO_CLASS_IDLE : IOPRIO_CLASS_NONE, 0)) < 0)
		log_debug("the priority of process %d can't be set: %s", (int)pid, strerror(errno));
}

/* As long as one has them, the memory is watched; the program may see that. */
static void close_watched(const struct pager_lot *all)
{
	for (size_t i = 0; i < all->n_spaces; i++)
		close(all->spaces[i].uffd);
}

/* A process of its own, since the guard must see at once when the pager dies. */
static pid_t start_check(const struct pager_lot *all)
{
	pid_t guard = getpid(), pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "fermata-check");
	if (getppid() != guard)
		_exit(0);
	close_watched(all);
	setsid();
	set_priority(getpid(), CHECK_NICE);
	_exit(is_damaged(all->sources, all->n_sources) ? 2 : 0);
}

static _Noreturn void guard(const struct pager_lot *all, const int *pidfds, pid_t pager)
{
	const char *why = NULL;
	int status;

	prctl(PR_SET_NAME, "fermata-guard");
	pid_t check = start_check(all), pid;
	if (check < 0 && is_damaged(all->sources, all->n_sources))
		why = "its pages were altered since they were written (checksum): the checkpoint is damaged";
	for (int left = 1 + (check > 0); left && !why;) {
		pid = waitpid(-1, &status, 0);
		if (pid < 0 && errno != EINTR)
			break;
		left -= pid == pager || pid == check;
		if (pid == pager && (!WIFEXITED(status) || WEXITSTATUS(status)))
			why = "the process that brought its memory has died";
		else if (pid == check && WIFEXITED(status) && WEXITSTATUS(status) == 2)
			why = "its pages were altered since they were written (checksum): the checkpoint is damaged";
		else if (pid == pager)
			close_watched(all);
		if (pid == pager && check > 0)
			set_priority(check, 0); /* all the memory is there: nobody is in its way */
	}
	if (why) {
		end_processes(all->spaces, all->n_spaces, pidfds, why);
		kill(pager, SIGKILL);
		if (check > 0)
			kill(check, SIGKILL);
	}
	while (waitpid(-1, &status, 0) > 0 || errno == EINTR)
		;
	if (all->waiter)
		_exit(send(all->waiter, why ? "1" : "", 1, MSG_NOSIGNAL) != 1);
	_exit(0);
}

/* Descriptors that stay. Those of packed sources: where several are of one archive, each time. */
static int keep_own(const struct pager_lot *all, const int *pidfds, int started)
{
	size_t n = 0, room = 2 * all->n_spaces + all->n_sources + 3;

	for (size_t i = 0; i < all->n_sources; i++)
		room += all->sources[i].packed ? image_raw_adopt(all->sources[i].packed, NULL, 0) : 0;
	_cleanup_free_ int *kept = malloc(room * sizeof(*kept));
	if (!kept)
		return -ENOMEM;
	for (size_t i = 0; i < all->n_spaces; i++) {
		kept[n++] = all->spaces[i].uffd;
		kept[n++] = pidfds[i];
	}
	for (size_t i = 0; i < all->n_sources; i++) {
		kept[n++] = all->sources[i].fd;
		n += all->sources[i].packed ? image_raw_adopt(all->sources[i].packed, &kept[n], room - n) : 0;
	}
	kept[n++] = all->dir_fd;
	kept[n++] = all->waiter;
	kept[n++] = started;
	close_others(kept, n);
	return 0;
}

static _Noreturn void become_guard(const struct pager_lot *all, const int *pidfds, int started)
{
	struct pager p = { .dir_fd = all->dir_fd, .name = all->name, .buffer = malloc(STEP), .given = all->n_spaces, .sources = all->sources,
			   .n_sources = all->n_sources, .readers = calloc(all->n_sources, sizeof(*p.readers)), .touched = all->touched };
	char ok = 0;

	leave_caller();
	if (!p.buffer || !p.readers || keep_own(all, pidfds, started))
		_exit(1);
	for (size_t i = 0; i < all->n_spaces; i++) {
		struct space **slot = VEC_PUSH(&p.spaces);
		if (!slot || !(*slot = make_space(&all->spaces[i])))
			_exit(1);
	}
	p.listener = listen_for_others();
	if (p.listener < 0)
		_exit(1);
	pid_t pid = fork();
	if (pid < 0 || (pid && write(started, &ok, 1) != 1))
		_exit(1);
	close(started);
	if (pid)
		guard(all, pidfds, pid);
	serve(&p);
}

int pager_start(const struct pager_lot *lot, struct error *e)
{
	_cleanup_free_ int *pidfds = malloc((lot->n_spaces + 1) * sizeof(*pidfds));
	int ready[2];
	char byte;

	if (!pidfds)
		return error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < lot->n_spaces; i++)
		pidfds[i] = (int)syscall(__NR_pidfd_open, lot->spaces[i].pid, 0);
	if (pipe2(ready, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	pid_t pid = fork();
	if (pid == 0) {
		close(ready[0]);
		become_guard(lot, pidfds, ready[1]);
	}
	int r = pid < 0 ? -errno : 0;
	close(ready[1]);
	if (!r && read(ready[0], &byte, 1) != 1)
		r = -ECHILD;
	close(ready[0]);
	for (size_t i = 0; i < lot->n_spaces; i++)
		if (pidfds[i] >= 0)
			close(pidfds[i]);
	return r ? error_errno(e, r, "cannot start the process that brings pages") : 0;
}
