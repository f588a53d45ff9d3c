/*
 * What NVIDIA's driver, or a container's runtime for it (the NVIDIA runtime, CDI), has brought into CUDA processes: libraries of the driver's version, device nodes,
 * /proc/driver/nvidia, sockets. None of it is saved. It is noted in the inventory, and at restore it must be there, under the same names, of a version that
 * goes with what the processes have mapped of it.
 */
#pragma once

#include "base/error.h"
#include "inventory.pb-c.h"

struct gpu_machine;

struct cuda_software {
	VEC(char *) paths; /* in the processes' view, each once */
	char build_id[129]; /* of the libcuda among them, in hexadecimal, or "" */
};

/* Before the driver takes them out of the process. -ENOMEM. */
int cuda_software_add(struct cuda_software *s, pid_t pid);
int cuda_software_entry(const struct cuda_software *s, FermataGpuEntry *entry);
void cuda_software_release(struct cuda_software *s);
/* Against this machine; says so where it differs, and fails where it can't do. */
int cuda_software_compare(const FermataGpuEntry *entry, const struct gpu_machine *machine, struct error *e);
