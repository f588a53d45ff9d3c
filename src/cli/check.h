/* What `check` says of container runtimes and GPUs, see check_runtimes.c. */
#pragma once

#include "cli/cli.h"

#include <limits.h>

struct finding {
	const char *name;
	bool there;
	char path[PATH_MAX], version[64];
	char what[300]; /* it works, so */
	char why[400];	/* or it does not: the reason and the remedy */
};

/* Calls `found` for each that is known; gives how many are there and would not find our criu. */
size_t check_runtimes(void (*found)(void *data, const struct finding *f), void *data);
/* The same of NVIDIA's driver, each GPU, and the CDI specifications, where there is a driver; gives how many specifications do not fit. check_gpu.c. */
size_t check_gpus(void (*found)(void *data, const struct finding *f), void *data);
