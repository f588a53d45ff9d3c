/*
 * io_uring(7), restore side. The coordinator makes the ring. Head and tail are the kernel's own, and a program may have copies of
 * them: a thread of the task lets as many requests that do nothing complete as there ever were (some ten nanoseconds each). Then it registers what was
 * registered, and in the end the coordinator puts back what stood in the ring. Requests under way follow when all is there, uring_submit.c.
 *
 * With IORING_SETUP_SINGLE_ISSUER only one thread may do all that: the ring is made disabled, and who enables it is the one.
 */
#include "engine/kinds/uring.h"
#include "engine/memory/place.h"
#include "engine/memory/restore.h"
#include "engine/memory/vma.h"
#include "engine/task/state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>

#define OLD_NS 5000000
#define OLD_TRIES 400
#define SETUP_KNOWN (IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF | IORING_SETUP_IOPOLL | IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN)
#ifndef IORING_SETUP_TASKRUN_FLAG
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif

extern const struct kind kind_uring;

uint32_t uring_completed(const UringEntry *e)
{
	return e->has_completed ? e->completed : e->submitted;
}

uint32_t uring_done(const UringEntry *e)
{
	return e->submitted - (uint32_t)e->n_requests;
}

uint32_t uring_more_completions(const UringEntry *e)
{
	return uring_completed(e) > uring_done(e) ? uring_completed(e) - uring_done(e) : 0;
}

bool uring_is_to_go_on(const UringEntry *e)
{
	return e->setup & IORING_SETUP_SQPOLL || e->n_requests || uring_more_completions(e);
}

bool uring_wait_for_old(struct restore *s, int *tries)
{
	const struct timespec pause = { 0, OLD_NS };
	bool any = false;

	VEC_FOREACH(&s->files, f)
		any |= f->kind == &kind_uring && f->entry->uring && f->entry->uring->n_requests;
	if (!any || ++*tries > OLD_TRIES)
		return false;
	nanosleep(&pause, NULL);
	return true;
}

static bool is_power(uint32_t n, uint32_t max)
{
	return n && n <= max && !(n & (n - 1));
}

static bool request_can_be(const UringRequest *q)
{
	struct io_uring_sqe e;

	if (q->sqe.len != sizeof(e) || (q->has_time && q->time.len != sizeof(struct timespec)) ||
	    (q->has_vector && (!q->vector.len || q->vector.len % sizeof(struct iovec) || q->vector.len > URING_VECTOR_MAX * sizeof(struct iovec))))
		return false;
	memcpy(&e, q->sqe.data, sizeof(e));
	const bool timeout = e.opcode == IORING_OP_TIMEOUT || e.opcode == IORING_OP_LINK_TIMEOUT;
	const bool vector = e.opcode == IORING_OP_READV || e.opcode == IORING_OP_WRITEV;
	const bool message = e.opcode == IORING_OP_SENDMSG || e.opcode == IORING_OP_RECVMSG;
	return uring_request_can_be(e.opcode) && !e.personality && timeout == (q->has_time != 0) && (!q->has_vector || vector || message);
}

/* Chains are submitted at once, and the last leads to nothing. */
static bool requests_can_be(const UringEntry *e)
{
	size_t chain = 0;

	if (e->setup & IORING_SETUP_SQPOLL && e->setup & IORING_SETUP_DEFER_TASKRUN)
		return false;
	if (e->n_requests > URING_REQUESTS_MAX || e->n_requests > e->submitted ||
	    (uring_is_to_go_on(e) && e->setup & IORING_SETUP_R_DISABLED) || (e->n_requests && e->setup & IORING_SETUP_IOPOLL))
		return false;
	for (size_t i = 0; i < e->n_requests; i++) {
		if (!request_can_be(e->requests[i]) || ++chain > e->sq_entries)
			return false;
		if (!(e->requests[i]->sqe.data[offsetof(struct io_uring_sqe, flags)] & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK)))
			chain = 0;
	}
	return !chain;
}

