/* A checkpoint for programs: one JSON document. See view.h. Sizes are in bytes, addresses are strings in hexadecimal. */
#include "cli/inspect/view.h"

#include <jansson.h>

/* Text of the images need not be UTF-8. */
static json_t *text(const char *s)
{
	json_t *value = s ? json_string(s) : json_null();
	char *clean = value ? NULL : strdup(s);

	for (char *at = clean; at && *at; at++)
		if ((unsigned char)*at >= 0x80)
			*at = '?';
	if (clean)
		value = json_string(clean);
	free(clean);
	return value;
}

static json_t *address(uint64_t at)
{
	char number[24];

	snprintf(number, sizeof(number), "0x%llx", (unsigned long long)at);
	return json_string(number);
}

static json_t *memory(const struct view_memory *m)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "mapped", (json_int_t)m->mapped, "stored", (json_int_t)m->stored, "with_parent",
			 (json_int_t)m->with_parent, "in_earlier_checkpoint", (json_int_t)m->earlier);
}

static json_t *make_threads(const struct rtask *t)
{
	json_t *list = json_array();

	VEC_FOREACH(&t->threads, th)
		json_array_append_new(list, json_pack("{s:i, s:o}", "tid", (int)th->tid, "name", text(thread_name(th))));
	return list;
}

static json_t *make_descriptors(struct view *v, const struct rtask *t)
{
	json_t *list = json_array();
	struct file_words words;

	for (size_t i = 0; i < t->fds.count; i++) {
		const FdinfoEntry *fd = t->fds.data[i];
		json_t *item = json_pack("{s:i, s:i, s:b}", "fd", (int)fd->fd, "id", (int)fd->id, "close_on_exec", fd->flags != 0);
		VEC_FOREACH(&v->images.files, f) {
			if (f->id != fd->id)
				continue;
			describe_file(v, f, &words);
			json_object_set_new(item, "kind", json_string(words.kind));
			json_object_set_new(item, "what", text(words.what));
			if (words.has_position)
				json_object_set_new(item, "position", json_integer((json_int_t)words.position));
		}
		json_array_append_new(list, item);
	}
	return list;
}

static json_t *make_areas(struct view *v, const struct rtask *t)
{
	json_t *list = json_array();
	struct area_words words;

	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *area = t->mm->vmas[i];
		struct view_memory m = area_memory(t, area);
		describe_area(v, area, &words);
		json_array_append_new(list, json_pack("{s:o, s:o, s:s, s:I, s:o, s:o}", "start", address(area->start), "end",
						      address(area->end), "access", words.access, "offset", (json_int_t)words.offset,
						      "what", text(words.what), "memory", memory(&m)));
	}
	return list;
}

static json_t *make_process(struct view *v, size_t number)
{
	const struct rtask *t = v->images.tasks.data[number];
	json_t *process = json_pack("{s:i, s:i, s:i, s:i, s:o, s:s, s:o, s:o, s:o}", "pid", (int)t->pid, "ppid", (int)t->tree->ppid, "pgid",
				    (int)t->tree->pgid, "sid", (int)t->tree->sid, "name", text(task_name(t)), "state", task_state_name(t),
				    "threads", make_threads(t), "memory", memory(&v->memory[number]), "descriptors", make_descriptors(v, t));

	if (t->dead)
		return process;
	json_object_set_new(process, "executable", text(view_path(v, t->mm->exe_file_id)));
	json_object_set_new(process, "cwd", text(view_path(v, t->fs->cwd_id)));
	json_object_set_new(process, "root", text(view_path(v, t->fs->root_id)));
	json_object_set_new(process, "areas", make_areas(v, t));
	return process;
}

static json_t *make_totals(struct view *v)
{
	return json_pack("{s:i, s:I, s:I, s:I, s:o, s:I, s:I}", "processes", (int)v->images.tasks.count, "threads", (json_int_t)v->threads,
			 "descriptors", (json_int_t)v->descriptors, "areas", (json_int_t)v->areas, "memory", memory(&v->total),
			 "shared_memory_stored", (json_int_t)v->shared, "size", (json_int_t)v->size);
}

static json_t *make_gpu(const FermataGpuEntry *gpu)
{
	json_t *processes = json_array(), *devices = json_array();

	for (size_t i = 0; i < gpu->n_devices; i++)
		json_array_append_new(devices, json_pack("{s:o, s:o, s:I}", "uuid", text(gpu->devices[i]->uuid), "name", text(gpu->devices[i]->name),
							 "memory", (json_int_t)gpu->devices[i]->memory));
	for (size_t i = 0; i < gpu->n_processes; i++) {
		const FermataGpuProcess *p = gpu->processes[i];
		json_t *used = json_array(), *regions = json_array();
		for (size_t k = 0; k < p->n_devices && k < p->n_used; k++)
			json_array_append_new(used, json_pack("{s:i, s:I}", "device", (int)p->devices[k], "bytes", (json_int_t)p->used[k]));
		for (size_t k = 0; k < p->n_regions; k++)
			json_array_append_new(regions, json_pack("{s:i, s:I, s:I}", "device", (int)p->regions[k]->device, "offset", (json_int_t)p->regions[k]->offset,
								 "bytes", (json_int_t)p->regions[k]->size));
		json_array_append_new(processes, json_pack("{s:i, s:i, s:b, s:o, s:o}", "pid", (int)p->pid, "restore_thread", (int)p->restore_tid,
							   "stays_checkpointed", (int)p->stays, "used", used, "image_regions", regions));
	}
	json_t *externals = json_array();
	for (size_t i = 0; i < gpu->n_externals; i++)
		json_array_append_new(externals, json_pack("{s:o, s:o*}", "path", text(gpu->externals[i]->path), "build_id",
							   gpu->externals[i]->build_id ? text(gpu->externals[i]->build_id) : NULL));
	return json_pack("{s:o, s:i, s:o, s:o, s:o}", "driver", text(gpu->driver), "cuda", (int)gpu->cuda, "devices", devices, "processes", processes, "externals",
			 externals);
}

json_t *view_json(struct view *v)
{
	json_t *processes = json_array(), *files = json_array();

	for (size_t i = 0; i < v->images.tasks.count; i++)
		json_array_append_new(processes, make_process(v, i));
	VEC_FOREACH(&v->files, f)
		json_array_append_new(files, json_pack("{s:o, s:I}", "name", text(f->name), "size", (json_int_t)f->size));
	json_t *root = json_pack("{s:o, s:o, s:o, s:o}", "checkpoint", text(v->request.images_dir), "totals", make_totals(v), "processes",
				 processes, "files", files);
	if (root && v->images.inventory && v->images.inventory->fermata_gpu)
		json_object_set_new(root, "gpu", make_gpu(v->images.inventory->fermata_gpu));
	return root;
}
