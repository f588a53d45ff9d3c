/*
 * The resident GPU helper (gpu/gpu.h): the driver takes seconds to start, which no dump is to wait for. The daemon keeps one, and starts it again when
 * it has ended; those that dump and restore for the daemon find it by FERMATA_GPU_SOCKET.
 */
#pragma once

#include "daemon/daemon.h"

/* Before there are threads: who works for us inherits the environment. Does not wait for the driver. */
void gpu_keeper_begin(struct daemon *d);
/* Now and then. */
void gpu_keeper_tend(struct daemon *d);
