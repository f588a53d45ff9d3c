/* Rings of io_uring(7): what uring.c (dump) and uring_restore.c have in common. */
#pragma once

#include "engine/kinds/kind.h"

#include <linux/io_uring.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#endif
#ifndef IORING_SETUP_DEFER_TASKRUN
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif
#define URING_PBUF_STATUS 26 /* IORING_REGISTER_PBUF_STATUS, Linux 6.8 */
#define URING_ENTRIES_MAX 32768U /* the kernel's limits */
#define URING_BUFFERS_MAX 16384U
#define URING_FILES_MAX 32768U

/* Where heads and tails, completions and the array stand in a ring's memory. */
struct uring_layout {
	struct io_sqring_offsets sq;
	struct io_cqring_offsets cq;
};

/* The layout that this kernel gives a ring of those sizes, made with `setup` and IORING_SETUP_CQSIZE; *ret_fd is the caller's. */
int uring_setup(uint32_t setup, uint32_t sq_entries, uint32_t cq_entries, struct uring_layout *ret, int *ret_fd);
/* Bytes of the two mappings. */
size_t uring_ring_size(const struct uring_layout *l, uint32_t sq_entries);
size_t uring_sqes_size(uint32_t sq_entries);
uint32_t *uring_word(void *ring, uint32_t offset);

/* Dump: before the threads are asked, the rings that the process has mapped; in t->urings. */
int uring_list(struct dump *d, struct task *t);
/* The id of the ring that is mapped at `vma`; 0: no descriptor that was captured refers to it. */
uint32_t uring_find(struct dump *d, const struct proc_vma *vma);

/* Restore: the mappings, before anything else is in the address space. */
int uring_plan_areas(struct restore *s, struct rtask *t);
bool uring_is_area(struct restore *s, const VmaEntry *v);
/* Whether the memory of `t` is to be registered with some ring. */
bool uring_has_buffers(struct restore *s, const struct rtask *t);
/* What the thread that submits does, once the descriptors are there. */
int uring_plan_thread(struct restore *s, struct rtask *t, struct rthread *th);
/* uring_restore.c's part of the kind. */
int uring_create(struct restore *s, struct file *f, int *ret_fd);
int uring_settle(struct restore *s, struct file *f);
