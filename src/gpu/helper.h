/* The helper process of gpu.h: the messages on its socket (SOCK_SEQPACKET), and its main function. */
#pragma once

#include "gpu/gpu.h"

#define HELPER_MACHINE GPU_OPS /* an op: struct gpu_machine behind the reply */
#define HELPER_ABANDON (GPU_OPS + 1) /* an op without a reply: what was done stays when the caller goes */

struct helper_request {
	uint32_t id, op;
	int32_t pid;
	uint32_t timeout_ms, n_pairs;
	bool own, in_memory; /* own: two descriptors come with it, where the call moves memory */
	uint64_t offset;
	uint32_t n_regions;
	struct gpu_region regions[GPU_DEVICES_MAX];
	struct gpu_pair pairs[]; /* n_pairs */
};

struct helper_reply {
	uint32_t id;
	int32_t result;
	uint32_t value;
	char why[160];
	uint32_t n_regions;
	struct gpu_region regions[GPU_DEVICES_MAX];
};

/* First of all, once the driver is loaded. */
struct helper_greeting {
	int32_t result;
	char text[1024];
};

/* Serves until the caller closes its end, puts back whom the caller left, ends the process. */
_Noreturn void helper_main(int sock, const char *library);
