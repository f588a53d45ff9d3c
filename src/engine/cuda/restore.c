/* CUDA processes in a restore. See cuda.h. */
#include "base/log.h"
#include "engine/cuda/cuda.h"
#include "engine/cuda/images.h"
#include "engine/cuda/software.h"
#include "engine/restore.h"

#include <sys/ptrace.h>

#define PROCESSES_MAX 4096
#define REGION_MAX (1ULL << 42)

struct cuda_restore {
	struct gpu *gpu;
	struct gpu_machine *machine;
	struct gpu_pair *pairs; /* every GPU of the checkpoint */
	size_t n_pairs;
	struct cuda_source *sources; /* of each process of the entry */
	size_t n_sources;
	bool moved;   /* a GPU is another than it was */
	bool stalled; /* a call has neither ended nor failed */
};

static const FermataGpuEntry *entry_of(const struct restore *s)
{
	return s->inventory ? s->inventory->fermata_gpu : NULL;
}

static struct gpu_device *find_device(struct gpu_machine *m, const char *uuid)
{
	for (uint32_t i = 0; i < m->n_devices; i++)
		if (!strcmp(m->devices[i].uuid, uuid))
			return &m->devices[i];
	return NULL;
}

/* ---- before any process is made ---- */

static bool is_used(const FermataGpuEntry *entry, size_t device)
{
	bool any = false;

	for (size_t i = 0; i < entry->n_processes; i++)
		for (size_t k = 0; k < entry->processes[i]->n_devices; k++) {
			any = true;
			if (entry->processes[i]->devices[k] == device)
				return true;
		}
	for (size_t i = 0; i < entry->n_processes; i++)
		for (size_t k = 0; k < entry->processes[i]->n_regions; k++) {
			any = true;
			if (entry->processes[i]->regions[k]->device == device)
				return true;
		}
	return !any; /* NVML did not tell */
}

/* One behind the other, as the helper lays them out. */
static bool regions_fit(const FermataGpuEntry *entry, const FermataGpuProcess *p)
{
	uint64_t end = 0;

	for (size_t i = 0; i < p->n_regions; i++) {
		const FermataGpuRegion *x = p->regions[i];
		if (i >= GPU_DEVICES_MAX || x->device >= entry->n_devices || x->offset != ALIGN_UP(end, GPU_BLOCK) || !x->size || x->size > REGION_MAX)
			return false;
		end = x->offset + x->size;
	}
	return true;
}

static int check_entry(struct restore *s, const FermataGpuEntry *entry)
{
	if (entry->n_devices > GPU_DEVICES_MAX || entry->n_processes > PROCESSES_MAX)
		return error_set(s->e, -EBADMSG, "inventory.img has more GPUs or CUDA processes than there can be");
	for (size_t i = 0; i < entry->n_processes; i++) {
		const FermataGpuProcess *p = entry->processes[i];
		struct rtask *task = NULL;
		bool thread = false;
		for (size_t k = 0; k < s->tasks.count; k++)
			if (s->tasks.data[k]->pid == (pid_t)p->pid)
				task = s->tasks.data[k];
		for (size_t k = 0; task && !task->dead && k < task->threads.count; k++)
			thread |= task->threads.data[k].tid == (pid_t)p->restore_tid;
		if (!thread || p->n_used != p->n_devices)
			return error_set(s->e, -EBADMSG, "inventory.img has CUDA process %u with thread %u, which is not in the checkpoint", p->pid, p->restore_tid);
		for (size_t k = 0; k < p->n_devices; k++)
			if (p->devices[k] >= entry->n_devices)
				return error_set(s->e, -EBADMSG, "inventory.img has a GPU number that can't be");
		if (!regions_fit(entry, p))
			return error_set(s->e, -EBADMSG, "inventory.img has GPU memory of process %u that can't be", p->pid);
	}
	return 0;
}

static const char *asked_for(const struct restore *s, const char *uuid)
{
	for (size_t i = 0; i < s->request->n_gpu_map; i++)
		if (!strcmp(s->request->gpu_map[i].from, uuid))
			return s->request->gpu_map[i].to;
	return NULL;
}

static bool is_taken(const struct cuda_restore *c, const char *uuid)
{
	for (size_t i = 0; i < c->n_pairs; i++)
		if (!strcmp(c->pairs[i].to, uuid))
			return true;
	return false;
}

/* Of the same model, and not one that the checkpoint knows by its own name. */
static struct gpu_device *choose_device(struct restore *s, const FermataGpuEntry *entry, const char *name)
{
	for (uint32_t i = 0; i < s->cuda->machine->n_devices; i++) {
		struct gpu_device *d = &s->cuda->machine->devices[i];
		bool known = false;
		for (size_t k = 0; k < entry->n_devices; k++)
			known |= !strcmp(entry->devices[k]->uuid, d->uuid) && is_used(entry, k);
		if (!known && !strcmp(d->name, name) && !is_taken(s->cuda, d->uuid))
			return d;
	}
	return NULL;
}

