/* What `check` says of GPUs: the driver, each GPU, what a dump will do with them, and whether the CDI specifications fit. See check.h. */
#include "cli/check.h"
#include "gpu/cdi.h"

static void tell_driver(const struct gpu_machine *m, void (*found)(void *data, const struct finding *f), void *data)
{
	struct finding f = { .name = "driver", .there = true };

	snprintf(f.version, sizeof(f.version), "%.40s, CUDA %u.%u", m->driver[0] ? m->driver : "unknown", m->cuda / 1000, m->cuda % 1000 / 10);
	snprintf(f.what, sizeof(f.what), "device memory is %s; restored on %s", m->own ? "copied past the processes (custom storage)" : "brought into the processes' memory by the driver",
		 m->maps ? "any GPU of the same model" : "the same GPUs only (others from 580 on)");
	found(data, &f);
}

static void tell_gpu(const struct gpu_machine *m, uint32_t i, void (*found)(void *data, const struct finding *f), void *data)
{
	const struct gpu_device *d = &m->devices[i];
	struct finding f = { .there = true };
	char name[16];
	size_t users = 0;

	snprintf(name, sizeof(name), "GPU %u", i);
	f.name = name;
	for (uint32_t k = 0; k < m->n_users; k++)
		users += m->users[k].device == i;
	snprintf(f.path, sizeof(f.path), "%s", d->uuid);
	snprintf(f.version, sizeof(f.version), "%.60s", d->name);
	snprintf(f.what, sizeof(f.what), "%s, %llu MiB of memory, %llu free, %zu process%s", d->uuid, (unsigned long long)d->total >> 20, (unsigned long long)d->free >> 20,
		 users, users == 1 ? "" : "es");
	if (d->mig)
		snprintf(f.why, sizeof(f.why), "it is divided (MIG), which can't be saved; see nvidia-smi -mig 0");
	found(data, &f);
}

static size_t tell_cdi(const struct gpu_machine *m, void (*found)(void *data, const struct finding *f), void *data)
{
	struct error ignored;
	struct cdi cdi;
	size_t bad = 0;

	if (cdi_read(NULL, &cdi, &ignored))
		return 0;
	VEC_FOREACH(&cdi.specs, spec) {
		struct finding f = { .name = "CDI", .there = true };
		char driver[32], why[sizeof(f.why) - 104];
		snprintf(f.path, sizeof(f.path), "%s", spec->file);
		snprintf(f.version, sizeof(f.version), "%.44s %.16s", spec->kind, spec->version);
		snprintf(f.what, sizeof(f.what), "%.180s: %zu devices, %zu mounts, driver %s", spec->file, spec->devices.count, spec->edits.mounts.count,
			 cdi_driver(spec, driver) ? driver : "not named");
		if (cdi_compare(spec, m, why, sizeof(why)))
			snprintf(f.why, sizeof(f.why), "%.99s: %s", spec->file, why);
		bad += f.why[0] != 0;
		found(data, &f);
	}
	VEC_FOREACH(&cdi.damaged, damage) {
		struct finding f = { .name = "CDI", .there = true };
		snprintf(f.path, sizeof(f.path), "%s", damage->file);
		snprintf(f.version, sizeof(f.version), "unreadable");
		snprintf(f.why, sizeof(f.why), "%.150s: %.200s", damage->file, damage->why.text);
		bad++;
		found(data, &f);
	}
	cdi_release(&cdi);
	return bad;
}

size_t check_gpus(void (*found)(void *data, const struct finding *f), void *data)
{
	struct gpu_machine *machine = NULL;
	struct gpu *gpu = NULL;
	struct error e = {};
	size_t bad = 0;

	if (!gpu_present())
		return 0;
	int r = gpu_open(NULL, getenv("FERMATA_GPU_SOCKET"), &gpu, &e);
	if (!r)
		r = gpu_ready(gpu, &e);
	if (!r)
		r = gpu_machine_read(gpu, &machine, &e);
	if (!r) { /* else the probe has said why */
		tell_driver(machine, found, data);
		for (uint32_t i = 0; i < machine->n_devices; i++)
			tell_gpu(machine, i, found, data);
		bad = tell_cdi(machine, found, data);
	}
	gpu_close(gpu);
	free(machine);
	return bad;
}
