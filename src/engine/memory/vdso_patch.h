/*
 * The vdso of another kernel, vdso(7): a program has the addresses of its functions, so its pages must stay where they were; their
 * code reads data of the kernel whose layout is that kernel's own. Each function's first bytes become a jump to the function of the
 * same name in this kernel's vdso, or, where that has none, the system call.
 *
 * Pure functions on ELF images; nothing in them is trusted.
 */
#pragma once

#include "base/error.h"

/* The size of the image whose first `size` bytes are given, or 0 where it is none. */
size_t vdso_image_size(const void *image, size_t size);
/* Patches `image`, so that its functions lead to those of `now`, which will stand at `now_at`. -EBADMSG, -ENOTSUP, with the text set. */
int vdso_patch(void *image, size_t size, const void *now, size_t now_size, uint64_t now_at, struct error *e);
