/*
 * io_uring(7), dump side. What is in a ring is read through a mapping of our own; sizes, registered files and buffers, and how much was
 * submitted and completed come from fdinfo (Linux 6.0). How a ring was set up nothing tells: calls that fail in different ways, or do
 * nothing, find out (capture_setup, task/ask.c).
 *
 * Requests under way are made again by those of the restored tree (uring_requests.h); where they can't be seen, a ring that has as many completions as it had
 * submissions is taken to have none, if nothing stands in its lists of what waits, since a request may complete more than once (multishot).
 *
 * Flags that can't be told and change nothing that a program may count on are left out or set: IORING_SETUP_SUBMIT_ALL is set;
 * COOP_TASKRUN, TASKRUN_FLAG, CLAMP, ATTACH_WQ are not. A ring without an array (NO_SQARRAY) gets one that leads each entry to itself. Left out
 * also, where the kernel's memory can't be read: groups of buffers before Linux 6.8, and with a number above 39 where only one thread submits; limits of workers (IORING_REGISTER_IOWQ_MAX_WORKERS), their processors, and the clock that timeouts go by.
 */
#include "engine/kinds/uring.h"
#include "engine/kinds/uring_files.h"
#include "engine/kinds/uring_requests.h"

#include "base/pool.h"
#include "engine/kernel.h"
#include "engine/kinds/anon.h"
#include "engine/kinds/tcp.h"
#include "engine/task/inside.h"
#include "engine/task/task.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/mman.h>

#define NAME "anon_inode:[io_uring]"
#define GROUPS 65536
#define PAUSE_NS 1000000
#define FDINFO_MAX (4UL << 20)
#define WAIT_NS 1000000000LL

