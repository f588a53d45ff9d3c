/*
 * The kernel's own structures, for state that it tells of in no other way. Their layout is what the kernel says of itself (BTF,
 * /sys/kernel/btf/vmlinux); their bytes are read by a small BPF program (BPF_PROG_TYPE_SYSCALL, Linux 5.14), which takes
 * nothing and changes nothing. Needs CAP_BPF and CAP_PERFMON, and a kernel that is not locked down.
 *
 * Whoever uses it checks what was read against something that the kernel tells openly: a name may come to mean something else.
 */
#pragma once

#include "base/base.h"

struct kernel;

/* -ENOTSUP, -EPERM and the like where the kernel does not have it or does not allow it. */
int kernel_open(struct kernel **ret);
/* Another that reads by itself, for other threads. It has the layout of the first, which must be closed later, and is asked for that by one thread alone. */
int kernel_open_beside(const struct kernel *first, struct kernel **ret);
void kernel_close(struct kernel *k);
/* Where a member stands in a struct, in bytes; -ENOENT. "a.b": the member b of the member a, a struct. The texts are constants. */
int kernel_offset(const struct kernel *k, const char *type, const char *member);
/* The same in bits, for a member that is less than a byte. */
int kernel_bit(const struct kernel *k, const char *type, const char *member);
/* How many bytes a whole struct has; -ENOENT. */
int kernel_struct_size(const struct kernel *k, const char *type);
/* How many bytes it has, where it is a number, a pointer, a struct or an array of those. */
int kernel_size(const struct kernel *k, const char *type, const char *member);
/* The value of an enumerator, none of which is negative; -ENOENT. `type`: "" for those without a name. */
int kernel_enumerator(const struct kernel *k, const char *type, const char *name);
/* The name of the enumerator that has a value; NULL. */
const char *kernel_enumerator_name(const struct kernel *k, const char *type, int value);
/* Whether a member of a struct is a pointer. */
bool kernel_is_pointer(const struct kernel *k, const char *type, const char *member);
/* At most KERNEL_PIECE_MAX bytes. */
int kernel_read(struct kernel *k, uint64_t address, void *to, size_t size);

/*
 * Several pieces read in one run, each behind an address that stands in the window already or comes there with an earlier piece. The window begins
 * with the address of the caller's task_struct; the rest is the caller's, and keeps what it holds until kernel_read is called.
 */
struct kernel_piece {
	uint32_t base;	/* where in the window the address stands */
	int32_t offset; /* from there */
	uint32_t size;	/* at most KERNEL_PIECE_MAX bytes */
	uint32_t to;	/* where in the window it goes */
};
#define KERNEL_PIECES 16
#define KERNEL_PIECE_MAX 8191UL
#define KERNEL_WINDOW (64UL << 10)
char *kernel_window(struct kernel *k);
/* -EFAULT: one of them can't be read. */
int kernel_read_pieces(struct kernel *k, const struct kernel_piece *pieces, size_t count);
/* The address of the caller's task_struct. */
int kernel_self(struct kernel *k, uint64_t *ret);
/* The address of the struct file of one of our own descriptors. */
int kernel_file(struct kernel *k, int fd, uint64_t *ret);
/* The address of the task_struct of a thread: `fd` is its folder in /proc, `comm` its name there. */
int kernel_task(struct kernel *k, int fd, const char *comm, uint64_t *ret);
