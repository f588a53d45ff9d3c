/* See track.h. Numbers from the kernel's Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst. */
#include "engine/memory/track.h"

#include "engine/memory/stride.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/types.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define WP_UNPOPULATED (1ULL << 13)
#define WP_ASYNC (1ULL << 15)
#define FLAGS (O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY)
#define PROTECT_SIZE (64UL << 20) /* the kernel holds the address space meanwhile */
#define UNWATCH_WHOLE (64UL << 20) /* smaller areas are not cut */
#define UNWATCH_SIZE (16UL << 20)
#define WORDS 8192
#define LAST_PAGE ((1UL << 47) - 2 * PAGE_SIZE) /* the kernel gives it to nobody who does not ask for it */
#define GIANT_SIZE (1UL << 30)
#define NEAR (1UL << 20) /* to walk over so much takes as long as another call */

/* linux/fs.h has these since 6.7. */
struct region {
	uint64_t start, end, categories;
};
struct scan_arg {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define SCAN _IOWR('f', 16, struct scan_arg)
#define SCAN_PROTECT 1

static int enable(int uffd, bool asks)
{
	struct uffdio_api api = { .api = UFFD_API, .features = asks ? UFFD_FEATURE_PAGEFAULT_FLAG_WP : WP_ASYNC | WP_UNPOPULATED };

	return ioctl(uffd, UFFDIO_API, &api) < 0 ? -errno : 0;
}

int track_possible(void)
{
	_cleanup_close_ int uffd = (int)syscall(__NR_userfaultfd, FLAGS), maps = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct scan_arg arg = { .size = sizeof(arg) };

	return uffd < 0 || maps < 0 || enable(uffd, false) || ioctl(maps, SCAN, &arg) < 0 ? -ENOTSUP : 0;
}

struct question {
	struct agent_batch head;
	struct agent_op ops[8 + AGENT_RUN_EXTRA];
};
enum { OPEN, PID, TID, TELL, CLOSE, COUNT };

/*
 * One batch: open, tell, close. Between telling and closing the descriptor is taken. So when the coordinator dies, at whatever moment, the
 * process closes it by itself.
 */
static int ask_in_seat(struct dump *d, struct task *t, struct agent_seat *seat, bool asks)
{
	struct question q = { .head = { .count = COUNT } };
	struct tracee *leader = &t->threads.data[0]->tracee;
	struct agent_run run = { .seat = seat, .tracee = leader, .batch = &q.head, .size = sizeof(q) };
	int fd = -1;

	q.ops[OPEN] = (struct agent_op){ .nr = __NR_userfaultfd, .flags = AGENT_OP_MAY_FAIL, .arg = { asks ? FLAGS & ~UFFD_USER_MODE_ONLY : FLAGS } };
	q.ops[PID] = (struct agent_op){ .nr = __NR_getpid, .flags = AGENT_OP_MAY_FAIL };
	q.ops[TID] = (struct agent_op){ .nr = __NR_gettid, .flags = AGENT_OP_MAY_FAIL };
	q.ops[TELL] = (struct agent_op){ .nr = __NR_tgkill, .flags = AGENT_OP_MAY_FAIL | AGENT_OP_REF_ARG0 | AGENT_OP_REF_ARG0 << 1,
					 .arg = { PID, TID, (uint64_t)leader->quiet_signal } };
	q.ops[CLOSE] = (struct agent_op){ .nr = __NR_close, .flags = AGENT_OP_MAY_FAIL | AGENT_OP_REF_ARG0, .arg = { OPEN } };
	int r = agent_run_start(&run, d->e);
	if (r)
		return r;
	r = agent_run_until(&run, TELL + 1, d->e);
	if (!r && q.ops[OPEN].result < 0)
		r = task_errno(d, t, (int)q.ops[OPEN].result, "cannot watch its memory");
	if (!r && (fd = (int)syscall(__NR_pidfd_getfd, t->pidfd, (int)q.ops[OPEN].result, 0)) < 0)
		r = task_errno(d, t, -errno, "cannot take the descriptor that watches its memory");
	struct error why = {};
	int s = agent_run_finish(&run, &why);
	if (s && !r)
		*d->e = why;
	r = r ? r : s;
	if (!r && (r = enable(fd, asks)))
		task_errno(d, t, r, "cannot watch its memory");
	if (r && fd >= 0)
		close(fd);
	return r ? r : fd;
}

static int open_one(struct dump *d, struct task *t, bool asks)
{
	struct agent_seat seat;
	uint64_t hole = maps_find_hole(&t->maps, agent_seat_size(0)), slack = maps_find_slack(&t->maps, t->mem_fd);
	if (!hole || !slack)
		return task_error(d, t, -ENOTSUP, "no room for the agent (no vdso, or a full address space); boot without vdso=0");
	int r = agent_seat_take(&seat, &t->threads.data[0]->tracee, t->mem_fd, hole, 0, slack, d->e);
	if (!r)
		r = agent_seat_taken(&seat, d->e);
	if (r)
		return r;
	int fd = ask_in_seat(d, t, &seat, asks);
	struct error left = {};
	r = agent_seat_leave(&seat, &left);
	if (!r)
		r = agent_seat_left(&seat, &left);
	if (r && fd >= 0) {
		close(fd);
		*d->e = left;
		return r;
	}
	return fd;
}

int track_open(struct dump *d, struct task *t)
{
	return open_one(d, t, false);
}

int track_open_asking(struct dump *d, struct task *t)
{
	return open_one(d, t, true);
}

int track_watch(int uffd, uint64_t start, uint64_t end)
{
	struct uffdio_register reg = { .range = { start, end - start }, .mode = UFFDIO_REGISTER_MODE_WP };

	if (ioctl(uffd, UFFDIO_REGISTER, &reg) == 0)
		return 1;
	return errno == EBUSY || errno == ESRCH ? -errno : 0;
}

bool track_can_watch(const struct proc_vma *v)
{
	uint32_t status = vma_status(v);

	if (track_is_file(v)) /* of a device, or of huge pages, it is not */
		return !(v->prot & PROT_EXEC) && v->name && v->name[0] == '/' && (strncmp(v->name, "/dev/", 5) || !strncmp(v->name, "/dev/shm/", 9)) &&
		       strncmp(v->name, "/memfd:", 7);
	if (track_is_huge(v) && (v->start | v->end) % GIANT_SIZE == 0) /* a page may be larger than what is protected at once */
		return false;
	return status & VMA_ANON_PRIVATE && !(status & (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL));
}

bool track_is_huge(const struct proc_vma *v)
{
	return vma_status(v) & VMA_ANON_PRIVATE && v->inode;
}

bool track_is_file(const struct proc_vma *v)
{
	return vma_status(v) & VMA_FILE_PRIVATE;
}

/* To watch a page is done under the lock that excludes all others, also where there is none: at the very end of what a process can have. */
void track_wait_for_lock(int uffd)
{
	track_watch(uffd, LAST_PAGE, LAST_PAGE + PAGE_SIZE);
}

int track_unwatch(int uffd, uint64_t start, uint64_t end)
{
	struct stride stride = { .least = end - start > UNWATCH_WHOLE ? UNWATCH_SIZE : end - start };
	int r = 0;

	for (uint64_t at = start, step; at < end && r != -ESRCH; at += step) {
		step = MIN(stride_begin(&stride), end - at);
		struct uffdio_range range = { at, step };
		if (ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0)
			r = -errno;
		stride_end(&stride);
	}
	return r;
}

void track_unwatch_all(int uffd, const struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->count; i++) {
		const struct proc_vma *v = &maps->data[i];
		if (track_can_watch(v) && track_unwatch(uffd, v->start, v->end) == -ESRCH)
			return;
	}
}