#define refuse(d, f, format, ...) \
	fd_error(d, f, -ENOTSUP, "is an io_uring ring with " format ", which is not saved", ##__VA_ARGS__)

struct seen {
	ino_t ino;
	uint32_t id;
	/* Of one with a thread of the kernel: to look at once more at the end; -1. */
	int fd;
	uint32_t submitted, completed, sq_entries, cq_entries;
	struct uring_layout layout;
};

struct state {
	VEC(struct seen) seen;
	struct uring_symbols symbols;
};

extern const struct kind kind_uring;

/* ---- common ---- */

int uring_setup(uint32_t setup, uint32_t sq_entries, uint32_t cq_entries, struct uring_layout *ret, int *ret_fd)
{
	struct io_uring_params p = { .flags = setup | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL, .cq_entries = cq_entries };
	int fd = (int)syscall(__NR_io_uring_setup, sq_entries, &p);

	if (fd < 0 && errno == EINVAL) { /* before Linux 5.18 */
		p = (struct io_uring_params){ .flags = setup | IORING_SETUP_CQSIZE, .cq_entries = cq_entries };
		fd = (int)syscall(__NR_io_uring_setup, sq_entries, &p);
	}
	if (fd < 0)
		return -errno;
	if (p.sq_entries != sq_entries || p.cq_entries != cq_entries) {
		close(fd);
		return -EINVAL;
	}
	*ret = (struct uring_layout){ p.sq_off, p.cq_off };
	*ret_fd = fd;
	return 0;
}

size_t uring_ring_size(const struct uring_layout *l, uint32_t sq_entries)
{
	return l->sq.array + sq_entries * sizeof(uint32_t);
}

size_t uring_sqes_size(uint32_t sq_entries)
{
	return sq_entries * sizeof(struct io_uring_sqe);
}

uint32_t *uring_word(void *ring, uint32_t offset)
{
	return (uint32_t *)((char *)ring + offset);
}

/* ---- which rings there are ---- */

static bool is_ring(const struct proc_vma *v)
{
	return v->name && !strcmp(v->name, NAME);
}

static bool is_same(const struct task *table, int fd, const struct uring_place *p)
{
	return syscall(__NR_kcmp, table->proc, p->table->proc, KCMP_FILE, fd, p->fd) == 0;
}

/* One in the table of a thread may be known from the process's. */
static bool is_listed(const struct task *t, const struct task *table, int fd)
{
	VEC_FOREACH(&t->urings, p)
		if (p->table != table && is_same(table, fd, p))
			return true;
	return false;
}

static int list_table(struct dump *d, struct task *t, const struct task *table)
{
	struct proc_fds fds = {};
	int r = proc_list_fds(table->proc, &fds);

	if (r)
		return task_errno(d, t, r, "cannot list its descriptors");
	for (size_t i = 0; i < fds.count && t->urings.count < URINGS_MAX; i++) {
		char path[64], link[64];
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", table->proc, fds.data[i]);
		ssize_t n = readlink(path, link, sizeof(link));
		if (n != sizeof(NAME) - 1 || memcmp(link, NAME, sizeof(NAME) - 1) || is_listed(t, table, fds.data[i]))
			continue;
		struct uring_place *slot = VEC_PUSH(&t->urings);
		if (!slot)
			r = error_set(d->e, -ENOMEM, "out of memory");
		else
			*slot = (struct uring_place){ table, fds.data[i] };
	}
	VEC_FREE(&fds);
	return r;
}

int uring_list(struct dump *d, struct task *t)
{
	const struct task *table;
	bool mapped = false;
	int r = 0;

	for (size_t i = 0; i < t->maps.count && !mapped; i++)
		mapped = is_ring(&t->maps.data[i]);
	for (size_t i = 0; !r && mapped && (table = files_table(t, i)); i++)
		r = list_table(d, t, table);
	return r;
}

int uring_number(const struct task *t, const struct thread *th, size_t index)
{
	const struct uring_place *p = &t->urings.data[index];
	const struct task *table = th->table ? th->table : t;

	if (p->table == table)
		return p->fd;
	for (size_t i = 0; th->table && i < table->view.fds.count; i++)
		if (is_same(table, table->view.fds.data[i], p))
			return table->view.fds.data[i];
	return -1;
}

uint32_t uring_find(struct dump *d, const struct proc_vma *vma)
{
	struct state *s = *kind_state(d, &kind_uring);

	if (!is_ring(vma) || !s)
		return 0;
	VEC_FOREACH(&s->seen, x)
		if (x->ino == vma->inode)
			return x->id;
	return 0;
}

/* ---- one ring ---- */

struct ring {
	UringEntry e;
	const struct task *numbers;   /* the table that what was registered is told by the numbers of: */
	const struct thread *submitter; /* of who will register it again */
	struct uring_layout layout;
	void *ring, *sqes;
	size_t ring_size, sqes_size;
	struct uring_done_list done;
};

/* What fdinfo says now: since it was read, the agent was in the process, for which the kernel may have completed some requests. */
static int refresh(struct descriptor *f)
{
	char path[64], *text;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", f->own_fd);
	int r = read_file_at(AT_FDCWD, path, FDINFO_MAX, &text, NULL);
	if (r)
		return r;
	free(f->fdinfo);
	f->fdinfo = text;
	return 0;
}

static bool number_of(const struct descriptor *f, const char *key, uint32_t *ret)
{
	const char *text = fdinfo_value(f, key);

	if (text)
		*ret = (uint32_t)strtoul(text, NULL, 0);
	return text != NULL;
}

/* Whether there is a line between that of a key and the next key. */
static bool has_list(const struct descriptor *f, const char *key)
{
	const char *text = fdinfo_value(f, key), *end = text ? strchr(text, '\n') : NULL;

	return end && (end[1] == ' ' || end[1] == '\t');
}

/* What tells a setup flag without doing anything: an argument that only rings without IORING_SETUP_IOPOLL look at; completions, which
 * only the submitter may ask for with IORING_SETUP_DEFER_TASKRUN; a ring that was not enabled does nothing at all. */
static uint32_t probe_setup(int fd)
{
	struct io_uring_getevents_arg bad = { .ts = 1 };
	uint32_t setup = 0;

	if (syscall(__NR_io_uring_enter, fd, 0, 0, 0, NULL, 0) < 0 && errno == EBADFD)
		return IORING_SETUP_R_DISABLED;
	if (syscall(__NR_io_uring_enter, fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0) < 0 && errno == EEXIST)
		return IORING_SETUP_DEFER_TASKRUN;
	/* More completions than there can be, or Linux before 6.13 would not look at the time either. */
	if (syscall(__NR_io_uring_enter, fd, 0, UINT32_MAX, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &bad, sizeof(bad)) >= 0)
		setup |= IORING_SETUP_IOPOLL;
	return setup;
}

/* By the kernel's memory; where that can't be read, by asking for each number. */
static bool has_buffer_groups(struct dump *d, int fd)
{
	struct kernel *k = dump_kernel(d);
	const int at = k ? kernel_offset(k, "io_ring_ctx", "io_bl_xa.xa_head") : -1;
	uint64_t ring, first;

	if (at >= 0 && !kernel_file(k, fd, &ring) && !inside_follow(d, &ring, "file", "private_data") && !kernel_read(k, ring + (uint64_t)at, &first, sizeof(first)))
		return first != 0;
	for (uint32_t group = 0; group < GROUPS; group++) {
		uint32_t status[10] = { group };
		if (syscall(__NR_io_uring_register, fd, URING_PBUF_STATUS, status, 1) == 0)
			return true;
		if (errno == EEXIST || (errno != ENOENT && !group)) /* not ours to ask; not known here */
			return false;
		if (errno == EINVAL)
			return true; /* of the older sort */
	}
	return false;
}

/* Which descriptor is told of completions. */
static int capture_eventfd(struct dump *d, struct descriptor *f, struct ring *r)
{
	const struct task *t = r->numbers;
	struct kernel *k = dump_kernel(d);
	uint64_t told = 0, table, file;
	uint32_t async;
	int at = k ? kernel_offset(k, "io_ev_fd", "eventfd_async") : -1;

	if (at < 0 || kernel_file(k, f->own_fd, &told) || inside_follow(d, &told, "file", "private_data") || inside_follow(d, &told, "io_ring_ctx", "io_ev_fd") ||
	    kernel_read(k, told + (uint64_t)at, &async, sizeof(async)) || inside_follow(d, &told, "io_ev_fd", "cq_ev_fd") || !told ||
	    inside_thread(d, r->submitter, "files", &table, sizeof(table)) || inside_follow(d, &table, "files_struct", "fdt") ||
	    inside_follow(d, &table, "fdtable", "fd"))
		return refuse(d, f, "an eventfd that is told of completions, where the kernel's memory can't be read");
	for (size_t i = 0; i < t->view.fds.count; i++) {
		if (kernel_read(k, table + (uint64_t)t->view.fds.data[i] * 8, &file, sizeof(file)) || inside_follow(d, &file, "file", "private_data") || file != told)
			continue;
		r->e.has_eventfd = r->e.has_eventfd_async = 1;
		r->e.eventfd = (uint32_t)t->view.fds.data[i];
		r->e.eventfd_async = async & 1;
		return 0;
	}
	return refuse(d, f, "an eventfd that is told of completions and has no descriptor any more");
}

/* Whether another process has the ring, as a descriptor or a mapping. */
static const struct task *find_other(struct dump *d, const struct descriptor *f)
{
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		if (t->pid == f->task->pid || t->state == TASK_DEAD)
			continue;
		for (size_t k = 0; k < t->maps.count; k++)
			if (is_ring(&t->maps.data[k]) && t->maps.data[k].inode == f->st.st_ino)
				return t;
		for (size_t k = 0; k < t->view.fds.count; k++)
			if (syscall(__NR_kcmp, f->task->proc, t->proc, KCMP_FILE, f->fd, t->view.fds.data[k]) == 0)
				return t;
	}
	return NULL;
}