static int pair_device(struct restore *s, const FermataGpuEntry *entry, size_t i)
{
	struct cuda_restore *c = s->cuda;
	const FermataGpuDevice *from = entry->devices[i];
	const char *asked = asked_for(s, from->uuid);
	struct gpu_device *to = find_device(c->machine, asked ? asked : from->uuid);

	if (asked && !to)
		return error_set(s->e, -ENODEV, "there is no GPU %s here; see nvidia-smi -L", asked);
	if (!to && !(to = choose_device(s, entry, from->name)))
		return error_set(s->e, -ENODEV, "GPU %s (%s) is not here, nor a free one of the same model; name one with --gpu-map %s=UUID", from->uuid, from->name,
				 from->uuid);
	if (strcmp(to->name, from->name))
		return error_set(s->e, -ENODEV, "GPU %s is of another model (%s) than it was saved on (%s)", to->uuid, to->name, from->name);
	c->moved |= strcmp(to->uuid, from->uuid) != 0;
	snprintf(c->pairs[c->n_pairs].from, GPU_UUID_MAX, "%s", from->uuid);
	snprintf(c->pairs[c->n_pairs++].to, GPU_UUID_MAX, "%s", to->uuid);
	uint64_t need = 0;
	for (size_t k = 0; k < entry->n_processes; k++)
		for (size_t u = 0; u < entry->processes[k]->n_devices; u++)
			need += entry->processes[k]->devices[u] == i ? entry->processes[k]->used[u] : 0;
	if (need > to->free)
		return error_set(s->e, -ENOMEM, "GPU %s has %llu MiB of memory free, and %llu MiB are needed", to->uuid, (unsigned long long)to->free >> 20,
				 (unsigned long long)need >> 20);
	return 0;
}

static int compare(struct restore *s, const FermataGpuEntry *entry)
{
	struct cuda_restore *c = s->cuda;
	int r = 0;

	c->pairs = calloc(entry->n_devices + 1, sizeof(*c->pairs));
	if (!c->pairs)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < entry->n_devices; i++)
		if (is_used(entry, i))
			r = pair_device(s, entry, i);
	if (r)
		return r;
	if (c->moved && !c->machine->maps)
		return error_set(s->e, -ENOTSUP, "it was saved on other GPUs; the driver can move it from 580 on, and here is %s", c->machine->driver);
	return cuda_software_compare(entry, c->machine, s->e);
}

static uint64_t image_size(const FermataGpuProcess *p)
{
	const FermataGpuRegion *last = p->n_regions ? p->regions[p->n_regions - 1] : NULL;

	return last ? last->offset + last->size : 0;
}

/* The images of those whose device memory does not lie in their own. */
static int open_sources(struct restore *s, const FermataGpuEntry *entry)
{
	struct cuda_restore *c = s->cuda;
	uint64_t size = 0;
	int r = 0;

	for (size_t i = 0; i < entry->n_processes; i++)
		size += image_size(entry->processes[i]);
	if (!size)
		return 0;
	if (!c->machine->own)
		return error_set(s->e, -ENOTSUP, "its GPU memory was saved past its processes (custom storage), which this driver, %s, can't restore; "
				 "it takes 615 or later, or a dump with --gpu-staged", c->machine->driver);
	if (image_is_packed(s->dir) && size > cuda_memory_available())
		return error_set(s->e, -ENOMEM, "%llu MiB of GPU memory are unpacked to memory first, and %llu MiB are available", (unsigned long long)size >> 20,
				 (unsigned long long)cuda_memory_available() >> 20);
	c->sources = calloc(entry->n_processes, sizeof(*c->sources));
	if (!c->sources)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (; !r && c->n_sources < entry->n_processes; c->n_sources++) {
		struct cuda_source *x = &c->sources[c->n_sources];
		*x = (struct cuda_source){ .fd = -1, .digests = -1 };
		if (entry->processes[c->n_sources]->n_regions && !entry->processes[c->n_sources]->stays)
			r = cuda_source_open(s, x, (pid_t)entry->processes[c->n_sources]->pid, image_size(entry->processes[c->n_sources]));
	}
	return r;
}

int cuda_prepare(struct restore *s)
{
	const FermataGpuEntry *entry = entry_of(s);
	bool any = false;
	int r;

	for (size_t i = 0; entry && i < entry->n_processes; i++)
		any |= !entry->processes[i]->stays;
	if (!any)
		return 0;
	if (s->request->gpu == GPU_NEVER)
		return error_set(s->e, -EINVAL, "the checkpoint holds GPU state; restore it without --no-gpu");
	r = check_entry(s, entry);
	if (!r && !(s->cuda = calloc(1, sizeof(*s->cuda))))
		r = error_set(s->e, -ENOMEM, "out of memory");
	if (!r)
		r = gpu_open(NULL, s->request->gpu_helper, &s->cuda->gpu, s->e);
	if (!r)
		r = gpu_ready(s->cuda->gpu, s->e);
	if (!r)
		r = gpu_machine_read(s->cuda->gpu, &s->cuda->machine, s->e);
	if (!r)
		r = compare(s, entry);
	if (!r)
		r = open_sources(s, entry);
	return r ? error_prefix(s->e, r, "the checkpoint holds GPU state, which can't be restored here") : 0;
}

