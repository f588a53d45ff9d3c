/* Helpers for live test programs with rings of io_uring(7), without a library. */
#ifndef URING_H
#define URING_H
#include "live.h"
#include <linux/io_uring.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>

struct uring {
	int fd, enter_fd;
	unsigned enter_flags, tail; /* the program's own copy of the tail */
	struct io_uring_params p;
	char *ring;
	size_t ring_size, sqes_size;
	struct io_uring_sqe *sqes;
};

static inline unsigned *uring_at(struct uring *r, unsigned offset) { return (unsigned *)(r->ring + offset); }

static inline int uring_setup(struct uring *r, unsigned entries)
{
	r->fd = r->enter_fd = syscall(SYS_io_uring_setup, entries, &r->p);
	if (r->fd < 0) return -1;
	r->ring_size = r->p.sq_off.array + r->p.sq_entries * 4;
	r->sqes_size = r->p.sq_entries * sizeof(struct io_uring_sqe);
	r->ring = mmap(NULL, r->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQ_RING);
	r->sqes = mmap(NULL, r->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, r->fd, IORING_OFF_SQES);
	CHECK(r->ring != MAP_FAILED && r->sqes != MAP_FAILED);
	for (unsigned i = 0; i < r->p.sq_entries; i++) uring_at(r, r->p.sq_off.array)[i] = i;
	return 0;
}

static inline int uring_make(struct uring *r, unsigned entries, unsigned flags, unsigned cq_entries)
{
	*r = (struct uring){.p = {.flags = flags | (cq_entries ? IORING_SETUP_CQSIZE : 0), .cq_entries = cq_entries}};
	return uring_setup(r, entries);
}

/* With a thread of the kernel's, which falls asleep after so many ms. */
static inline int uring_make_idle(struct uring *r, unsigned entries, unsigned flags, unsigned idle)
{
	*r = (struct uring){.p = {.flags = flags, .sq_thread_idle = idle}};
	return uring_setup(r, entries);
}

/* An entry, which no thread of the kernel sees yet. */
static inline struct io_uring_sqe *uring_prepare(struct uring *r, int op, uint64_t data)
{
	CHECK(r->tail - *uring_at(r, r->p.sq_off.head) < r->p.sq_entries);
	struct io_uring_sqe *e = &r->sqes[r->tail & (r->p.sq_entries - 1)];
	*e = (struct io_uring_sqe){.opcode = op, .user_data = data, .fd = -1};
	return e;
}

static inline void uring_publish(struct uring *r)
{
	__atomic_store_n(uring_at(r, r->p.sq_off.tail), ++r->tail, __ATOMIC_RELEASE);
}

/* An entry, not submitted. */
static inline struct io_uring_sqe *uring_next(struct uring *r, int op, uint64_t data)
{
	struct io_uring_sqe *e = uring_prepare(r, op, data);
	uring_publish(r);
	return e;
}

/* As liburing does: a thread of the kernel is woken only where it says so. */
static inline void uring_publish_polled(struct uring *r)
{
	uring_publish(r);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(uring_at(r, r->p.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
		CHECK(syscall(SYS_io_uring_enter, r->fd, 1, 0, IORING_ENTER_SQ_WAKEUP, NULL, 0) == 1);
}

static inline int uring_submit(struct uring *r, unsigned wait)
{
	unsigned count = r->tail - *uring_at(r, r->p.sq_off.head);
	return syscall(SYS_io_uring_enter, r->enter_fd, count, wait, r->enter_flags | (wait ? IORING_ENTER_GETEVENTS : 0), NULL, 0);
}

static inline unsigned uring_ready(struct uring *r)
{
	return __atomic_load_n(uring_at(r, r->p.cq_off.tail), __ATOMIC_ACQUIRE) - *uring_at(r, r->p.cq_off.head);
}

/* The next completion is of that request; gives its result. */
static inline int uring_reap(struct uring *r, uint64_t data)
{
	unsigned *head = uring_at(r, r->p.cq_off.head);
	CHECK(uring_ready(r) > 0);
	struct io_uring_cqe *cqe = (struct io_uring_cqe *)(r->ring + r->p.cq_off.cqes) + (*head & (r->p.cq_entries - 1));
	CHECK(cqe->user_data == data);
	int result = cqe->res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return result;
}

static inline void uring_nops(struct uring *r, unsigned count, uint64_t data)
{
	for (unsigned i = 0; i < count; i++) {
		uring_next(r, IORING_OP_NOP, data + i);
		CHECK(uring_submit(r, 1) == 1 && uring_reap(r, data + i) == 0);
	}
}
#endif