/* Whether the thread that submits does so with the effective ids and capabilities that the process has now: 1, 0 or an error. */
static int has_own_creds(struct dump *d, struct descriptor *f, uint64_t ring)
{
	static const char *const members[] = { "euid", "egid", "fsuid", "fsgid", "cap_effective" };
	uint64_t its = ring, own;
	int r = inside_follow(d, &its, "io_ring_ctx", "sq_creds");

	if (!r)
		r = inside_thread(d, f->task->threads.data[0], "cred", &own, sizeof(own));
	for (size_t i = 0; !r && i < ARRAY_SIZE(members); i++) {
		const int at = kernel_offset(d->kernel, "cred", members[i]);
		const size_t size = i == ARRAY_SIZE(members) - 1 ? 8 : 4;
		uint64_t a = 0, b = 0;
		r = at < 0 ? -ENOTSUP : kernel_read(d->kernel, its + (uint64_t)at, &a, size);
		if (!r)
			r = kernel_read(d->kernel, own + (uint64_t)at, &b, size);
		if (!r && a != b)
			return 0;
	}
	return r ? r : 1;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Until its thread has taken what was submitted: nobody submits more, and nothing comes that it waits for. */
static int wait_for_thread(struct dump *d, struct descriptor *f, const struct ring *r)
{
	const struct timespec pause = { 0, PAUSE_NS };
	uint32_t head;
	int s = tcp_hold_back(d);

	for (const int64_t end = now_ns() + WAIT_NS; !s && now_ns() < end;) {
		if (!refresh(f) && number_of(f, "CachedSqHead", &head) && head == *uring_word(r->ring, r->layout.sq.tail))
			return 0;
		nanosleep(&pause, NULL);
	}
	return s ? s : refuse(d, f, "entries that its thread (IORING_SETUP_SQPOLL) does not take");
}

/* A thread of the kernel submits: it is made by the process that is to have the ring, which must be alone with it. */
static int capture_polled(struct dump *d, struct descriptor *f, struct ring *r, uint32_t thread)
{
	struct kernel *k = dump_kernel(d);
	const int flags_at = k ? kernel_offset(k, "io_ring_ctx", "flags") : -1, idle_at = k ? kernel_offset(k, "io_ring_ctx", "sq_thread_idle") : -1;
	const struct task *other = find_other(d, f);
	struct timespec tick;
	uint32_t flags, jiffies;
	uint64_t ring;
	char path[64];

	if (flags_at < 0 || idle_at < 0 || kernel_file(k, f->own_fd, &ring) || inside_follow(d, &ring, "file", "private_data") ||
	    kernel_read(k, ring + (uint64_t)flags_at, &flags, sizeof(flags)) || kernel_read(k, ring + (uint64_t)idle_at, &jiffies, sizeof(jiffies)))
		return refuse(d, f, "a thread of the kernel that submits (IORING_SETUP_SQPOLL), where the kernel's memory can't be read");
	snprintf(path, sizeof(path), "/proc/%d/task/%u", f->task->proc, thread);
	if (access(path, F_OK))
		return refuse(d, f, "a thread of the kernel that submits (IORING_SETUP_SQPOLL) for a process that had it before");
	if (f->task->table_of || syscall(__NR_kcmp, f->task->proc, thread, KCMP_FILES, 0, 0))
		return refuse(d, f, "a thread of the kernel that submits (IORING_SETUP_SQPOLL) by the descriptors of one thread (unshare)");
	if (other)
		return refuse(d, f, "a thread of the kernel that submits (IORING_SETUP_SQPOLL), and process %d has the ring too", other->pid);
	if (r->e.setup & IORING_SETUP_R_DISABLED)
		return refuse(d, f, "a thread of the kernel that is to submit (IORING_SETUP_SQPOLL), and is not enabled yet");
	const int own = has_own_creds(d, f, ring);
	if (own < 1)
		return refuse(d, f, "a thread of the kernel that submits (IORING_SETUP_SQPOLL) with %s", own ? "credentials that can't be read" : "other credentials than the process has by now");
	clock_getres(CLOCK_MONOTONIC_COARSE, &tick); /* how long a jiffy is */
	r->e.setup |= IORING_SETUP_SQPOLL | (flags & IORING_SETUP_SQ_AFF);
	r->e.has_sq_thread_idle = 1;
	r->e.sq_thread_idle = (uint32_t)((uint64_t)jiffies * (uint64_t)tick.tv_nsec / 1000000);
	r->e.has_sq_thread_cpu = (flags & IORING_SETUP_SQ_AFF) != 0 && number_of(f, "SqThreadCpu", &r->e.sq_thread_cpu);
	return wait_for_thread(d, f, r);
}

/* `submitter`: the only one that may. Any other ring is made by who has the table in which it was found. */
static void set_submitter(const struct descriptor *f, struct ring *r, const struct thread *submitter)
{
	const struct task *t = f->task;

	r->e.has_submitter = (r->e.setup & IORING_SETUP_SINGLE_ISSUER) != 0;
	r->e.submitter = submitter ? (uint32_t)submitter->tid : 0;
	r->submitter = r->e.has_submitter && submitter ? submitter : t->threads.data[0];
	for (size_t i = 0; t->table_of && !r->e.has_submitter && i < t->threads.count; i++)
		if (t->threads.data[i]->tid == t->table_of)
			r->submitter = t->threads.data[i];
	r->numbers = r->submitter->table ? r->submitter->table : r->submitter->task;
}

/* Setup flags, who submits, and what else was registered, from the threads' answers. */
static int capture_setup(struct dump *d, struct descriptor *f, struct ring *r)
{
	struct task *t = f->task;
	const struct thread *submitter = NULL;
	size_t k = 0, asked = 0, refused = 0;
	uint32_t thread = UINT32_MAX;
	bool tells = false;

	r->e.setup = probe_setup(f->own_fd);
	int polled = number_of(f, "SqThread", &thread) && thread != UINT32_MAX ? capture_polled(d, f, r, thread) : 0;
	if (polled)
		return polled;
	if (has_list(f, "Personalities"))
		return refuse(d, f, "registered credentials");
	while (k < t->urings.count && (t->urings.data[k].table->proc != t->proc || t->urings.data[k].fd != f->fd))
		k++;
	if (k == t->urings.count)
		return f->fd < 0 ? refuse(d, f, "a descriptor under way in a socket") : refuse(d, f, "no mapping, or as one of more than %d", URINGS_MAX);
	for (size_t i = 0; i < t->threads.count; i++) {
		const struct thread *th = t->threads.data[i];
		int answer = th->answers.uring[k];
		if (answer == URING_LACKS)
			continue;
		asked++;
		refused += answer == -EEXIST;
		tells |= answer == -EBUSY;
		if (answer == -EACCES)
			return refuse(d, f, "restrictions");
		if (answer != -EEXIST)
			submitter = th;
	}
	if (refused && refused + 1 != asked)
		return refuse(d, f, "a submitter that is none of the process's threads");
	if (refused || r->e.setup & IORING_SETUP_DEFER_TASKRUN)
		r->e.setup |= IORING_SETUP_SINGLE_ISSUER;
	/* With one thread nobody was refused: we are. */
	if (syscall(__NR_io_uring_register, f->own_fd, IORING_REGISTER_EVENTFD, NULL, 0) < 0 && errno == EEXIST)
		r->e.setup |= IORING_SETUP_SINGLE_ISSUER;
	set_submitter(f, r, submitter);
	if (r->e.setup & IORING_SETUP_SQPOLL && r->e.setup & IORING_SETUP_SINGLE_ISSUER && r->e.submitter != (uint32_t)t->threads.data[0]->tid)
		return refuse(d, f, "a thread of the kernel that submits (IORING_SETUP_SQPOLL) for one thread alone, and not the main one");
	if (t->uring_groups >> k & 1 || has_buffer_groups(d, f->own_fd))
		return refuse(d, f, "groups of buffers that it may choose from");
	return tells ? capture_eventfd(d, f, r) : 0;
}

static bool all_zero(const uint8_t *from, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (from[i])
			return false;
	return true;
}

/* What is mapped at an offset, as far as it goes: one without an array may be a page shorter. By way of a file, since reading beyond it
 * would be the end of us. */
static int copy_mapping(int fd, off_t offset, size_t size, void *to)
{
	_cleanup_close_ int file = memfd_create("ring", MFD_CLOEXEC);
	void *at = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, offset);

	if (at == MAP_FAILED && size > PAGE_SIZE) /* Linux before 6.14 maps no more than there is */
		at = mmap(NULL, size -= PAGE_SIZE, PROT_READ, MAP_SHARED, fd, offset);
	if (at == MAP_FAILED || file < 0)
		return -errno;
	ssize_t n = pwrite(file, at, size, 0);
	int r = n < 0 ? -errno : pread(file, to, (size_t)n, 0) == n ? 0 : -EIO;
	munmap(at, size);
	return r;
}