/* ---- all stand ready ---- */

static struct rthread *find_thread(struct restore *s, const FermataGpuProcess *p)
{
	for (size_t i = 0; i < s->tasks.count; i++)
		for (size_t k = 0; s->tasks.data[i]->pid == (pid_t)p->pid && k < s->tasks.data[i]->threads.count; k++)
			if (s->tasks.data[i]->threads.data[k].tid == (pid_t)p->restore_tid)
				return &s->tasks.data[i]->threads.data[k];
	return NULL;
}

/* Which GPUs, and where what was on them is. */
static void name_memory(struct restore *s, struct gpu_call *call)
{
	const FermataGpuEntry *entry = entry_of(s);
	const struct cuda_restore *c = s->cuda;
	size_t i = 0;

	call->pairs = c->moved ? c->pairs : NULL;
	call->n_pairs = c->moved ? c->n_pairs : 0;
	while ((pid_t)entry->processes[i]->pid != call->pid) /* it is from there */
		i++;
	const FermataGpuProcess *p = entry->processes[i];
	if (!p->n_regions)
		return;
	call->own = true;
	call->fd = c->sources[i].fd;
	call->digests = c->sources[i].digests;
	call->in_memory = c->sources[i].in_memory;
	call->offset = c->sources[i].offset;
	call->n_regions = p->n_regions;
	for (size_t k = 0; k < p->n_regions; k++) {
		const char *uuid = entry->devices[p->regions[k]->device]->uuid;
		call->regions[k] = (struct gpu_region){ .offset = p->regions[k]->offset, .size = p->regions[k]->size };
		for (size_t q = 0; q < c->n_pairs; q++)
			if (!strcmp(c->pairs[q].from, uuid))
				snprintf(call->regions[k].uuid, GPU_UUID_MAX, "%s", c->pairs[q].to);
	}
}

static int call_all(struct restore *s, enum gpu_op op, struct cuda_thread *threads, size_t n)
{
	_cleanup_free_ struct gpu_call *calls = calloc(n, sizeof(*calls));
	int r = 0;

	if (!calls)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++) {
		calls[i] = (struct gpu_call){ .op = op, .pid = threads[i].pid };
		if (op == GPU_RESTORE)
			name_memory(s, &calls[i]);
	}
	r = cuda_call(s->cuda->gpu, calls, n, threads, n, cuda_deadline(s->request), s->e);
	for (size_t i = 0; i < n; i++)
		s->cuda->stalled |= !calls[i].done;
	for (size_t i = 0; !r && i < n; i++)
		if (calls[i].result)
			r = error_set(s->e, calls[i].result, "process %d: the GPU's driver failed to %s it: %s", calls[i].pid, gpu_op_name(op), calls[i].why);
	return r;
}

int cuda_restore(struct restore *s)
{
	const FermataGpuEntry *entry = entry_of(s);
	_cleanup_free_ struct cuda_thread *threads = NULL;
	size_t n = 0;
	int r;

	if (!s->cuda)
		return 0;
	threads = calloc(entry->n_processes, sizeof(*threads));
	if (!threads)
		return error_set(s->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < entry->n_processes; i++) {
		struct rthread *th = entry->processes[i]->stays ? NULL : find_thread(s, entry->processes[i]);
		if (th)
			threads[n++] = (struct cuda_thread){ (pid_t)entry->processes[i]->pid, th->tid, &th->tracee, 0, false };
	}
	log_info("Restoring the GPU state of %zu processes", n);
	r = call_all(s, GPU_RESTORE, threads, n);
	for (size_t i = 0; !r && i < s->cuda->n_sources; i++)
		r = cuda_source_check(s, &s->cuda->sources[i]);
	if (!r)
		r = call_all(s, GPU_UNLOCK, threads, n);
	for (size_t i = 0; i < n; i++) {
		struct error why = {};
		int stopped = cuda_thread_stop(&threads[i], &why);
		if (stopped && !r)
			r = error_set(s->e, stopped, "%s", why.text);
	}
	if (!r)
		log_info("%zu CUDA processes have their GPUs again", n);
	return r;
}

void cuda_release(struct restore *s)
{
	if (!s->cuda)
		return;
	if (s->cuda->stalled) /* the processes are gone, and with them what it would do */
		gpu_leave(s->cuda->gpu);
	else
		gpu_close(s->cuda->gpu);
	for (size_t i = 0; i < s->cuda->n_sources; i++)
		cuda_source_close(&s->cuda->sources[i]);
	free(s->cuda->sources);
	free(s->cuda->machine);
	free(s->cuda->pairs);
	free(TAKE_PTR(s->cuda));
}
