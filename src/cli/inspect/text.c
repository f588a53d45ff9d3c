/* A checkpoint for people. See view.h. */
#include "cli/inspect/view.h"

#include <ctype.h>

struct amount {
	char text[32];
};

static struct amount amount_of(uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	struct amount a;
	double value = (double)bytes;
	size_t unit = 0;

	while (value >= 1024 && unit + 1 < ARRAY_SIZE(units)) {
		value /= 1024;
		unit++;
	}
	snprintf(a.text, sizeof(a.text), unit && value < 100 ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return a;
}

#define AMOUNT(bytes) amount_of(bytes).text

static void print_head(struct view *v)
{
	size_t tasks = v->images.tasks.count;

	printf("%s: %zu process%s, %llu thread%s, %llu descriptors; %s mapped in %llu areas, %s of it stored", v->request.images_dir, tasks,
	       tasks == 1 ? "" : "es", (unsigned long long)v->threads, v->threads == 1 ? "" : "s", (unsigned long long)v->descriptors,
	       AMOUNT(v->total.mapped), (unsigned long long)v->areas, AMOUNT(v->total.stored));
	if (v->shared)
		printf(", and %s of shared memory", AMOUNT(v->shared));
	printf("; %zu files of %s\n", v->files.count, AMOUNT(v->size));
}

static int depth_of(const struct rtask *t)
{
	int depth = 0;

	for (; t->parent; t = t->parent)
		depth++;
	return depth;
}

static void print_threads(const struct rtask *t)
{
	for (size_t i = 1; i < t->threads.count; i++)
		printf("%8d  %47s thread %s\n", t->threads.data[i].tid, "", thread_name(&t->threads.data[i]));
}

/* `t` and below. Parents stand before their children in the images; children are printed below their parents. */
static void print_task(struct view *v, const struct rtask *t, bool detailed)
{
	size_t number = 0;

	while (v->images.tasks.data[number] != t)
		number++;
	const struct view_memory *m = &v->memory[number];
	printf("%8d %8u %8u  %-7s  %7zu  %5zu  %5zu  %9s  %9s  ", t->pid, t->tree->pgid, t->tree->sid, task_state_name(t),
	       t->dead ? (size_t)0 : t->threads.count, t->fds.count, t->mm ? t->mm->n_vmas : (size_t)0, AMOUNT(m->mapped), AMOUNT(m->stored));
	printf("%*s%s", 2 * depth_of(t), "", task_name(t));
	if (m->with_parent)
		printf(" (and %s with its parent)", AMOUNT(m->with_parent));
	if (m->earlier)
		printf(" (and %s in an earlier checkpoint)", AMOUNT(m->earlier));
	putchar('\n');
	if (detailed)
		print_threads(t);
	for (size_t i = number + 1; i < v->images.tasks.count; i++)
		if (v->images.tasks.data[i]->parent == t)
			print_task(v, v->images.tasks.data[i], detailed);
}

static void print_tree(struct view *v, bool detailed)
{
	printf("\n     PID     PGID      SID  STATE    THREADS    FDS  AREAS     MAPPED     STORED  NAME\n");
	print_task(v, v->images.tasks.data[0], detailed);
}

static void print_descriptors(struct view *v, const struct rtask *t)
{
	struct file_words words;

	for (size_t i = 0; i < t->fds.count; i++) {
		const FdinfoEntry *fd = t->fds.data[i];
		const struct file *f = NULL;
		VEC_FOREACH(&v->images.files, x)
			if (x->id == fd->id)
				f = x;
		if (!f) {
			printf("%8u  a file that is not in files.img\n", fd->fd);
			continue;
		}
		describe_file(v, f, &words);
		printf("%8u  %-14s  %s", fd->fd, words.kind, words.what);
		if (words.has_position)
			printf("  at %llu", (unsigned long long)words.position);
		putchar('\n');
	}
}

static void print_areas(struct view *v, const struct rtask *t)
{
	struct area_words words;

	printf("  areas of memory; size, stored\n");
	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *area = t->mm->vmas[i];
		struct view_memory m = area_memory(t, area);
		describe_area(v, area, &words);
		printf("%18llx-%-16llx  %s  %9s  %9s  %s", (unsigned long long)area->start, (unsigned long long)area->end, words.access,
		       AMOUNT(m.mapped), m.stored ? AMOUNT(m.stored) : "-", words.what);
		if (words.offset && words.what[0] == '/')
			printf(" + 0x%llx", (unsigned long long)words.offset);
		putchar('\n');
	}
}