static int copy_ring(const struct descriptor *f, struct ring *r)
{
	int s = copy_mapping(f->own_fd, IORING_OFF_SQ_RING, ALIGN_UP(r->ring_size, PAGE_SIZE), r->ring);

	return s ? s : copy_mapping(f->own_fd, IORING_OFF_SQES, ALIGN_UP(r->sqes_size, PAGE_SIZE), r->sqes);
}

/* Reads it, and looks whether it is laid out as rings usually are. */
static int read_ring(struct dump *d, struct descriptor *f, struct ring *r)
{
	uint32_t mask, cq_mask;
	int scratch;

	if (!number_of(f, "SqMask", &mask) || !number_of(f, "CqMask", &cq_mask) || !fdinfo_value(f, "UserBufs"))
		return fd_error(d, f, -ENOTSUP, "is an io_uring ring, and the kernel does not tell its state (Linux 6.0)");
	r->e.sq_entries = mask + 1;
	r->e.cq_entries = cq_mask + 1;
	int s = uring_setup(0, r->e.sq_entries, r->e.cq_entries, &r->layout, &scratch);
	if (s)
		return fd_errno(d, f, s, "is an io_uring ring; a ring of its size can't be made");
	close(scratch);
	r->ring_size = uring_ring_size(&r->layout, r->e.sq_entries);
	r->sqes_size = uring_sqes_size(r->e.sq_entries);
	size_t end = ALIGN_UP(r->ring_size, PAGE_SIZE), sqes_end = ALIGN_UP(r->sqes_size, PAGE_SIZE);
	r->ring = calloc(1, end);
	r->sqes = calloc(1, sqes_end);
	if (!r->ring || !r->sqes)
		return error_set(d->e, -ENOMEM, "out of memory");
	if (copy_ring(f, r))
		return refuse(d, f, "memory of the program's own (IORING_SETUP_NO_MMAP)");
	const uint32_t *array = uring_word(r->ring, r->layout.sq.array);
	bool odd = !all_zero((uint8_t *)r->ring + r->ring_size, end - r->ring_size) ||
		   !all_zero((uint8_t *)r->sqes + r->sqes_size, sqes_end - r->sqes_size);
	for (uint32_t i = 0; i < r->e.sq_entries; i++)
		odd |= array[i] >= r->e.sq_entries;
	return odd ? refuse(d, f, "entries of another size (IORING_SETUP_SQE128, IORING_SETUP_CQE32)") : 0;
}