static int add(struct track_runs *runs, const struct region *from)
{
	struct track_run *last = runs->count ? &runs->data[runs->count - 1] : NULL;

	if (last && last->end == from->start && last->what == from->categories) {
		last->end = from->end;
		return 0;
	}
	last = VEC_PUSH(runs);
	if (!last)
		return -ENOMEM;
	*last = (struct track_run){ from->start, from->end, (uint32_t)from->categories };
	return 0;
}

static int scan(int fd, struct scan_arg arg, struct track_runs *runs)
{
	struct region regions[512];

	arg.size = sizeof(arg);
	arg.vec = (uint64_t)regions;
	arg.vec_len = MIN(ARRAY_SIZE(regions), ALIGN_UP(arg.end - arg.start, PAGE_SIZE) / PAGE_SIZE + 1); /* which the kernel makes room for in each call */
	const uint64_t end = arg.end;
	struct stride stride = { .least = PROTECT_SIZE };
	while (arg.start < end) {
		if (arg.flags & SCAN_PROTECT)
			arg.end = arg.start + MIN(stride_begin(&stride), end - arg.start);
		int n = ioctl(fd, SCAN, &arg), r = 0;
		if (n < 0)
			return -errno;
		stride_end(&stride);
		for (int i = 0; i < n && !r; i++)
			r = add(runs, &regions[i]);
		if (r)
			return r;
		/* 0: there is no such address space any more. */
		if (arg.walk_end <= arg.start)
			return -ESRCH;
		arg.start = arg.walk_end;
	}
	return 0;
}

