/*
 * The kernel's own structures, for state that it tells of in no other way. Their layout is what the kernel says of itself (BTF,
 * /sys/kernel/btf/vmlinux); their bytes are read by a BPF program of six instructions (BPF_PROG_TYPE_SYSCALL, Linux 5.14), which takes
 * nothing and changes nothing. Needs CAP_BPF and CAP_PERFMON, and a kernel that is not locked down.
 *
 * Whoever uses it checks what was read against something that the kernel tells openly: a name may come to mean something else.
 */
#pragma once

#include "base/base.h"

struct kernel;

/* -ENOTSUP, -EPERM and the like where the kernel does not have it or does not allow it. */
int kernel_open(struct kernel **ret);
void kernel_close(struct kernel *k);
/* Where a member stands in a struct, in bytes; -ENOENT. */
int kernel_offset(const struct kernel *k, const char *type, const char *member);
/* Whether a member of a struct is a pointer. */
bool kernel_is_pointer(const struct kernel *k, const char *type, const char *member);
/* At most 4096 bytes. */
int kernel_read(struct kernel *k, uint64_t address, void *to, size_t size);
/* The address of the struct file of one of our own descriptors. */
int kernel_file(struct kernel *k, int fd, uint64_t *ret);
