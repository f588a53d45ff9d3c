/*
 * NVIDIA's programs: nvidia-smi where its library is not there; cuda-checkpoint for drivers whose library lacks the calls that it makes (555 to 565). Source: its README and --help.
 */
#pragma once

#include "gpu/gpu.h"

/* What NVML would tell, by nvidia-smi; nothing where that is not there. Its columns are in its --help-query-gpu. */
void tool_machine(struct gpu_machine *m);
/* Is it in PATH, and does it know --action? */
bool tool_found(void);
/* As driver_call. */
void tool_call(struct gpu_call *call);