static const struct scan_arg collect_written = { .flags = SCAN_PROTECT, .category_mask = TRACK_WRITTEN,
						.category_anyof_mask = TRACK_PRESENT | TRACK_SWAPPED, .return_mask = TRACK_ZERO };
/* Only the exceptions are listed, in one walk: a third of the time of a list of what is there. */
static const struct scan_arg find_changes = { .category_inverted = TRACK_PRESENT, .category_anyof_mask = TRACK_PRESENT | TRACK_WRITTEN,
					      .return_mask = TRACK_PRESENT | TRACK_SWAPPED | TRACK_WRITTEN | TRACK_ZERO | TRACK_WATCHED };

static int scan_part(int fd, struct scan_arg how, uint64_t start, uint64_t end, struct track_runs *runs)
{
	how.start = start;
	how.end = end;
	return scan(fd, how, runs);
}

static int by_start(const void *a, const void *b)
{
	const struct track_run *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* Marks of an earlier watch, of an area that was taken from it (mremap(2) of its neighbour): with such a page looks protected, and is not. */
static bool has_old_marks(int uffd, const struct track_runs *runs, size_t first)
{
	bool found = false;

	for (size_t i = first; i < runs->count; i++) {
		const struct track_run *x = &runs->data[i];
		struct uffdio_writeprotect wp = { .range = { x->start, x->end - x->start } };
		if (x->what & TRACK_WRITTEN)
			continue;
		found = true;
		while (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) < 0 && errno == EAGAIN)
			;
	}
	return found;
}

int track_collect(int pagemap_fd, uint64_t start, uint64_t end, bool file, struct track_runs *runs)
{
	struct scan_arg how = collect_written;

	how.category_inverted = file ? TRACK_FILE : 0;
	how.category_mask = TRACK_WRITTEN | how.category_inverted;
	return scan_part(pagemap_fd, how, start, end, runs);
}

int track_collect_all(int uffd, int pagemap_fd, uint64_t start, uint64_t end, bool file, struct track_runs *runs)
{
	struct scan_arg how = collect_written;
	const size_t first = runs->count;

	how.category_inverted = how.category_mask = file ? TRACK_FILE : 0;
	how.return_mask |= TRACK_WRITTEN;
	int r = scan_part(pagemap_fd, how, start, end, runs);
	if (r || !has_old_marks(uffd, runs, first))
		return r;
	runs->count = first;
	return scan_part(pagemap_fd, how, start, end, runs);
}

bool track_is_watched(int pagemap_fd, uint64_t start, uint64_t end)
{
	/* The first page, or hole, tells. */
	struct region region;
	struct scan_arg arg = { .size = sizeof(arg), .start = start, .end = end, .vec = (uint64_t)&region, .vec_len = 1, .max_pages = 1,
				.category_mask = TRACK_WATCHED, .return_mask = TRACK_WATCHED };

	return ioctl(pagemap_fd, SCAN, &arg) > 0;
}

bool track_drop_marked(int uffd, int pagemap_fd, struct proc_vma *v)
{
	struct uffdio_range range = { v->start, v->end - v->start };
	struct region region;
	struct scan_arg marks = { .size = sizeof(marks), .start = v->start, .end = v->end, .vec = (uint64_t)&region, .vec_len = 1, .max_pages = 1,
				  .category_mask = TRACK_SWAPPED, .return_mask = TRACK_SWAPPED };

	if (!v->inode || ioctl(pagemap_fd, SCAN, &marks) <= 0 || ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0)
		return false;
	v->vmflags &= ~(uint64_t)(PROC_VMF_UW | PROC_VMF_UM);
	return true;
}

static bool is_empty(pid_t pid, uint64_t page)
{
	uint64_t buffer[WORDS];
	size_t size = 64; /* nearly always that tells */

	for (uint64_t at = page; at < page + TRACK_TABLE; at += size, size = sizeof(buffer)) {
		size = (size_t)MIN(size, page + TRACK_TABLE - at);
		struct iovec local = { buffer, size }, remote = { (void *)at, size };
		if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)size)
			return true;
		for (size_t i = 0; i < size / sizeof(*buffer); i++)
			if (buffer[i])
				return false;
	}
	return true;
}

