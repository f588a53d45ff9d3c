/* See view.h. */
#include "cli/inspect/view.h"

#include "engine/load.h"
#include "engine/task/task.h"
#include "engine/watch.h"
#include "pipe_data.pb-c.h"

#include <fcntl.h>
#include <sys/stat.h>

#define PAGE_STORED 4 /* of PagemapEntry.flags; entries of older images have no flags, and are stored */

const char *task_state_name(const struct rtask *t)
{
	return t->dead ? "zombie" : t->stopped ? "stopped" : "running";
}

const char *task_name(const struct rtask *t)
{
	return t->core->tc->comm;
}

const char *thread_name(const struct rthread *th)
{
	const ThreadCoreEntry *core = th->core->thread_core;

	return core && core->comm ? core->comm : th->core->tc ? th->core->tc->comm : "";
}

static struct file *find_file(struct view *v, uint32_t id)
{
	VEC_FOREACH(&v->images.files, f)
		if (f->id == id)
			return f;
	return NULL;
}

const char *view_path(struct view *v, uint32_t id)
{
	const struct file *f = find_file(v, id);

	return f && f->entry->reg ? f->entry->reg->name : NULL;
}

static void add_pages(struct view_memory *m, const PagemapEntry *p, uint64_t bytes)
{
	if (p->forked)
		m->with_parent += bytes;
	else if (p->in_parent || (p->has_flags && !(p->flags & PAGE_STORED)))
		m->earlier += bytes;
	else
		m->stored += bytes;
}

struct view_memory area_memory(const struct rtask *t, const VmaEntry *area)
{
	struct view_memory m = { .mapped = area->end - area->start };
	size_t low = 0, high = t->pages.count;

	while (low < high) { /* the first that ends after the area's start */
		size_t middle = (low + high) / 2;
		const PagemapEntry *p = t->pages.data[middle];
		if (p->vaddr + p->nr_pages * PAGE_SIZE <= area->start)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < t->pages.count && t->pages.data[low]->vaddr < area->end; low++) {
		const PagemapEntry *p = t->pages.data[low];
		uint64_t start = MAX(p->vaddr, area->start), end = MIN(p->vaddr + p->nr_pages * PAGE_SIZE, area->end);
		add_pages(&m, p, end > start ? end - start : 0);
	}
	return m;
}

static void add_task(struct view *v, const struct rtask *t, struct view_memory *m)
{
	v->threads += t->threads.count;
	v->descriptors += t->fds.count;
	if (!t->mm)
		return;
	v->areas += t->mm->n_vmas;
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		m->mapped += t->mm->vmas[i]->end - t->mm->vmas[i]->start;
	for (size_t i = 0; i < t->pages.count; i++)
		add_pages(m, t->pages.data[i], t->pages.data[i]->nr_pages * PAGE_SIZE);
	v->total.mapped += m->mapped;
	v->total.stored += m->stored;
	v->total.with_parent += m->with_parent;
	v->total.earlier += m->earlier;
}

/* ---- images that a restore reads only as it goes on ---- */

static int read_shared(struct view *v, const char *name)
{
	struct image_file *file;
	ProtobufCMessage *m;
	int r = image_open(v->images.dir, name, IMAGE_MAGIC_PAGEMAP, &file);

	if (r)
		return r;
	r = image_read_message(file, &pagemap_head__descriptor, &m);
	if (r == 1)
		protobuf_c_message_free_unpacked(m, NULL);
	while (r == 1 && (r = image_read_message(file, &pagemap_entry__descriptor, &m)) == 1) {
		struct view_memory sum = {};
		const PagemapEntry *p = (PagemapEntry *)m;
		add_pages(&sum, p, p->nr_pages * PAGE_SIZE);
		v->shared += sum.stored;
		protobuf_c_message_free_unpacked(m, NULL);
	}
	image_close(file);
	return r;
}

static int read_memfds(struct view *v)
{
	struct image_file *file;
	ProtobufCMessage *m;
	int r = image_open(v->images.dir, "memfd.img", IMAGE_MAGIC_MEMFD, &file);

	if (r)
		return r == -ENOENT ? 0 : r;
	while ((r = image_read_message(file, &memfd_inode_entry__descriptor, &m)) == 1) {
		MemfdInodeEntry **slot = VEC_PUSH(&v->memfds);
		if (!slot) {
			protobuf_c_message_free_unpacked(m, NULL);
			r = -ENOMEM;
			break;
		}
		*slot = (MemfdInodeEntry *)m;
	}
	image_close(file);
	return r;
}