/* A ring with a thread of the kernel is made by its process, which is alone with it. */
static bool is_alone(const struct restore *s, const struct file *f)
{
	for (size_t i = 0; i < s->tasks.count; i++) {
		const struct rtask *t = s->tasks.data[i];
		for (size_t k = 0; t != f->owner && !t->files_owner && k < t->fds.count; k++)
			if (t->fds.data[k]->id == f->id)
				return false;
	}
	return true;
}

static int check(struct restore *s, const struct file *f)
{
	const UringEntry *e = f->entry->uring;

	if (!e || !is_power(e->sq_entries, URING_ENTRIES_MAX) || !is_power(e->cq_entries, 2 * URING_ENTRIES_MAX) ||
	    e->cq_entries < e->sq_entries || e->setup & ~SETUP_KNOWN || e->layout.len != sizeof(struct uring_layout) ||
	    e->sqes.len != uring_sqes_size(e->sq_entries) || e->n_buffers > URING_BUFFERS_MAX || e->n_files > URING_FILES_MAX || e->eventfd > INT32_MAX || !requests_can_be(e) ||
	    (e->setup & IORING_SETUP_SQPOLL && !is_alone(s, f)))
		return error_set(s->e, -EBADMSG, "file %u lacks its entry, or is a ring that can't be", f->id);
	return 0;
}

int uring_create(struct restore *s, struct file *f, int *ret_fd)
{
	const UringEntry *e = f->entry->uring;
	struct uring_layout layout, *saved;
	int r = check(s, f), fd;

	if (r)
		return r;
	/* One with a thread of the kernel is made by its task, and this one holds its place until then: uring_plan_polled. */
	const bool polled = e->setup & IORING_SETUP_SQPOLL;
	uint32_t setup = polled ? 0 : e->setup | (e->setup & IORING_SETUP_SINGLE_ISSUER ? IORING_SETUP_R_DISABLED : 0) |
			 (e->setup & IORING_SETUP_DEFER_TASKRUN ? IORING_SETUP_TASKRUN_FLAG : 0);
	r = uring_setup(setup, e->sq_entries, e->cq_entries, &layout, &fd);
	if (r == -EPERM)
		return error_set(s->e, r, "cannot make an io_uring ring: it is forbidden here; see /proc/sys/kernel/io_uring_disabled");
	if (r)
		return error_errno(s->e, r, "cannot make an io_uring ring of %u entries", e->sq_entries);
	*ret_fd = fd;
	saved = (struct uring_layout *)e->layout.data;
	layout.sq.resv2 = layout.cq.resv2 = saved->sq.resv2 = saved->cq.resv2 = 0;
	if (memcmp(&layout, saved, sizeof(layout)) || e->ring.len != uring_ring_size(&layout, e->sq_entries)) {
		close(fd);
		return error_set(s->e, -ENOTSUP, "this kernel lays out an io_uring ring in another way; restore under the kernel of the dump");
	}
	return 0;
}

/* ---- mappings ---- */

bool uring_is_area(struct restore *s, const VmaEntry *v)
{
	const struct file *f = v->status & VMA_FILE_SHARED ? file_find(s, (uint32_t)v->shmid) : NULL;

	return f && f->kind == &kind_uring;
}

static bool has_buffers(const struct rtask *t, const struct file *f)
{
	return f->kind == &kind_uring && f->entry->uring && f->entry->uring->n_buffers;
}

bool uring_has_buffers(struct restore *s, struct rtask *t)
{
	return rtask_holds(s, t, has_buffers);
}

static uint64_t index_of(const struct batch *b, const struct agent_op *op)
{
	return (uint64_t)(op - b->ops.data);
}

/* The process makes its own: the thread of the kernel is then its, and has the effective credentials that it has at that moment. What it makes takes the place of
 * ours, which it was born with. */
