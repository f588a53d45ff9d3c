/* Probes of NVIDIA's driver. */
#include "engine/probe/probe.h"
#include "gpu/gpu.h"

int probe_cuda(struct probe_ground *g)
{
	struct gpu_machine *machine = NULL;
	struct gpu *gpu = NULL;

	if (!gpu_present())
		return error_set(g->e, -ENODEV, "there is no NVIDIA driver on this machine");
	int r = gpu_open(NULL, NULL, &gpu, g->e);
	if (!r)
		r = gpu_ready(gpu, g->e);
	if (!r)
		r = gpu_machine_read(gpu, &machine, g->e);
	for (uint32_t i = 0; !r && i < machine->n_devices; i++)
		if (machine->devices[i].mig)
			r = error_set(g->e, -ENOTSUP, "GPU %s (%s) is divided (MIG)", machine->devices[i].uuid, machine->devices[i].name);
	free(machine);
	gpu_close(gpu);
	return r;
}