int track_add_emptied(pid_t pid, uint64_t start, uint64_t end, struct track_runs *runs)
{
	const size_t count = runs->count;
	size_t i = 0;

	for (uint64_t page = start; page < end; page += TRACK_TABLE) {
		while (i < count && runs->data[i].end <= page)
			i++;
		if ((i < count && runs->data[i].start <= page) || !is_empty(pid, page))
			continue;
		struct track_run *run = VEC_PUSH(runs);
		if (!run)
			return -ENOMEM;
		*run = (struct track_run){ page, MIN(end, page + TRACK_TABLE), TRACK_PRESENT | TRACK_WRITTEN };
	}
	if (runs->count > count)
		qsort(runs->data, runs->count, sizeof(*runs->data), by_start);
	return 0;
}

int track_protected(int pagemap_fd, uint64_t start, uint64_t end, struct track_runs *runs)
{
	struct scan_arg arg = { .start = start, .end = end, .category_inverted = TRACK_WRITTEN, .category_mask = TRACK_WRITTEN,
				.category_anyof_mask = TRACK_PRESENT | TRACK_SWAPPED };

	return scan(pagemap_fd, arg, runs);
}

int track_changes(int pagemap_fd, uint64_t start, uint64_t end, bool file, struct track_runs *runs)
{
	struct scan_arg how = find_changes;
	const size_t first = runs->count;

	how.category_anyof_mask |= file ? TRACK_FILE : 0;
	how.return_mask |= file ? TRACK_FILE : 0;
	int r = scan_part(pagemap_fd, how, start, end, runs);
	for (size_t i = first; file && i < runs->count; i++)
		if (runs->data[i].what & TRACK_FILE)
			runs->data[i].what = TRACK_FILE;
	return r;
}

/* ---- where little has changed ---- */

/*
 * One question the kernel answers in a third of the time of any other: which pages are not protected. It counts those that are not there among them, but
 * where a whole page table lacks it says nothing. So who may have changed is found first, and all is asked of them alone.
 */
static int find_suspects(int fd, uint64_t start, uint64_t end, struct track_runs *runs)
{
	return scan_part(fd, (struct scan_arg){ .category_mask = TRACK_WRITTEN, .return_mask = TRACK_WRITTEN }, start, end, runs);
}

/* Two pages of our own, of which one is there, and protected. */
bool track_tells_holes(void)
{
	_cleanup_close_ int uffd = (int)syscall(__NR_userfaultfd, FLAGS), maps = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	char *pages = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	const uint64_t start = (uintptr_t)pages, end = start + 2 * PAGE_SIZE;
	struct track_runs protected = {}, found = {};
	bool tells = false;

	if (uffd < 0 || maps < 0 || pages == MAP_FAILED)
		return false;
	madvise(pages, 2 * PAGE_SIZE, MADV_NOHUGEPAGE);
	*(volatile char *)pages = 1;
	if (!enable(uffd, false) && track_watch(uffd, start, end) == 1 && !track_collect_all(uffd, maps, start, end, false, &protected) &&
	    !find_suspects(maps, start, end, &found))
		tells = protected.count == 1 && found.count == 1 && found.data[0].start == start + PAGE_SIZE && found.data[0].end == end;
	VEC_FREE(&protected);
	VEC_FREE(&found);
	munmap(pages, 2 * PAGE_SIZE);
	return tells;
}

/* What is near to each other takes one call. */
static int scan_suspects(int fd, const struct scan_arg *how, const struct track_runs *suspects, struct track_runs *runs)
{
	int r = 0;

	for (size_t i = 0, next; !r && i < suspects->count; i = next) {
		uint64_t end = suspects->data[i].end;
		for (next = i + 1; next < suspects->count && suspects->data[next].start <= end + NEAR; next++)
			end = MAX(end, suspects->data[next].end);
		r = scan_part(fd, *how, suspects->data[i].start, end, runs);
	}
	return r;
}

/* A page of each table that has pages which were there. */
struct asked {
	void *pages[512];
	int status[512];
	size_t count;
};