static int plan_polled(struct restore *s, struct rtask *t, const struct file *f)
{
	const UringEntry *e = f->entry->uring;
	struct io_uring_params p = { .flags = e->setup | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL, .cq_entries = e->cq_entries,
				     .sq_thread_idle = e->sq_thread_idle, .sq_thread_cpu = e->sq_thread_cpu };
	struct batch *b = &t->threads.data[0].batch;
	int r = creds_plan_effective(s, t, b);

	if (r)
		return r;
	batch_what(b, "make an io_uring ring of process %d, with a thread of the kernel that submits", t->pid);
	uint64_t ring = index_of(b, OP(b, __NR_io_uring_setup, e->sq_entries, arena_place(&s->arena, &p, sizeof(p))));
	creds_plan_own(s, t, b);
	batch_what(b, "put an io_uring ring of process %d in its place", t->pid);
	OP(b, __NR_dup3, ring, f->fd, O_CLOEXEC)->flags |= AGENT_OP_REF_ARG0;
	OP(b, __NR_close, ring)->flags |= AGENT_OP_REF_ARG0;
	return 0;
}

/* Before there is any mapping of them. */
static int plan_all_polled(struct restore *s, struct rtask *t)
{
	int r = 0;

	VEC_FOREACH(&s->files, f)
		if (!r && f->kind == &kind_uring && f->owner == t && f->fd >= 0 && f->entry->uring->setup & IORING_SETUP_SQPOLL)
			r = plan_polled(s, t, f);
	return r;
}

static int by_start(const void *a, const void *b)
{
	const struct place_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

int uring_plan_areas(struct restore *s, struct rtask *t)
{
	_cleanup_free_ struct place_range *taken = calloc(t->mm->n_vmas + 1, sizeof(*taken));
	size_t count = 0;
	bool any = false;

	if (!taken)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		any |= uring_is_area(s, t->mm->vmas[i]);
	if (!any)
		return 0;
	int r = plan_all_polled(s, t);
	if (r)
		return r;
	taken[count++] = memory_own_range(s);
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		if (memory_is_inherited(t, t->mm->vmas[i]))
			taken[count++] = (struct place_range){ t->mm->vmas[i]->start, t->mm->vmas[i]->end };
	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *v = t->mm->vmas[i];
		if (!uring_is_area(s, v))
			continue;
		int fd = file_fd_early(s, (uint32_t)v->shmid);
		if (fd < 0)
			return fd;
		qsort(taken, count, sizeof(*taken), by_start);
		place_plan(t, v, fd, taken, count);
		taken[count++] = (struct place_range){ v->start, v->end };
	}
	return 0;
}

/* ---- what the thread does ---- */

/* `count` requests, `times` over: the entries of a new ring are all zero, which is a request that does nothing (IORING_OP_NOP). */
static void plan_rounds(struct batch *b, int fd, uint64_t ring, const struct uring_layout *l, uint32_t count, uint32_t times, bool completes)
{
	if (!count || !times)
		return;
	OP(b, AGENT_OP_ADD, ring, count, l->sq.tail)->flags |= AGENT_OP_REF_ARG0;
	struct agent_op *op = OP(b, __NR_io_uring_enter, fd, count, 0, 0);
	op->flags |= AGENT_OP_EXPECT;
	op->expect = count;
	if (completes)
		OP(b, AGENT_OP_ADD, ring, count, l->cq.head)->flags |= AGENT_OP_REF_ARG0;
	OP(b, AGENT_OP_REPEAT, completes ? 3 : 2, times);
}

