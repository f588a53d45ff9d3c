/*
 * NVIDIA's program cuda-checkpoint, for drivers whose library lacks the calls that it makes (555 to 565). Source: its README and --help.
 */
#pragma once

#include "gpu/gpu.h"

/* Is it in PATH, and does it know --action? */
bool tool_found(void);
/* As driver_call. */
void tool_call(struct gpu_call *call);