/* Whether the list of what waits for a moment has something. */
static bool has_timeouts(struct dump *d, const struct descriptor *f)
{
	struct kernel *k = dump_kernel(d);
	uint64_t ring, first;
	int at = k ? kernel_offset(k, "io_ring_ctx", "timeout_list") : -1;

	if (at < 0 || kernel_file(k, f->own_fd, &ring) || inside_follow(d, &ring, "file", "private_data") ||
	    kernel_read(k, ring + (uint64_t)at, &first, sizeof(first)))
		return false;
	return first != ring + (uint64_t)at;
}

/* How far it has come, and what is under way. Where the kernel's memory can't be read that must be nothing: as many have completed as were submitted. */
static int capture_requests(struct dump *d, struct descriptor *f, struct ring *r, struct pool *pool)
{
	struct state *state = *kind_state(d, &kind_uring);
	struct uring_counts counts = {};

	if (!number_of(f, "CachedSqHead", &counts.submitted) || !number_of(f, "CachedCqTail", &counts.completed))
		return fd_error(d, f, -ENOTSUP, "is an io_uring ring, and the kernel does not tell its state (Linux 6.0)");
	if (*uring_word(r->ring, r->layout.sq.dropped) || *uring_word(r->ring, r->layout.cq.overflow) || has_list(f, "CqOverflowList"))
		return refuse(d, f, "lost or overflown completions");
	r->e.submitted = counts.submitted;
	r->e.completed = counts.completed;
	r->e.has_completed = counts.completed != counts.submitted;
	int s = uring_requests_capture(d, f, &counts, &state->symbols, &r->e, &r->done, pool);
	if (s != -ENOSYS)
		return s;
	if (r->e.has_completed || has_list(f, "PollList") || has_timeouts(d, f))
		return refuse(d, f, "requests under way (%u submitted, %u completed) that this kernel does not let be looked at (it takes BTF, BPF and CAP_BPF); try again when they are done",
			      counts.submitted, counts.completed);
	return 0;
}