/* So many requests that complete, then so many that nobody is told of. */
static void plan_pump(struct batch *b, const UringEntry *e, int fd)
{
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;
	const uint32_t told = MIN(uring_done(e), uring_completed(e)), untold = uring_done(e) - told, most = e->sq_entries;
	size_t size = uring_ring_size(l, most);

	if (!uring_done(e))
		return;
	uint64_t ring = index_of(b, OP(b, __NR_mmap, 0, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING));
	plan_rounds(b, fd, ring, l, most, told / most, true);
	plan_rounds(b, fd, ring, l, told % most, 1, true);
	if (untold) {
		/* The array is all zeroes too: every place of it leads to the first entry. */
		uint64_t sqes = index_of(b, OP(b, __NR_mmap, 0, uring_sqes_size(most), PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES));
		OP(b, AGENT_OP_ADD, sqes, IOSQE_CQE_SKIP_SUCCESS << 8, 0)->flags |= AGENT_OP_REF_ARG0;
		plan_rounds(b, fd, ring, l, most, untold / most, false);
		plan_rounds(b, fd, ring, l, untold % most, 1, false);
		OP(b, __NR_munmap, sqes, uring_sqes_size(most))->flags |= AGENT_OP_REF_ARG0;
	}
	OP(b, __NR_munmap, ring, size)->flags |= AGENT_OP_REF_ARG0;
}

static int plan_registered(struct restore *s, struct rtask *t, struct batch *b, const UringEntry *e, int fd)
{
	struct iovec *buffers = arena_take(&s->arena, e->n_buffers * sizeof(*buffers));

	if (!buffers)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < e->n_buffers; i++)
		buffers[i] = (struct iovec){ (void *)e->buffers[i]->address, e->buffers[i]->length };
	batch_what(b, "register the buffers of the ring at descriptor %d of process %d", fd, t->pid);
	if (e->n_buffers)
		OP(b, __NR_io_uring_register, fd, IORING_REGISTER_BUFFERS, (uint64_t)buffers, e->n_buffers);
	batch_what(b, "register the files of the ring at descriptor %d of process %d", fd, t->pid);
	if (e->n_files)
		OP(b, __NR_io_uring_register, fd, IORING_REGISTER_FILES, arena_place(&s->arena, e->files, e->n_files * sizeof(int32_t)), e->n_files);
	if (e->has_eventfd) {
		batch_what(b, "register the eventfd of the ring at descriptor %d of process %d", fd, t->pid);
		OP(b, __NR_io_uring_register, fd, e->eventfd_async ? IORING_REGISTER_EVENTFD_ASYNC : IORING_REGISTER_EVENTFD,
		   arena_place(&s->arena, &e->eventfd, sizeof(e->eventfd)), 1);
	}
	return 0;
}

static int plan_ring(struct restore *s, struct rtask *t, struct rthread *th, const UringEntry *e, int fd)
{
	struct batch *b = &th->batch;

	if (e->setup & IORING_SETUP_R_DISABLED)
		return plan_registered(s, t, b, e, fd);
	if (e->setup & IORING_SETUP_SQPOLL) /* its thread must be woken, and is waited for: uring_go_on */
		return plan_registered(s, t, b, e, fd);
	batch_what(b, "bring the ring at descriptor %d of process %d to where it was", fd, t->pid);
	if (e->setup & IORING_SETUP_SINGLE_ISSUER)
		OP(b, __NR_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, 0, 0);
	plan_pump(b, e, fd);
	return plan_registered(s, t, b, e, fd);
}

/* IORING_REGISTER_RING_FDS, at the places that they had. */
static void plan_slots(struct restore *s, struct rthread *th, const UringEntry *e, int fd)
{
	for (size_t i = 0; i < e->n_slots; i++) {
		struct io_uring_rsrc_update update = { .offset = e->slots[i]->index, .data = (uint64_t)fd };
		if (e->slots[i]->tid != (uint32_t)th->tid)
			continue;
		batch_what(&th->batch, "register the ring at descriptor %d for thread %d", fd, th->tid);
		struct agent_op *op = OP(&th->batch, __NR_io_uring_register, fd, IORING_REGISTER_RING_FDS,
					 arena_place(&s->arena, &update, sizeof(update)), 1);
		op->flags |= AGENT_OP_EXPECT;
		op->expect = 1;
	}
}

