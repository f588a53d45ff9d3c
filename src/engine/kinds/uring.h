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
#ifndef IORING_TIMEOUT_MULTISHOT
#define IORING_TIMEOUT_MULTISHOT (1U << 6)
#endif
#define URING_PBUF_STATUS 26 /* IORING_REGISTER_PBUF_STATUS, Linux 6.8 */
#define URING_ENTRIES_MAX 32768U /* the kernel's limits */
#define URING_BUFFERS_MAX 16384U
#define URING_FILES_MAX 32768U
#define URING_REQUESTS_MAX 65536U
#define URING_VECTOR_MAX 1024 /* UIO_MAXIOV */
#define URING_OP_EPOLL_WAIT 59 /* IORING_OP_EPOLL_WAIT, Linux 6.15 */

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
/* The number that t->urings[index] has in the table of a thread of the process; -1: it has it not. */
int uring_number(const struct task *t, const struct thread *th, size_t index);
/* The id of the ring that is mapped at `vma`; 0: no descriptor that was captured refers to it. */
uint32_t uring_find(struct dump *d, const struct proc_vma *vma);

/* Restore: the mappings, before anything else is in the address space. */
int uring_plan_areas(struct restore *s, struct rtask *t);
bool uring_is_area(struct restore *s, const VmaEntry *v);
/* Whether the memory of `t` is to be registered with some ring. */
bool uring_has_buffers(struct restore *s, struct rtask *t);
/* What the thread that submits does, once the descriptors are there. */
int uring_plan_thread(struct restore *s, struct rtask *t, struct rthread *th);
/* Whether a request of that operation may be submitted again. */
bool uring_request_can_be(uint8_t opcode);
/* Requests that were submitted and are not under way; all completions that the ring has had. */
uint32_t uring_done(const UringEntry *e);
uint32_t uring_completed(const UringEntry *e);
/* Completions that the ring has had beyond one for each request that is done. */
uint32_t uring_more_completions(const UringEntry *e);
/* Whether something is left for uring_go_on, which then puts back what stood in the ring, not uring_settle. */
bool uring_is_to_go_on(const UringEntry *e);
/* A ring's memory, here. */
struct uring_mapped {
	char *ring;
	struct io_uring_sqe *sqes;
};
int uring_map(struct restore *s, const UringEntry *e, int fd, struct uring_mapped *ret);
void uring_unmap(const UringEntry *e, const struct uring_mapped *m);
/* What stood in the ring: completions not reaped; entries not submitted. */
void uring_put_completions(const UringEntry *e, const struct uring_mapped *m);
void uring_put_entries(const UringEntry *e, const struct uring_mapped *m);
/* uring_submit.c: every thread has its registers and is stopped, connections have left repair mode: requests are under way again. */
int uring_go_on(struct restore *s);
/* The rings of a tree that has just ended let go of the files of their requests a moment later. Where the checkpoint has such, waits for some of it; `tries`: how
 * often that was, 0 at first. False: it is of no use any more. */
bool uring_wait_for_old(struct restore *s, int *tries);
/* uring_restore.c's part of the kind. */
int uring_create(struct restore *s, struct file *f, int *ret_fd);
int uring_settle(struct restore *s, struct file *f);