/* "    0: 0x7f0000000000/4096", below "UserBufs:	1". */
static int capture_buffers(struct dump *d, struct descriptor *f, struct ring *r, struct pool *pool)
{
	uint32_t count = 0;
	const char *line = fdinfo_value(f, "UserBufs");

	if (!number_of(f, "UserBufs", &count) || !count)
		return 0;
	r->e.buffers = pool_take(pool, count * sizeof(*r->e.buffers));
	if (!r->e.buffers)
		return error_set(d->e, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < count; i++) {
		UringBuffer *b = r->e.buffers[i] = pool_take(pool, sizeof(*b));
		uint32_t index = UINT32_MAX;
		unsigned long long address = 0;
		if (!b)
			return error_set(d->e, -ENOMEM, "out of memory");
		uring_buffer__init(b);
		line = line ? strchr(line, '\n') : NULL;
		line = line ? line + 1 : "";
		if (sscanf(line, "%u: %llx/%u", &index, &address, &b->length) < 1 || index != i)
			return fd_error(d, f, -ENOTSUP, "is an io_uring ring, and the kernel does not tell its buffers");
		if (address == UINT64_MAX) /* as Linux before 6.13 shows an empty place */
			address = b->length = 0;
		b->address = address;
	}
	r->e.n_buffers = count;
	return 0;
}

/* As seq_file has it: octal for what would not be seen. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
			*to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

/* By its address in the kernel: of which only the last part of the name is told (no path, and no "pipe:[123]" either), or which has its name in common
 * with others, as the ends of a pipe. */
static int find_by_address(struct dump *d, struct descriptor *f, const struct task *table, const struct proc_fds *fds, struct uring_files **files, uint32_t index, const char *name, int32_t *ret)
{
	int r = *files ? 0 : uring_files_open(f, table, fds, files);

	if (!r)
		r = uring_files_find(*files, index, ret);
	if (r)
		return fd_errno(d, f, r == -ENOMEM ? r : -ENOTSUP, "is an io_uring ring with the registered file %s, of which this kernel tells no more than that, without BTF, BPF and CAP_BPF; use a newer one",
				name);
	return *ret < 0 ? refuse(d, f, "the registered file %s, which no descriptor refers to any more,", name) : 0;
}