static void print_details(struct view *v, const struct rtask *t, bool detailed)
{
	if (t->dead)
		return;
	const char *exe = view_path(v, t->mm->exe_file_id), *cwd = view_path(v, t->fs->cwd_id), *root = view_path(v, t->fs->root_id);
	printf("\nprocess %d (%s): %s in %s", t->pid, task_name(t), exe ? exe : "?", cwd ? cwd : "?");
	if (root && strcmp(root, "/"))
		printf(", its root is %s", root);
	putchar('\n');
	print_descriptors(v, t);
	if (detailed)
		print_areas(v, t);
}

/* "pages-1.img" and "pages-22.img" are one group, "pages-N.img". */
static void group_of(const char *name, char group[64])
{
	size_t n = 0;

	for (; *name && n < 63; name++) {
		bool digit = isdigit((unsigned char)*name);
		if (!digit)
			group[n++] = *name;
		else if (n && group[n - 1] != 'N')
			group[n++] = 'N';
	}
	group[n] = '\0';
}

/* The files of a group in one line, at the place of the largest. */
static void print_group(struct view *v, size_t first, const char *group)
{
	char other[64];
	uint64_t size = 0;
	size_t count = 0;

	for (size_t i = 0; i < v->files.count; i++) {
		group_of(v->files.data[i].name, other);
		if (strcmp(group, other))
			continue;
		if (i < first)
			return;
		size += v->files.data[i].size;
		count++;
	}
	if (count == 1)
		printf("%14llu  %s\n", (unsigned long long)size, v->files.data[first].name);
	else
		printf("%14llu  %s (%zu files)\n", (unsigned long long)size, group, count);
}

static void print_images(struct view *v, bool detailed)
{
	char group[64];

	printf("\nfiles, in bytes\n");
	for (size_t i = 0; i < v->files.count; i++) {
		group_of(v->files.data[i].name, group);
		if (detailed)
			printf("%14llu  %s\n", (unsigned long long)v->files.data[i].size, v->files.data[i].name);
		else
			print_group(v, i, group);
	}
	printf("%14llu  together\n", (unsigned long long)v->size);
}

static void print_gpus(struct view *v)
{
	const FermataGpuEntry *gpu = v->images.inventory ? v->images.inventory->fermata_gpu : NULL;

	if (!gpu)
		return;
	printf("\nGPU state, made with driver %s (CUDA %u.%u)\n", gpu->driver, gpu->cuda / 1000, gpu->cuda % 1000 / 10);
	for (size_t i = 0; i < gpu->n_processes; i++) {
		const FermataGpuProcess *p = gpu->processes[i];
		printf("%8u  CUDA process, driver's thread %u%s\n", p->pid, p->restore_tid, p->stays ? ", checkpointed before, and stays so" : "");
		for (size_t k = 0; k < p->n_devices && k < p->n_used; k++)
			if (p->devices[k] < gpu->n_devices)
				printf("%8s  %s on GPU %s (%s)\n", "", AMOUNT(p->used[k]), gpu->devices[p->devices[k]]->uuid, gpu->devices[p->devices[k]]->name);
		for (size_t k = 0; k < p->n_regions; k++)
			if (p->regions[k]->device < gpu->n_devices)
				printf("%8s  %s of it in gpu-%u.img, from GPU %s\n", "", AMOUNT(p->regions[k]->size), p->pid, gpu->devices[p->regions[k]->device]->uuid);
		if (!p->n_regions && !p->stays)
			printf("%8s  in the process's own memory, where the driver has put it\n", "");
	}
	for (size_t i = 0; i < gpu->n_externals; i++)
		printf("%8s  %s%s%s, of the driver or the container's runtime: not saved\n", "", gpu->externals[i]->path, gpu->externals[i]->build_id ? ", build id " : "",
		       gpu->externals[i]->build_id ? gpu->externals[i]->build_id : "");
}

void view_print(struct view *v, bool detailed)
{
	print_head(v);
	print_tree(v, detailed);
	for (size_t i = 0; i < v->images.tasks.count; i++)
		print_details(v, v->images.tasks.data[i], detailed);
	print_gpus(v);
	print_images(v, detailed);
}
