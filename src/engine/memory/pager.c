/* See pager.h. */
#include "engine/memory/pager.h"

#include "base/log.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define WINDOW (64UL << 10)  /* what a touched page brings along */
#define STEP (512UL << 10)   /* what is brought at a time when nobody waits */
#define ORDER_MAX (64UL << 10) /* windows that are noted */
#define SPACES_MAX 4096
#define GUARD_NICE 5
#define NAME_PREFIX "fermata-lazy-"

/* A range of addresses whose pages come from one place; pieces are ascending and do not overlap. `page`: the number of its first page, in the
 * space's count of them, which stays when mremap(2) moves it. */
struct piece {
	uint64_t start, end, offset;
	size_t page;
};

struct space {
	int uffd, fd;
	const struct image_raw *raw; /* in place of `fd` */
	pid_t pid;
	VEC(struct piece) pieces;
	unsigned char *done; /* a bit a page */
	size_t pages, left, cursor; /* cursor: a piece */
	uint64_t at;		    /* where in that piece */
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
	struct image_reader *reader; /* of what is packed */
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

static void handle_events(struct pager *p, struct space *s);

/* Nobody has the memory any more. */
static bool is_over(int error)
{
	return error == ESRCH || error == EBADF;
}

/* Zeroes where nothing was saved. */
static void serve_zero(struct pager *p, struct space *s, uint64_t address)
{
	struct uffdio_zeropage zero = { .range = { address & PAGE_MASK, PAGE_SIZE } };

	while (!s->over && ioctl(s->uffd, UFFDIO_ZEROPAGE, &zero) < 0) {
		if (errno == EAGAIN) {
			handle_events(p, s);
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

/* Gives the number of bytes that are settled: there, or not wanted any more. 0: the memory has changed, look again. */
static size_t put(struct pager *p, struct space *s, uint64_t address, size_t size)
{
	struct uffdio_copy copy = { .dst = address, .src = (uint64_t)p->buffer, .len = size };

	if (ioctl(s->uffd, UFFDIO_COPY, &copy) == 0)
		return size;
	int error = errno;
	if (copy.copy > 0)
		return (size_t)copy.copy;
	if (error == EAGAIN) {
		handle_events(p, s);
		return 0;
	}
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

static void read_pages(struct pager *p, const struct space *s, uint64_t at, size_t size)
{
	if (s->raw) {
		if (image_raw_read(s->raw, p->reader, p->buffer, size, at))
			give_up("the checkpoint is damaged, or can't be read any more");
		return;
	}
	for (size_t done = 0; done < size;) {
		ssize_t n = pread(s->fd, p->buffer + done, size - done, (off_t)(at + done));
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
	read_pages(p, s, piece->offset + (address - piece->start), size);
	size_t n = put(p, s, address, size);
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

static void note_order(struct pager *p, const struct space *s, size_t page)
{
	struct window *w = s->first && p->order.count < ORDER_MAX ? VEC_PUSH(&p->order) : NULL;

	for (size_t i = 0; w && i < p->given; i++)
		if (p->spaces.data[i] == s)
			*w = (struct window){ (uint32_t)i, (uint32_t)page };
}

static void serve_fault(struct pager *p, struct space *s, uint64_t address)
{
	const uint64_t page = address & PAGE_MASK, window = address & ~(WINDOW - 1);
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
	note_order(p, s, number);
	/* From here on, when nobody waits: programs go on upwards. */
	s->cursor = i;
	s->at = window + WINDOW > piece->start ? window + WINDOW - piece->start : 0;
	bring(p, s, page, page + PAGE_SIZE);
	if (!s->over)
		bring(p, s, window, window + WINDOW);
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

static void handle_events(struct pager *p, struct space *s)
{
	struct uffd_msg m;

	while (!s->over && read(s->uffd, &m, sizeof(m)) == sizeof(m))
		handle_event(p, s, &m);
}

/* ---- when nobody waits ---- */

/* Where a page is now. 0: nowhere. */
static uint64_t address_of(const struct space *s, size_t page)
{
	VEC_FOREACH(&s->pieces, piece)
		if (page >= piece->page && page < piece->page + (piece->end - piece->start) / PAGE_SIZE)
			return piece->start + (page - piece->page) * PAGE_SIZE;
	return 0;
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

static bool bring_some(struct pager *p)
{
	bool any = bring_wanted(p);

	for (size_t i = 0; !any && i < p->spaces.count; i++)
		any = bring_next(p, p->spaces.data[i]);
	return any;
}

/* ---- others that ask ---- */

/* Whoever connects waits for the end of pager and guard, and nothing else: nobody accepts. */
static int listen_for_others(void)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int n = snprintf(name.sun_path + 1, sizeof(name.sun_path) - 1, NAME_PREFIX "%d", (int)getpid());
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

int pager_finish_all(void)
{
	_cleanup_fclose_ FILE *f = fopen("/proc/net/unix", "re");
	char line[400];
	int found = 0;

	while (f && fgets(line, sizeof(line), f)) {
		const char *name = strstr(line, " @" NAME_PREFIX);
		if (name)
			found += finish_one(name + 2, strcspn(name + 2, " \n"));
	}
	return found;
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

static void look_around(struct pager *p)
{
	struct pollfd *fds = calloc(p->spaces.count, sizeof(*fds));
	size_t n = p->spaces.count;

	if (!fds)
		give_up("out of memory");
	for (size_t i = 0; i < n; i++)
		fds[i] = (struct pollfd){ .fd = p->spaces.data[i]->over ? -1 : p->spaces.data[i]->uffd, .events = POLLIN };
	int ready = poll(fds, n, 0);
	for (size_t i = 0; ready > 0 && i < n; i++) {
		if (fds[i].revents & POLLIN)
			handle_events(p, p->spaces.data[i]);
		else if (fds[i].revents)
			end_space(p->spaces.data[i]);
	}
	free(fds);
}

static _Noreturn void serve(struct pager *p)
{
	prctl(PR_SET_NAME, "fermata-lazy");
	read_order(p);
	while (alive(p)) {
		look_around(p);
		bring_some(p);
		for (size_t i = 0; i < p->spaces.count; i++)
			if (!p->spaces.data[i]->left)
				end_space(p->spaces.data[i]);
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
	s->fd = from->pages_fd;
	s->raw = from->pages;
	s->pid = from->pid;
	s->first = true;
	for (size_t i = 0; i < from->count; i++) {
		struct piece *piece = VEC_PUSH(&s->pieces);
		if (!piece)
			return NULL;
		*piece = (struct piece){ from->extents[i].start, from->extents[i].end, from->extents[i].offset, s->pages };
		s->pages += (piece->end - piece->start) / PAGE_SIZE;
	}
	s->left = s->pages;
	s->done = calloc(1, s->pages / 8 + 1);
	return s->done ? s : NULL;
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

static bool is_damaged(const struct pager_space *spaces, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (spaces[i].digest.size && image_digest_check(spaces[i].pages_fd, spaces[i].pages, &spaces[i].digest))
			return true;
	return false;
}

/* A process of its own, since the guard must see at once when the pager dies. */
static pid_t start_check(const struct pager_space *spaces, size_t count)
{
	pid_t guard = getpid(), pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "fermata-check");
	if (getppid() != guard)
		_exit(0);
	/* As long as somebody has them, the memory is watched. */
	for (size_t i = 0; i < count; i++)
		close(spaces[i].uffd);
	if (nice(GUARD_NICE) < 0)
		errno = 0;
	_exit(is_damaged(spaces, count) ? 2 : 0);
}

static _Noreturn void guard(const struct pager_space *spaces, size_t count, const int *pidfds, pid_t pager)
{
	const char *why = NULL;
	int status;

	prctl(PR_SET_NAME, "fermata-guard");
	pid_t check = start_check(spaces, count), pid;
	if (check < 0 && is_damaged(spaces, count))
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
	}
	if (why) {
		end_processes(spaces, count, pidfds, why);
		kill(pager, SIGKILL);
		if (check > 0)
			kill(check, SIGKILL);
	}
	while (waitpid(-1, &status, 0) > 0 || errno == EINTR)
		;
	/* Before the socket: who waits for that finds the memory unwatched. */
	for (size_t i = 0; i < count; i++)
		close(spaces[i].uffd);
	_exit(0);
}

/* The image that is packed; all are of one checkpoint. */
static const struct image_raw *find_packed(const struct pager_space *spaces, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (spaces[i].pages)
			return spaces[i].pages;
	return NULL;
}

static int keep_own(const struct pager_space *spaces, size_t count, const int *pidfds, int dir_fd, int started)
{
	const struct image_raw *packed = find_packed(spaces, count);
	size_t n = 0, more = packed ? image_raw_adopt(packed, NULL, 0) : 0;
	int *kept = malloc((3 * count + 2 + more) * sizeof(*kept));

	if (!kept)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		kept[n++] = spaces[i].uffd;
		kept[n++] = spaces[i].pages_fd;
		kept[n++] = pidfds[i];
	}
	kept[n++] = dir_fd;
	kept[n++] = started;
	if (packed)
		n += image_raw_adopt(packed, &kept[n], more);
	close_others(kept, n);
	free(kept);
	return 0;
}

static _Noreturn void become_guard(const struct pager_space *spaces, size_t count, const int *pidfds, int dir_fd, const char *name,
					   int started)
{
	const struct image_raw *packed = find_packed(spaces, count);
	struct pager p = { .dir_fd = dir_fd, .name = name, .buffer = malloc(STEP), .given = count };
	char ok = 0;

	leave_caller();
	if (!p.buffer || keep_own(spaces, count, pidfds, dir_fd, started) || (packed && image_raw_reader_new(packed, &p.reader)))
		_exit(1);
	for (size_t i = 0; i < count; i++) {
		struct space **slot = VEC_PUSH(&p.spaces);
		if (!slot || !(*slot = make_space(&spaces[i])))
			_exit(1);
	}
	if (listen_for_others() < 0)
		_exit(1);
	pid_t pid = fork();
	if (pid < 0 || (pid && write(started, &ok, 1) != 1))
		_exit(1);
	close(started);
	if (pid)
		guard(spaces, count, pidfds, pid);
	serve(&p);
}

int pager_start(const struct pager_space *spaces, size_t count, int dir_fd, const char *name, struct error *e)
{
	_cleanup_free_ int *pidfds = malloc((count + 1) * sizeof(*pidfds));
	int ready[2];
	char byte;

	if (!pidfds)
		return error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < count; i++)
		pidfds[i] = (int)syscall(__NR_pidfd_open, spaces[i].pid, 0);
	if (pipe2(ready, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	pid_t pid = fork();
	if (pid == 0) {
		close(ready[0]);
		become_guard(spaces, count, pidfds, dir_fd, name, ready[1]);
	}
	int r = pid < 0 ? -errno : 0;
	close(ready[1]);
	if (!r && read(ready[0], &byte, 1) != 1)
		r = -ECHILD;
	close(ready[0]);
	for (size_t i = 0; i < count; i++)
		if (pidfds[i] >= 0)
			close(pidfds[i]);
	return r ? error_errno(e, r, "cannot start the process that brings pages") : 0;
}
