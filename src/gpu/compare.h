/*
 * The driver and what else of NVIDIA's a CUDA process has mapped, at the dump and at the restore. The library's code is a part of the process: it must be the same
 * to the byte, which its build id tells. The kernel's part may be another where the library goes with both (the compatibility package).
 */
#pragma once

#include "base/error.h"

enum gpu_verdict { GPU_IDENTICAL, GPU_COMPATIBLE, GPU_INCOMPATIBLE };

struct gpu_software {
	const char *driver;   /* "580.65.06", or "" */
	const char *library;  /* path of libcuda, or NULL */
	const char *build_id; /* its, in hexadecimal, or "" */
};

/* With a sentence that says what differs. */
enum gpu_verdict gpu_compare(const struct gpu_software *then, const struct gpu_software *now, char *why, size_t room);
const char *gpu_verdict_name(enum gpu_verdict v); /* "identical" */
/* Is this file or device of the driver's, and not of the program's? NVIDIA's names; and what CDI mounts into containers. */
bool gpu_is_external(const char *path);