int uring_plan_thread(struct restore *s, struct rtask *t, struct rthread *th)
{
	const pid_t usual = th->table ? th->tid : t->threads.data[t->leader_gone].tid;
	const struct rtask *table = th->table ? th->table : t;

	for (size_t i = 0; i < table->fds.count; i++) {
		const struct file *f = file_find(s, table->fds.data[i]->id);
		const UringEntry *e = f && f->kind == &kind_uring ? f->entry->uring : NULL;
		bool first = true; /* of the descriptors that refer to it */
		if (!e || f->fd < 0)
			continue;
		for (size_t k = 0; k < i; k++)
			first &= table->fds.data[k]->id != f->id;
		int fd = (int)table->fds.data[i]->fd;
		if (!first)
			continue;
		if (e->has_submitter ? e->submitter == (uint32_t)th->tid : f->owner == table && usual == th->tid) {
			int r = plan_ring(s, t, th, e, fd);
			if (r)
				return r;
		}
		plan_slots(s, th, e, fd);
	}
	return 0;
}

/* ---- the coordinator's part ---- */

int uring_map(struct restore *s, const UringEntry *e, int fd, struct uring_mapped *ret)
{
	ret->ring = mmap(NULL, e->ring.len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
	if (ret->ring == MAP_FAILED)
		return error_errno(s->e, -errno, "cannot map an io_uring ring");
	ret->sqes = mmap(NULL, e->sqes.len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
	if (ret->sqes != MAP_FAILED)
		return 0;
	munmap(ret->ring, e->ring.len);
	return error_errno(s->e, -errno, "cannot map an io_uring ring");
}

void uring_unmap(const UringEntry *e, const struct uring_mapped *m)
{
	munmap(m->ring, e->ring.len);
	munmap(m->sqes, e->sqes.len);
}

static bool is_zero(const uint32_t *array, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (array[i])
			return false;
	return true;
}

void uring_put_completions(const UringEntry *e, const struct uring_mapped *m)
{
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;

	memcpy(m->ring + l->cq.cqes, e->ring.data + l->cq.cqes, e->cq_entries * sizeof(struct io_uring_cqe));
	*uring_word(m->ring, l->cq.flags) = *uring_word(e->ring.data, l->cq.flags);
	__atomic_store_n(uring_word(m->ring, l->cq.head), *uring_word(e->ring.data, l->cq.head), __ATOMIC_SEQ_CST);
}

void uring_put_entries(const UringEntry *e, const struct uring_mapped *m)
{
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;
	uint32_t *to = uring_word(m->ring, l->sq.array);
	const uint32_t *array = uring_word(e->ring.data, l->sq.array);
	const bool none = is_zero(array, e->sq_entries);

	for (uint32_t i = 0; i < e->sq_entries; i++)
		to[i] = none ? i : array[i];
	memcpy(m->sqes, e->sqes.data, e->sqes.len);
	__atomic_store_n(uring_word(m->ring, l->sq.tail), *uring_word(e->ring.data, l->sq.tail), __ATOMIC_SEQ_CST);
}

int uring_settle(struct restore *s, struct file *f)
{
	const UringEntry *e = f->entry->uring;
	const struct uring_layout *l = (const struct uring_layout *)e->layout.data;
	const uint32_t done = uring_done(e);
	struct uring_mapped m;
	int r = f->owner && !(e->setup & IORING_SETUP_SQPOLL) ? uring_map(s, e, f->fd, &m) : 1;

	if (r)
		return r < 0 ? r : 0;
	if (*uring_word(m.ring, l->cq.tail) != MIN(done, uring_completed(e)) || *uring_word(m.ring, l->sq.head) != done) {
		r = error_set(s->e, -EIO, "an io_uring ring can't be brought to where it was");
	} else if (!uring_is_to_go_on(e)) {
		uring_put_completions(e, &m);
		uring_put_entries(e, &m);
	}
	uring_unmap(e, &m);
	return r;
}