/* The descriptor of the table that has that name. */
static int find_file(struct dump *d, struct descriptor *f, const struct task *t, const struct proc_fds *fds, struct uring_files **files, uint32_t index, const char *name, int32_t *ret)
{
	*ret = -1;
	for (size_t i = 0; i < fds->count; i++) {
		char path[64], link[4200];
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", t->proc, fds->data[i]);
		ssize_t n = readlink(path, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		if (strcmp(link, name))
			continue;
		if (*ret >= 0 && syscall(__NR_kcmp, t->proc, t->proc, KCMP_FILE, *ret, fds->data[i]))
			return find_by_address(d, f, t, fds, files, index, name, ret);
		*ret = fds->data[i];
	}
	return *ret < 0 ? refuse(d, f, "the registered file %s, which no descriptor refers to any more,", name) : 0;
}

/* "    0: /tmp/data", below "UserFiles:	1". */
static int capture_registered(struct dump *d, struct descriptor *f, struct ring *r, struct pool *pool)
{
	struct proc_fds fds = {};
	struct uring_files *files = NULL;
	uint32_t count = 0;
	const char *line = fdinfo_value(f, "UserFiles");

	if (!number_of(f, "UserFiles", &count) || !count)
		return 0;
	r->e.files = pool_take(pool, count * sizeof(*r->e.files));
	int s = r->e.files ? proc_list_fds(r->numbers->proc, &fds) : -ENOMEM;
	if (s)
		return task_errno(d, f->task, s, "cannot list its descriptors");
	/* Empty places are not shown, or as <none>. */
	for (uint32_t i = 0; i < count; i++)
		r->e.files[i] = -1;
	while (!s && (line = strchr(line, '\n')) && line++) {
		char name[4200];
		uint32_t index;
		int n = 0;
		if (*line != ' ' || sscanf(line, "%u: %n", &index, &n) < 1 || !n || index >= count)
			break;
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(line + n, "\n"), line + n);
		if (!strcmp(name, "<none>"))
			continue;
		unescape(name);
		s = name[0] == '/' || strchr(name, ':') ? find_file(d, f, r->numbers, &fds, &files, index, name, &r->e.files[index])
							: find_by_address(d, f, r->numbers, &fds, &files, index, name, &r->e.files[index]);
	}
	uring_files_close(files);
	r->e.n_files = count;
	VEC_FREE(&fds);
	return s;
}

/* Threads that have registered the ring's descriptor for themselves: nothing tells which ring it is, where there are several. */
static int capture_slots(struct dump *d, struct descriptor *f, struct ring *r, struct pool *pool)
{
	struct task *t = f->task;
	size_t count = 0;

	for (size_t i = 0; i < t->threads.count; i++)
		count += (size_t)__builtin_popcount(t->threads.data[i]->answers.uring_slots);
	if (!count)
		return 0;
	for (size_t i = 1; i < t->urings.count; i++)
		if (!is_same(t->urings.data[i].table, t->urings.data[i].fd, &t->urings.data[0]))
			return refuse(d, f, "a registered descriptor, and is one of several rings,");
	r->e.slots = pool_take(pool, count * sizeof(*r->e.slots));
	for (size_t i = 0; r->e.slots && i < t->threads.count; i++)
		for (uint32_t k = 0; k < URING_SLOTS_MAX; k++) {
			if (!(t->threads.data[i]->answers.uring_slots & 1U << k))
				continue;
			UringSlot *slot = r->e.slots[r->e.n_slots] = pool_take(pool, sizeof(*slot));
			if (!slot)
				return error_set(d->e, -ENOMEM, "out of memory");
			r->e.n_slots++;
			uring_slot__init(slot);
			slot->tid = (uint32_t)t->threads.data[i]->tid;
			slot->index = k;
		}
	return r->e.slots ? 0 : error_set(d->e, -ENOMEM, "out of memory");
}

/* How far it has come, what is under way, and what stands in it, of one moment: a thread of the kernel is not stopped. */
static int capture_moment(struct dump *d, struct descriptor *f, struct ring *r, struct pool *pool)
{
	const struct timespec pause = { 0, PAUSE_NS };
	const int64_t end = now_ns() + WAIT_NS;
	const bool polled = r->e.setup & IORING_SETUP_SQPOLL;
	uint32_t before[2] = {};

	for (bool first = true;; first = false) {
		int s = refresh(f);
		if (s)
			return fd_errno(d, f, s, "is an io_uring ring; cannot read its fdinfo");
		r->e.n_requests = r->done.count = 0;
		s = capture_requests(d, f, r, pool);
		if (s)
			return s;
		s = copy_ring(f, r);
		if (s)
			return fd_errno(d, f, s, "is an io_uring ring; cannot read it");
		const uint32_t now[2] = { *uring_word(r->ring, r->layout.sq.head), *uring_word(r->ring, r->layout.cq.tail) };
		const bool same = now[0] == r->e.submitted && now[1] == uring_completed(&r->e);
		/* What was on its way to it when connections were held back has arrived by the second time. */
		if (same && (!polled || (!first && !memcmp(now, before, sizeof(now)))))
			return 0;
		memcpy(before, now, sizeof(now));
		if (now_ns() >= end)
			return fd_error(d, f, -EAGAIN, "is an io_uring ring whose requests complete just now; try again");
		nanosleep(&pause, NULL);
	}
}

/* Completions that were not told yet go behind those that were. */
static int add_done(struct dump *d, struct descriptor *f, struct ring *r)
{
	struct io_uring_cqe *cqes = (struct io_uring_cqe *)((char *)r->ring + r->layout.cq.cqes);
	uint32_t *tail = uring_word(r->ring, r->layout.cq.tail);

	if (r->e.cq_entries - (*tail - *uring_word(r->ring, r->layout.cq.head)) < r->done.count)
		return refuse(d, f, "more completions to come than it has room for");
	for (size_t i = 0; i < r->done.count; i++)
		cqes[(*tail)++ & (r->e.cq_entries - 1)] = r->done.data[i];
	r->e.completed = *tail;
	r->e.has_completed = *tail != r->e.submitted;
	return 0;
}

