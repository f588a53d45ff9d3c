/*
 * io_uring(7), the end of a restore: requests that were under way are so again. Each thread that had submitted some does so once more, led by ptrace(2), when
 * it has its registers, its credentials and its memory, and every file has what waits in it: a request that is ready at once would complete, as it would
 * have in the tree that was saved.
 *
 * Data that an entry points to is read when it is submitted. The program's may be gone by then, so it stands, meanwhile, in memory of the program's that is borrowed.
 *
 * A ring that has more completions than requests (of multishot ones) gets the rest from a ring of ours (IORING_OP_MSG_RING, Linux 5.18).
 */
#include "engine/kinds/uring.h"
#include "engine/memory/vma.h"
#include "engine/task/state.h"

#include <asm/unistd.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define MSG_RING 40 /* IORING_OP_MSG_RING */
#define HELPER_ENTRIES 256U
#define VDSO_MAX (64UL << 10)
#define RED_ZONE 128
#define TAKE_NS 50000
#define TAKE_SPINS 1000
#define TAKE_TRIES 40000
#define VECTOR_AT offsetof(struct msghdr, msg_iov)

extern const struct kind kind_uring;

struct submitter {
	struct restore *s;
	struct rtask *t;
	struct rthread *th;
	int fd;		 /* the ring's number there */
	int own_fd;	 /* and here */
	uint64_t enter; /* where a system call instruction is */
	bool dispatch_aside;
};

/* Room that can be borrowed: on the thread's stack, or wherever it may write. 0: none. */
static uint64_t find_room(const struct submitter *x, size_t size)
{
	const MmEntry *mm = x->t->vm_owner ? x->t->vm_owner->mm : x->t->mm;
	const uint64_t stack = x->th->tracee.regs.rsp;
	uint64_t other = 0;

	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *v = mm->vmas[i];
		if (!(v->status & VMA_ANON_PRIVATE) || !(v->prot & PROT_WRITE))
			continue;
		if (stack >= v->start && stack < v->end && stack - v->start >= size + RED_ZONE + 16)
			return (stack - RED_ZONE - size) & ~15ULL;
		if (v->end - v->start >= size && !(v->flags & MAP_GROWSDOWN))
			other = v->start;
	}
	return other;
}

static uint64_t find_call(const struct submitter *x)
{
	const MmEntry *mm = x->t->vm_owner ? x->t->vm_owner->mm : x->t->mm;

	for (size_t i = 0; i < mm->n_vmas; i++) {
		const VmaEntry *v = mm->vmas[i];
		const size_t size = v->end - v->start;
		_cleanup_free_ char *code = v->status & VMA_VDSO && size <= VDSO_MAX ? malloc(size) : NULL;
		const char *at = code && !proc_peek(x->th->tid, v->start, code, size) ? memmem(code, size, "\x0f\x05", 2) : NULL;
		if (at)
			return v->start + (uint64_t)(at - code);
	}
	return 0;
}

/* ---- one call in one thread ---- */

static int enter(struct submitter *x, uint32_t count, uint32_t flags, long long *ret)
{
	struct tracee *t = &x->th->tracee;
	const uint64_t all = ~0ULL;
	struct user_regs_struct own, regs;

	if (ptrace(PTRACE_GETREGS, t->tid, 0, &own) < 0 || ptrace(PTRACE_SETSIGMASK, t->tid, 8, &all) < 0)
		return -errno;
	regs = own;
	regs.rip = x->enter;
	regs.rax = __NR_io_uring_enter;
	regs.rdi = (unsigned long long)x->fd;
	regs.rsi = count;
	regs.rdx = 0;
	regs.r10 = flags;
	regs.r8 = regs.r9 = 0;
	int r = tracee_call(t, &regs);
	*ret = (long long)regs.rax;
	if (ptrace(PTRACE_SETREGS, t->tid, 0, &own) < 0 || ptrace(PTRACE_SETSIGMASK, t->tid, 8, &t->sigmask) < 0)
		r = r ? r : -errno;
	return r;
}

