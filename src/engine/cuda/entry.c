/* What the inventory says of CUDA processes. See parts.h. */
#include "engine/cuda/parts.h"

static int add_devices(const struct gpu_machine *m, FermataGpuEntry *entry)
{
	entry->devices = calloc(m->n_devices + 1, sizeof(*entry->devices));
	for (uint32_t i = 0; entry->devices && i < m->n_devices; i++) {
		FermataGpuDevice *device = calloc(1, sizeof(*device));
		if (!device)
			return -ENOMEM;
		fermata_gpu_device__init(device);
		entry->devices[entry->n_devices++] = device;
		device->uuid = strdup(m->devices[i].uuid);
		device->name = strdup(m->devices[i].name);
		device->memory = m->devices[i].total;
		if (!device->uuid || !device->name)
			return -ENOMEM;
	}
	return entry->devices ? 0 : -ENOMEM;
}

static int add_used(const struct gpu_machine *m, const struct cuda_process *p, FermataGpuProcess *process)
{
	process->devices = calloc(m->n_users + 1, sizeof(*process->devices));
	process->used = calloc(m->n_users + 1, sizeof(*process->used));
	if (!process->devices || !process->used)
		return -ENOMEM;
	for (uint32_t i = 0; i < m->n_users; i++)
		if (m->users[i].pid == (uint32_t)p->pid) {
			process->devices[process->n_devices++] = m->users[i].device;
			process->used[process->n_used++] = m->users[i].used == UINT64_MAX ? 0 : m->users[i].used;
		}
	return 0;
}

static int add_regions(const struct gpu_machine *m, const struct cuda_process *p, FermataGpuProcess *process)
{
	process->regions = p->n_regions ? calloc(p->n_regions, sizeof(*process->regions)) : NULL;
	for (size_t i = 0; i < p->n_regions; i++) {
		FermataGpuRegion *region = process->regions ? calloc(1, sizeof(*region)) : NULL;
		if (!region)
			return -ENOMEM;
		fermata_gpu_region__init(region);
		process->regions[process->n_regions++] = region;
		while (region->device < m->n_devices && strcmp(m->devices[region->device].uuid, p->regions[i].uuid))
			region->device++;
		if (region->device == m->n_devices)
			return -ENODEV;
		region->offset = p->regions[i].offset;
		region->size = p->regions[i].size;
	}
	return 0;
}

int cuda_entry(struct dump *d, FermataGpuEntry **ret)
{
	FermataGpuEntry *entry;
	int r;

	*ret = NULL;
	if (!d->cuda || !d->cuda->processes.count)
		return 0;
	entry = calloc(1, sizeof(*entry));
	if (!entry)
		return -ENOMEM;
	fermata_gpu_entry__init(entry);
	entry->driver = strdup(d->cuda->machine->driver);
	entry->cuda = d->cuda->machine->cuda;
	entry->processes = calloc(d->cuda->processes.count, sizeof(*entry->processes));
	r = entry->driver && entry->processes ? add_devices(d->cuda->machine, entry) : -ENOMEM;
	if (!r)
		r = cuda_software_entry(&d->cuda->software, entry);
	for (size_t i = 0; !r && i < d->cuda->processes.count; i++) {
		const struct cuda_process *p = &d->cuda->processes.data[i];
		FermataGpuProcess *process = calloc(1, sizeof(*process));
		if (!process) {
			r = -ENOMEM;
			break;
		}
		fermata_gpu_process__init(process);
		entry->processes[entry->n_processes++] = process;
		process->pid = (uint32_t)p->pid;
		process->restore_tid = (uint32_t)p->thread.tid;
		process->stays = p->before == GPU_CHECKPOINTED;
		r = add_used(d->cuda->machine, p, process);
		if (!r)
			r = add_regions(d->cuda->machine, p, process);
	}
	if (r)
		cuda_entry_free(entry);
	else
		*ret = entry;
	return r;
}

void cuda_entry_free(FermataGpuEntry *entry)
{
	if (entry)
		fermata_gpu_entry__free_unpacked(entry, NULL);
}