static int capture_ring(struct dump *d, struct descriptor *f, struct ring *r, struct pool *pool)
{
	FileEntry entry = FILE_ENTRY__INIT;
	int s = refresh(f);

	if (s)
		return fd_errno(d, f, s, "is an io_uring ring; cannot read its fdinfo");
	s = read_ring(d, f, r);
	if (!s)
		s = capture_setup(d, f, r);
	if (!s)
		s = capture_moment(d, f, r, pool);
	if (!s)
		s = add_done(d, f, r);
	if (!s)
		s = capture_buffers(d, f, r, pool);
	if (!s)
		s = capture_registered(d, f, r, pool);
	if (!s)
		s = capture_slots(d, f, r, pool);
	if (s)
		return s;
	r->e.id = f->id;
	r->e.flags = f->flags & O_NONBLOCK;
	r->e.layout = (ProtobufCBinaryData){ sizeof(r->layout), (uint8_t *)&r->layout };
	r->e.ring = (ProtobufCBinaryData){ r->ring_size, r->ring };
	r->e.sqes = (ProtobufCBinaryData){ r->sqes_size, r->sqes };
	r->e.fown = f->fown;
	entry.uring = &r->e;
	return file_entry_write(d, &entry, f, FD_TYPES__FERMATA_URING);
}

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "io_uring");
}

static int capture(struct dump *d, struct descriptor *f)
{
	void **at = kind_state(d, &kind_uring);
	struct state *s = *at = *at ? *at : calloc(1, sizeof(*s));
	struct seen *x = s ? VEC_PUSH(&s->seen) : NULL;
	struct ring r = {};
	struct pool pool = {};

	if (!x)
		return error_set(d->e, -ENOMEM, "out of memory");
	*x = (struct seen){ f->st.st_ino, f->id, .fd = -1 };
	uring_entry__init(&r.e);
	int result = capture_ring(d, f, &r, &pool);
	if (!result && r.e.setup & IORING_SETUP_SQPOLL) {
		x->submitted = r.e.submitted;
		x->completed = uring_completed(&r.e) - (uint32_t)r.done.count;
		x->sq_entries = r.e.sq_entries;
		x->cq_entries = r.e.cq_entries;
		x->layout = r.layout;
		x->fd = fcntl(f->own_fd, F_DUPFD_CLOEXEC, 0);
	}
	VEC_FREE(&r.done);
	free(r.ring);
	free(r.sqes);
	pool_free(&pool);
	return result;
}

/* Whether nothing has happened since but that time went by, which the checkpoint does not know of yet. */
static bool is_as_it_was(const struct seen *x)
{
	struct descriptor f = { .own_fd = x->fd };
	const size_t size = ALIGN_UP(uring_ring_size(&x->layout, x->sq_entries), PAGE_SIZE);
	_cleanup_free_ char *ring = calloc(1, size);
	uint32_t submitted = 0, completed = 0;
	bool same = ring && !refresh(&f) && number_of(&f, "CachedSqHead", &submitted) && number_of(&f, "CachedCqTail", &completed) && submitted == x->submitted &&
		    completed - x->completed <= x->cq_entries;

	free(f.fdinfo);
	if (same && completed != x->completed && copy_mapping(x->fd, IORING_OFF_SQ_RING, size, ring))
		return false;
	for (uint32_t i = x->completed; same && i != completed; i++)
		same = ((const struct io_uring_cqe *)(ring + x->layout.cq.cqes))[i & (x->cq_entries - 1)].res == -ETIME;
	return same;
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;
	int r = 0;

	if (!s)
		return 0;
	VEC_FOREACH(&s->seen, x) {
		if (x->fd < 0)
			continue;
		if (success && !r && !is_as_it_was(x))
			r = error_set(d->e, -EAGAIN, "a thread of the kernel (io_uring, IORING_SETUP_SQPOLL) went on while its process was saved; try again");
		close(x->fd);
	}
	VEC_FREE(&s->seen);
	free(s);
	*at = NULL;
	return r;
}

const struct kind kind_uring = {
	.name = "an io_uring ring",
	.summary = "io_uring rings: requests under way (polls, timeouts, and what waits to read, write, receive, send or accept, with what is linked to them; Linux 6.13, BTF and BPF), threads of the kernel that submit (SQPOLL), entries not submitted, completions not reaped, registered files, buffers, rings and eventfds (Linux 6.0)",
	.type = FD_TYPES__FERMATA_URING,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = uring_create,
	.settle = uring_settle,
};