static int submitter_find(struct restore *s, const struct file *f, pid_t tid, struct submitter *ret)
{
	static const struct syscall_dispatch none = { .mode = 0 };

	*ret = (struct submitter){ .s = s, .fd = -1 };
	for (size_t i = 0; i < s->tasks.count && !ret->th; i++)
		for (size_t k = 0; k < s->tasks.data[i]->threads.count && !ret->th; k++)
			if (!s->tasks.data[i]->dead && s->tasks.data[i]->threads.data[k].tid == tid) {
				ret->t = s->tasks.data[i];
				ret->th = &ret->t->threads.data[k];
			}
	const struct rtask *table = ret->t && ret->t->files_owner ? ret->t->files_owner : ret->t;
	for (size_t i = 0; table && i < table->fds.count && ret->fd < 0; i++)
		if (table->fds.data[i]->id == f->id)
			ret->fd = (int)table->fds.data[i]->fd;
	if (ret->fd < 0)
		return error_set(s->e, -EBADMSG, "a request of an io_uring ring is of thread %d, which does not have it", tid);
	if (!(ret->enter = find_call(ret)))
		return error_set(s->e, -ENOTSUP, "process %d has no vdso to make a call from", ret->t->pid);
	struct tracee *t = &ret->th->tracee;
	ret->dispatch_aside = ret->th->core->thread_core->syscall_dispatch != NULL && tracee_set_dispatch(t, &none) == 0;
	return 0;
}

static int submitter_leave(struct submitter *x)
{
	return x->dispatch_aside ? threads_set_dispatch(x->s, x->th) : 0;
}

/* ---- requests ---- */

/* Its thread takes what was put into the ring, up to `tail`. */
static int wake(const UringEntry *e, const struct uring_mapped *m, int fd, uint32_t tail)
{
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;
	const uint32_t *head = uring_word(m->ring, l->sq.head);
	const struct timespec pause = { 0, TAKE_NS };

	__atomic_store_n(uring_word(m->ring, l->sq.tail), tail, __ATOMIC_SEQ_CST);
	if (syscall(__NR_io_uring_enter, fd, 0, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) < 0)
		return -errno;
	for (int tries = 0; __atomic_load_n(head, __ATOMIC_SEQ_CST) != tail; tries++) {
		if (tries > TAKE_TRIES)
			return -ETIMEDOUT;
		if (tries > TAKE_SPINS)
			nanosleep(&pause, NULL);
	}
	return 0;
}

/* Whether its vector is what a message points to, which the entry points to. */
static bool is_message(const struct io_uring_sqe *e)
{
	return e->opcode == IORING_OP_SENDMSG || e->opcode == IORING_OP_RECVMSG;
}

/* An entry's data, in borrowed memory at `at`. `vectors`: what a message pointed to. */
static int lend(const struct submitter *x, const UringRequest *q, struct io_uring_sqe *e, uint64_t at, uint64_t vectors[2])
{
	const uint64_t ours[2] = { at, q->vector.len / sizeof(struct iovec) };

	if (q->has_time) {
		e->addr = at;
		return proc_poke(x->th->tid, at, q->time.data, q->time.len);
	}
	if (!q->has_vector)
		return 0;
	int r = proc_poke(x->th->tid, at, q->vector.data, q->vector.len);
	if (!r && is_message(e)) {
		r = proc_peek(x->th->tid, e->addr + VECTOR_AT, vectors, sizeof(ours));
		return r ? r : proc_poke(x->th->tid, e->addr + VECTOR_AT, ours, sizeof(ours));
	}
	e->addr = at;
	e->len = (uint32_t)ours[1];
	return r;
}

static size_t size_of(const UringRequest *q)
{
	return ALIGN_UP(q->has_time ? q->time.len : q->has_vector ? q->vector.len : 0, 16);
}

static struct io_uring_sqe entry_of(const UringRequest *q)
{
	struct io_uring_sqe e;

	memcpy(&e, q->sqe.data, sizeof(e));
	return e;
}

/* Those that are linked, together: `count` of them. */
static int submit(struct submitter *x, const struct uring_mapped *m, const UringEntry *e, UringRequest *const *list, uint32_t count)
{
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;
	uint32_t *tail = uring_word(m->ring, l->sq.tail), *array = uring_word(m->ring, l->sq.array);
	_cleanup_free_ uint64_t(*vectors)[2] = calloc(count, sizeof(*vectors));
	size_t size = 0;
	int r = 0;

	for (uint32_t i = 0; i < count; i++)
		size += size_of(list[i]);
	const uint64_t room = size ? find_room(x, size) : 0;
	_cleanup_free_ char *saved = malloc(size + 1);
	if (!vectors || !saved)
		return -ENOMEM;
	if (size)
		r = room ? proc_peek(x->th->tid, room, saved, size) : -EFAULT;
	uint64_t at = room;
	for (uint32_t i = 0; !r && i < count; i++, at += size_of(list[i - 1])) {
		struct io_uring_sqe entry = entry_of(list[i]);
		const uint32_t place = (*tail + i) & (e->sq_entries - 1);
		r = lend(x, list[i], &entry, at, vectors[i]);
		m->sqes[place] = entry;
		array[place] = place;
	}
	if (!r && e->setup & IORING_SETUP_SQPOLL) {
		r = wake(e, m, x->own_fd, *tail + count);
	} else if (!r) {
		long long done = 0;
		__atomic_store_n(tail, *tail + count, __ATOMIC_SEQ_CST);
		r = enter(x, count, 0, &done);
		r = r ? r : done < 0 ? (int)done : done == count ? 0 : -EIO;
	}
	for (uint32_t i = 0; i < count; i++)
		if (vectors[i][0])
			proc_poke(x->th->tid, entry_of(list[i]).addr + VECTOR_AT, vectors[i], sizeof(vectors[i]));
	if (size && room)
		proc_poke(x->th->tid, room, saved, size);
	return r;
}