/* Each record is followed by the bytes that were in the pipe. */
static int read_pipes(struct view *v, const char *name, uint32_t magic)
{
	struct image_file *file;
	ProtobufCMessage *m;
	char skipped[4096];
	int s, r = image_open(v->images.dir, name, magic, &file);

	if (r)
		return r == -ENOENT ? 0 : r;
	for (s = 0; !s && (r = image_read_message(file, &pipe_data_entry__descriptor, &m)) == 1;) {
		const PipeDataEntry *p = (PipeDataEntry *)m;
		struct view_pipe *slot = VEC_PUSH(&v->pipes);
		s = slot ? 0 : -ENOMEM;
		if (slot)
			*slot = (struct view_pipe){ p->pipe_id, p->bytes };
		for (uint32_t left = p->bytes, n; !s && left; left -= n)
			s = image_read_bytes(file, skipped, n = MIN(left, (uint32_t)sizeof(skipped)));
		protobuf_c_message_free_unpacked(m, NULL);
	}
	image_close(file);
	return s ? s : r;
}

static int by_size(const void *a, const void *b)
{
	const struct view_image *x = a, *y = b;

	return x->size != y->size ? (x->size < y->size ? 1 : -1) : strcmp(x->name, y->name);
}

static bool is_image(const char *name)
{
	size_t length = strlen(name);

	return !strcmp(name, "fermata.json") || (length > 4 && length < sizeof(((struct view_image *)0)->name) && !strcmp(name + length - 4, ".img"));
}

static int take_image(void *data, const char *name, uint64_t size)
{
	struct view *v = data;

	if (!is_image(name))
		return 0;
	struct view_image *image = VEC_PUSH(&v->files);
	if (!image)
		return -ENOMEM;
	snprintf(image->name, sizeof(image->name), "%s", name);
	image->size = size;
	v->size += size;
	return 0;
}

static int list_images(struct view *v)
{
	int r = image_dir_list(v->images.dir, take_image, v);

	if (v->files.count)
		qsort(v->files.data, v->files.count, sizeof(*v->files.data), by_size);
	return r;
}

static int read_rest(struct view *v, struct error *e)
{
	int r = list_images(v);

	if (r)
		return error_errno(e, r, "cannot list the directory");
	VEC_FOREACH(&v->files, f)
		if (!strncmp(f->name, "pagemap-shmem-", 14) && (r = read_shared(v, f->name)))
			return error_errno(e, r, "%s is damaged", f->name);
	if ((r = read_memfds(v)))
		return error_errno(e, r, "memfd.img is damaged");
	if ((r = read_pipes(v, "pipes-data.img", IMAGE_MAGIC_PIPES_DATA)))
		return error_errno(e, r, "pipes-data.img is damaged");
	if ((r = read_pipes(v, "fifo-data.img", IMAGE_MAGIC_FIFO_DATA)))
		return error_errno(e, r, "fifo-data.img is damaged");
	return 0;
}

int view_read(struct view *v, struct error *e)
{
	struct watch watch;

	v->images = (struct restore){ .request = &v->request, .e = e, .tty = -1 };
	int r = restore_open(v->request.images_dir, v->request.packing.key, &v->images.dir, e);

	if (!r) {
		image_dir_set_meter(v->images.dir, &v->meter);
		watch_begin(&watch, &v->request, STAGE_VERIFY, meter_count, &v->meter);
		r = restore_read(&v->images);
		watch_end(&watch);
	}
	if (!r)
		r = read_rest(v, e);
	if (!r && !(v->memory = calloc(v->images.tasks.count, sizeof(*v->memory))))
		r = error_set(e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < v->images.tasks.count; i++)
		add_task(v, v->images.tasks.data[i], &v->memory[i]);
	return r;
}

bool view_has_manifest(const struct view *v)
{
	VEC_FOREACH(&v->files, f)
		if (!strcmp(f->name, IMAGE_MANIFEST))
			return true;
	return false;
}

void view_finish(struct view *v)
{
	for (size_t i = 0; i < v->memfds.count; i++)
		memfd_inode_entry__free_unpacked(v->memfds.data[i], NULL);
	VEC_FREE(&v->memfds);
	VEC_FREE(&v->pipes);
	VEC_FREE(&v->files);
	free(v->memory);
	restore_unload(&v->images);
	image_dir_free(v->images.dir);
}