static int ask(pid_t pid, struct asked *a, uint64_t start, uint64_t end, struct track_runs *suspects)
{
	if (a->count && syscall(__NR_move_pages, pid, a->count, a->pages, NULL, a->status, 0) < 0)
		return -errno;
	for (size_t i = 0; i < a->count; i++) {
		const uint64_t table = (uint64_t)a->pages[i] & ~(TRACK_TABLE - 1);
		struct track_run *run = a->status[i] < 0 ? VEC_PUSH(suspects) : NULL;
		if (a->status[i] < 0 && !run)
			return -ENOMEM;
		if (run)
			*run = (struct track_run){ MAX(start, table), MIN(end, table + TRACK_TABLE), 0 };
	}
	a->count = 0;
	return 0;
}

static int find_gone(pid_t pid, uint64_t start, uint64_t end, const struct extents *stored, struct track_runs *suspects)
{
	struct asked a;
	int r = 0;

	a.count = 0;
	for (size_t i = extents_find(stored, start); !r && start < end && i < stored->count && stored->data[i].start < end; i++) {
		uint64_t at = MAX(start, stored->data[i].start);
		while (!r && at < MIN(end, stored->data[i].end)) {
			if (!a.count || ((uint64_t)a.pages[a.count - 1] ^ at) >= TRACK_TABLE)
				a.pages[a.count++] = (void *)at;
			at = (at & ~(TRACK_TABLE - 1)) + TRACK_TABLE;
			if (a.count == ARRAY_SIZE(a.pages))
				r = ask(pid, &a, start, end, suspects);
		}
	}
	return r ? r : ask(pid, &a, start, end, suspects);
}

/* 1: not every kernel can be asked so. */
static int find_all_suspects(pid_t pid, int pagemap_fd, uint64_t start, uint64_t end, const struct extents *stored, struct track_runs *suspects)
{
	int r = find_suspects(pagemap_fd, start, end, suspects);
	const size_t unprotected = suspects->count;

	if (r || find_gone(pid, start, end, stored, suspects))
		return r ? r : 1;
	if (suspects->count > unprotected)
		qsort(suspects->data, suspects->count, sizeof(*suspects->data), by_start);
	return 0;
}

int track_changes_of(pid_t pid, int pagemap_fd, uint64_t start, uint64_t end, const struct extents *stored, struct track_runs *runs)
{
	struct track_runs suspects = {};
	int r = find_all_suspects(pid, pagemap_fd, start, end, stored, &suspects);

	if (!r)
		r = scan_suspects(pagemap_fd, &find_changes, &suspects, runs);
	else if (r == 1)
		r = track_changes(pagemap_fd, start, end, false, runs);
	VEC_FREE(&suspects);
	return r;
}

int track_collect_of(pid_t pid, int pagemap_fd, uint64_t start, uint64_t end, const struct extents *stored, struct track_runs *changes, struct track_runs *written)
{
	struct track_runs tables = {};
	int r = find_suspects(pagemap_fd, start, end, changes);
	const size_t unprotected = changes->count;

	if (!r && find_gone(pid, start, end, stored, &tables)) {
		changes->count = tables.count = 0;
		r = track_changes(pagemap_fd, start, end, false, changes);
	}
	/* Who is not protected has changed; of a page table one of whose pages has gone the others may be there. */
	if (!r)
		r = scan_suspects(pagemap_fd, &find_changes, &tables, changes);
	VEC_FREE(&tables);
	if (changes->count > unprotected)
		qsort(changes->data, changes->count, sizeof(*changes->data), by_start);
	return r ? r : scan_suspects(pagemap_fd, &collect_written, changes, written);
}

int track_collect_few(int pagemap_fd, uint64_t start, uint64_t end, struct track_runs *runs)
{
	struct track_runs suspects = {};
	int r = find_suspects(pagemap_fd, start, end, &suspects);

	if (!r)
		r = scan_suspects(pagemap_fd, &collect_written, &suspects, runs);
	VEC_FREE(&suspects);
	return r;
}

int track_written(int pagemap_fd, uint64_t start, uint64_t end, bool file, uint64_t *size)
{
	struct track_runs suspects = {}, written = {};
	struct scan_arg how = collect_written;
	int r = file ? 0 : find_suspects(pagemap_fd, start, end, &suspects);

	how.flags = 0;
	how.category_inverted = file ? TRACK_FILE : 0;
	how.category_mask |= how.category_inverted;
	if (!r)
		r = file ? scan_part(pagemap_fd, how, start, end, &written) : scan_suspects(pagemap_fd, &how, &suspects, &written);
	for (size_t i = 0; i < written.count; i++)
		*size += written.data[i].end - written.data[i].start;
	VEC_FREE(&suspects);
	VEC_FREE(&written);
	return r;
}