static uint32_t chain_length(const UringEntry *e, size_t first)
{
	uint32_t count = 1;

	while (first + count < e->n_requests && entry_of(e->requests[first + count - 1]).flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK))
		count++;
	return count;
}

static int submit_all(struct restore *s, const struct file *f, int fd, const struct uring_mapped *m)
{
	const UringEntry *e = f->entry->uring;
	struct submitter x = {};
	int r = 0;

	for (size_t i = 0; !r && i < e->n_requests;) {
		const uint32_t count = chain_length(e, i);
		if (!x.th || x.th->tid != (pid_t)e->requests[i]->tid) {
			r = x.th ? submitter_leave(&x) : 0;
			r = r ? r : submitter_find(s, f, (pid_t)e->requests[i]->tid, &x);
			if (r)
				return r;
		}
		x.own_fd = fd;
		r = submit(&x, m, e, e->requests + i, count);
		if (r)
			return error_errno(s->e, r, "cannot submit a request of the ring at descriptor %d of process %d again", x.fd, x.t->pid);
		i += count;
	}
	return x.th ? submitter_leave(&x) : 0;
}

/* ---- completions that no request makes ---- */

/* A ring of ours, all of whose entries say the same to another ring. */
struct helper {
	int fd;
	struct uring_layout layout;
	char *ring;
	struct io_uring_sqe *sqes;
};

static void helper_free(struct helper *h)
{
	if (h->ring)
		munmap(h->ring, uring_ring_size(&h->layout, HELPER_ENTRIES));
	if (h->sqes)
		munmap(h->sqes, uring_sqes_size(HELPER_ENTRIES));
	if (h->fd >= 0)
		close(h->fd);
}

static int helper_make(struct helper *h, int to)
{
	*h = (struct helper){ .fd = -1 };
	int r = uring_setup(0, HELPER_ENTRIES, HELPER_ENTRIES * 2, &h->layout, &h->fd);
	if (r) {
		h->fd = -1;
		return r;
	}
	void *ring = mmap(NULL, uring_ring_size(&h->layout, HELPER_ENTRIES), PROT_READ | PROT_WRITE, MAP_SHARED, h->fd, IORING_OFF_SQ_RING);
	h->ring = ring == MAP_FAILED ? NULL : ring;
	void *sqes = mmap(NULL, uring_sqes_size(HELPER_ENTRIES), PROT_READ | PROT_WRITE, MAP_SHARED, h->fd, IORING_OFF_SQES);
	h->sqes = sqes == MAP_FAILED ? NULL : sqes;
	if (!h->ring || !h->sqes)
		return -errno;
	/* The array is all zeroes: every place of it leads to the first. */
	h->sqes[0] = (struct io_uring_sqe){ .opcode = MSG_RING, .flags = IOSQE_CQE_SKIP_SUCCESS, .fd = to };
	return 0;
}

/* At most HELPER_ENTRIES. */
static int helper_say(struct helper *h, uint32_t count)
{
	const uint32_t *tail = uring_word(h->ring, h->layout.cq.tail);

	__atomic_add_fetch(uring_word(h->ring, h->layout.sq.tail), count, __ATOMIC_SEQ_CST);
	long n = syscall(__NR_io_uring_enter, h->fd, count, 0, 0, NULL, 0);
	return n < 0 ? -errno : n != count || *tail ? -EIO : 0;
}

