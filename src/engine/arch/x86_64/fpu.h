/*
 * Registers of a thread in ptrace's shape and in the image's.
 */
#pragma once

#include "base/pool.h"
#include "core.pb-c.h"

#include <sys/user.h>

#define XSAVE_MAX 16384

/* Image to ptrace and back. The messages' arrays are the pool's. */
int regs_to_image(const struct user_regs_struct *regs, UserX86RegsEntry *ret);
void regs_from_image(const UserX86RegsEntry *image, struct user_regs_struct *ret);
/* `area`: `size` bytes as PTRACE_GETREGSET with NT_X86_XSTATE gives them (standard format). -ENOTSUP: a state is in use that images have no place for. */
int fpu_to_image(const unsigned char *area, size_t size, struct pool *pool, UserX86FpregsEntry *ret, UserX86XsaveEntry *ret_xsave);
/* Lays out `area` for PTRACE_SETREGSET and gives its size; -ENOTSUP when this processor lacks a state that is in use, -EBADMSG for what no processor
 * takes. */
int fpu_from_image(const UserX86FpregsEntry *image, unsigned char *area, size_t *ret_size);
/* Makes of that area one that a thread can load itself (AGENT_OP_FPU), of *ret_size bytes. False: it can't, the keys of memory (PKRU) are not those
 * that it has without. */
bool fpu_to_load(unsigned char *area, size_t *ret_size);