static int complete_more(struct restore *s, const struct file *f, int fd, const struct uring_mapped *m, uint32_t count)
{
	const UringEntry *e = f->entry->uring;
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;
	uint32_t *head = uring_word(m->ring, l->cq.head), *tail = uring_word(m->ring, l->cq.tail);
	const bool deferred = e->setup & IORING_SETUP_DEFER_TASKRUN;
	struct submitter x = {};
	struct helper h;
	int r = helper_make(&h, fd);

	if (!r && deferred && (r = submitter_find(s, f, (pid_t)e->submitter, &x))) {
		helper_free(&h);
		return r;
	}
	while (!r && count) {
		const uint32_t some = MIN(count, MIN(e->cq_entries, HELPER_ENTRIES)), before = *tail;
		long long result = 0;
		r = helper_say(&h, some);
		/* What was said waits for the thread to look. */
		if (!r && deferred)
			r = enter(&x, 0, IORING_ENTER_GETEVENTS, &result);
		r = r ? r : result < 0 ? (int)result : *tail - before == some ? 0 : -EIO;
		__atomic_store_n(head, *tail, __ATOMIC_SEQ_CST);
		count -= some;
	}
	helper_free(&h);
	if (x.th) {
		int left = submitter_leave(&x);
		r = r ? r : left;
	}
	return r ? error_errno(s->e, r, "cannot bring an io_uring ring to as many completions as it had") : 0;
}

/* ---- a ring with a thread of the kernel that submits ---- */

/* So many requests that do nothing, as plan_pump of uring_restore.c has them made. */
static int pump(const UringEntry *e, const struct uring_mapped *m, int fd, uint32_t count, bool told)
{
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;
	uint32_t *tail = uring_word(m->ring, l->sq.tail), *head = uring_word(m->ring, l->cq.head), *done = uring_word(m->ring, l->cq.tail);
	const struct timespec pause = { 0, TAKE_NS };
	int r = 0;

	m->sqes[0] = (struct io_uring_sqe){ .flags = told ? 0 : IOSQE_CQE_SKIP_SUCCESS };
	while (!r && count) {
		const uint32_t some = MIN(count, e->sq_entries), before = *done;
		r = wake(e, m, fd, *tail + some);
		for (int tries = 0; !r && told && __atomic_load_n(done, __ATOMIC_SEQ_CST) != before + some; tries++)
			r = tries > TAKE_TRIES ? -ETIMEDOUT : nanosleep(&pause, NULL);
		__atomic_store_n(head, *done, __ATOMIC_SEQ_CST);
		count -= some;
	}
	return r;
}

/* The ring is the task's own; ours only holds its place. */
static int open_polled(struct restore *s, const struct file *f, int *ret)
{
	struct submitter x;
	int r = submitter_find(s, f, f->owner->threads.data[f->owner->leader_gone].tid, &x);

	if (r)
		return r;
	_cleanup_close_ int process = (int)syscall(__NR_pidfd_open, f->owner->pid, 0);
	*ret = process < 0 ? -1 : (int)syscall(__NR_pidfd_getfd, process, x.fd, 0);
	r = *ret < 0 ? -errno : submitter_leave(&x);
	return r ? error_errno(s->e, r, "cannot reach the io_uring ring at descriptor %d of process %d", x.fd, f->owner->pid) : 0;
}

static int pump_polled(struct restore *s, const UringEntry *e, const struct uring_mapped *m, int fd)
{
	const uint32_t told = MIN(uring_done(e), uring_completed(e));
	int r = pump(e, m, fd, told, true);

	if (!r)
		r = pump(e, m, fd, uring_done(e) - told, false);
	return r ? error_errno(s->e, r, "cannot bring an io_uring ring to where it was: its thread does not take what is submitted") : 0;
}

static int go_on(struct restore *s, const struct file *f)
{
	const UringEntry *e = f->entry->uring;
	const bool polled = e->setup & IORING_SETUP_SQPOLL;
	struct uring_mapped m;
	_cleanup_close_ int own = -1;
	int r = polled ? open_polled(s, f, &own) : 0;
	const int fd = polled ? own : f->fd;

	if (!r)
		r = uring_map(s, e, fd, &m);
	if (r)
		return r;
	const uint32_t more = uring_more_completions(e);
	if (polled)
		r = pump_polled(s, e, &m, fd);
	if (!r && more)
		r = complete_more(s, f, fd, &m, more);
	if (!r) {
		uring_put_completions(e, &m);
		r = submit_all(s, f, fd, &m);
	}
	if (!r)
		uring_put_entries(e, &m);
	uring_unmap(e, &m);
	return r;
}

int uring_go_on(struct restore *s)
{
	int r = 0;

	VEC_FOREACH(&s->files, f)
		if (!r && f->kind == &kind_uring && f->owner && uring_is_to_go_on(f->entry->uring))
			r = go_on(s, f);
	return r;
}
