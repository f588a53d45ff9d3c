/* See load.h. */
#include "engine/load.h"

#include "base/workers.h"
#include "engine/arch/x86_64/processor.h"
#include "engine/cgroups.h"
#include "engine/foreign.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/locks.h"
#include "engine/kinds/tcp.h"
#include "engine/kinds/udp.h"
#include "engine/memory/parents.h"
#include "engine/ns/ns.h"
#include "engine/task/calls.h"
#include "engine/task/state.h"
#include "image/store/store.h"

#define TASKS_MAX 32768
#define DEPTH_MAX 4096 /* of the tree: planning goes down it */
#define THREADS_MAX 100000
#define PID_MAX (4 << 20)
#define EARLY_AT_ONCE 8
#define EARLY_SEVERAL 64 /* images; fewer are not worth a thread */
#define TASK_END 0x7ffffffff000ULL

int restore_read_one(struct restore *s, const char *name, uint32_t magic, const ProtobufCMessageDescriptor *type, void *ret)
{
	struct image_file *file;

	if (*(ProtobufCMessage **)ret) /* load_early */
		return 0;
	int r = image_open(s->dir, name, magic, &file);
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	r = image_read_message(file, type, ret);
	image_close(file);
	return r == 1 ? 0 : error_set(s->e, r ? r : -EBADMSG, "%s is truncated or damaged", name);
}

/* All messages of an image, each given to `take`, which owns it. A missing image is one without messages where `optional`. */
static int load_all(struct restore *s, const char *name, uint32_t magic, const ProtobufCMessageDescriptor *type, bool optional,
		    int (*take)(struct restore *s, void *to, ProtobufCMessage *m), void *to)
{
	struct image_file *file;
	ProtobufCMessage *m;
	int r = image_open(s->dir, name, magic, &file);

	if (r == -ENOENT && optional)
		return 0;
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	while ((r = image_read_message(file, type, &m)) == 1) {
		r = take(s, to, m);
		if (r) {
			protobuf_c_message_free_unpacked(m, NULL);
			break;
		}
	}
	image_close(file);
	return r ? error_errno(s->e, r, "%s is damaged", name) : 0;
}

#define TAKER(name, type, list) \
	static int take_##name(struct restore *s, void *to, ProtobufCMessage *m) \
	{ \
		type **slot = VEC_PUSH(list); \
		if (slot) \
			*slot = (type *)m; \
		return slot ? 0 : -ENOMEM; \
	}
TAKER(remap, RemapFilePathEntry, &s->remaps)
TAKER(lock, FileLockEntry, &s->locks)
TAKER(tty, TtyInfoEntry, &s->ttys)

static int take_fd(struct restore *s, void *to, ProtobufCMessage *m)
{
	struct rtask *t = to;
	FdinfoEntry *e = (FdinfoEntry *)m, **slot = e->fd < FD_MAX ? VEC_PUSH(&t->fds) : NULL;

	if (!slot)
		return e->fd < FD_MAX ? -ENOMEM : -EBADMSG;
	*slot = e;
	return 0;
}

static int take_thread_fd(struct restore *s, void *to, ProtobufCMessage *m)
{
	struct rthread *th = to;
	FdinfoEntry *e = (FdinfoEntry *)m, **slot = e->fd < FD_MAX ? VEC_PUSH(&th->fds) : NULL;

	if (!slot)
		return e->fd < FD_MAX ? -ENOMEM : -EBADMSG;
	*slot = e;
	return 0;
}

static int take_file(struct restore *s, void *to, ProtobufCMessage *m)
{
	struct file *f = VEC_PUSH(&s->files);

	if (!f)
		return -ENOMEM;
	*f = (struct file){ .id = ((FileEntry *)m)->id, .entry = (FileEntry *)m, .fd = -1 };
	return 0;
}

static int take_task(struct restore *s, void *to, ProtobufCMessage *m)
{
	PstreeEntry *tree = (PstreeEntry *)m;

	/* CRIU's entries of those that have ended have something else there. */
	const bool ended = tree->n_threads == 1 && tree->threads[0] != tree->pid;
	if (ended)
		tree->threads[0] = tree->pid;
	if (s->tasks.count == TASKS_MAX || !tree->n_threads || tree->n_threads > THREADS_MAX || tree->threads[0] != tree->pid)
		return -EBADMSG;
	struct rtask *t = calloc(1, sizeof(*t)), **slot = t ? VEC_PUSH(&s->tasks) : NULL;
	if (!slot) {
		free(t);
		return -ENOMEM;
	}
	*slot = t;
	t->tree = tree;
	t->pid = (pid_t)tree->pid;
	t->must_have_ended = ended;
	t->pages_fd = t->mem_fd = -1;
	for (size_t i = 0; i + 1 < s->tasks.count; i++) {
		if (s->tasks.data[i]->tree->pid == tree->pid)
			goto bad;
		if (s->tasks.data[i]->tree->pid == tree->ppid)
			t->parent = s->tasks.data[i];
	}
	if (!t->parent && s->tasks.count > 1)
		goto bad;
	t->depth = t->parent ? t->parent->depth + 1 : 0;
	if (t->depth > DEPTH_MAX)
		goto bad;
	for (size_t i = 0; i < tree->n_threads; i++) {
		struct rthread *th = tree->threads[i] && tree->threads[i] < PID_MAX ? VEC_PUSH(&t->threads) : NULL;
		if (!th)
			goto bad;
		th->tid = (pid_t)tree->threads[i];
	}
	return 0;
bad:
	/* The message goes back to the caller, the task stays to be released. */
	t->tree = NULL;
	return -EBADMSG;
}

static int open_pages(struct restore *s, struct rtask *t, uint32_t id)
{
	char pages[40];

	snprintf(pages, sizeof(pages), "pages-%u.img", id);
	int r = image_raw_open(s->dir, pages, &t->stored);
	t->pages_name = strdup(pages);
	return r ? r : t->pages_name ? 1 : -ENOMEM;
}

/* The pagemap, and where the pages are that it has not itself. */
static int load_pages(struct restore *s, struct rtask *t)
{
	struct image_file *file;
	struct pagemap places = {};
	PagemapHead *head;
	ProtobufCMessage *m;
	char name[40];

	snprintf(name, sizeof(name), "pagemap-%d.img", t->pid);
	int r = image_open(s->dir, name, IMAGE_MAGIC_PAGEMAP, &file);
	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	r = image_read_message(file, &pagemap_head__descriptor, (ProtobufCMessage **)&head);
	if (r == 1) {
		r = open_pages(s, t, head->pages_id);
		pagemap_head__free_unpacked(head, NULL);
	} else {
		r = r ? r : -EBADMSG;
	}
	while (r == 1 && (r = image_read_message(file, &pagemap_entry__descriptor, &m)) == 1) {
		PagemapEntry **slot = VEC_PUSH(&t->pages);
		int added = slot ? pagemap_add(&places, (PagemapEntry *)m) : -ENOMEM;
		if (slot)
			*slot = (PagemapEntry *)m;
		else
			protobuf_c_message_free_unpacked(m, NULL);
		r = added ? added : 1;
	}
	image_close(file);
	r = r ? error_errno(s->e, r, "%s is damaged, or its pages are missing", name) : parents_find(s, name, &places.in_parent, &t->sources);
	pagemap_finish(&places);
	return r;
}

static int by_number(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Each number once, and no more than a process can have. */
static int check_table(struct restore *s, FdinfoEntry *const *fds, size_t count, const char *name)
{
	_cleanup_free_ uint32_t *numbers = calloc(count + 1, sizeof(*numbers));

	if (!numbers)
		return error_set(s->e, -ENOMEM, "out of memory");
	if (count > FD_MAX)
		return error_set(s->e, -EBADMSG, "%s has %zu descriptors, more than a process can have", name, count);
	for (size_t i = 0; i < count; i++)
		numbers[i] = fds[i]->fd;
	qsort(numbers, count, sizeof(*numbers), by_number);
	for (size_t i = 1; i < count; i++)
		if (numbers[i] == numbers[i - 1])
			return error_set(s->e, -EBADMSG, "%s has descriptor %u twice", name, numbers[i]);
	return 0;
}

static int load_cores(struct restore *s, struct rtask *t)
{
	char name[40];

	for (size_t i = 0; i < t->threads.count; i++) {
		struct rthread *th = &t->threads.data[i];
		snprintf(name, sizeof(name), "core-%d.img", th->tid);
		int r = restore_read_one(s, name, IMAGE_MAGIC_CORE, &core_entry__descriptor, &th->core);
		if (r)
			return r;
		CoreEntry *c = th->core;
		if (i == 0 && !c->ids && c->tc && c->tc->task_state != TASK_DEAD) { /* as CRIU's */
			snprintf(name, sizeof(name), "ids-%d.img", th->tid);
			r = restore_read_one(s, name, IMAGE_MAGIC_IDS, &task_kobj_ids_entry__descriptor, &c->ids);
			if (r)
				return r;
		}
		bool dead = i == 0 && c->tc && c->tc->task_state == TASK_DEAD;
		if (dead ? t->threads.count > 1 :
			   c->mtype != CORE_ENTRY__MARCH__X86_64 || !c->thread_info || !c->thread_info->gpregs || !c->thread_info->fpregs ||
				   !c->thread_core || (i == 0 && (!c->tc || !c->ids)))
			return error_set(s->e, -EBADMSG, "%s lacks a part, or is of another processor", name);
		if (t->must_have_ended && !dead)
			return error_set(s->e, -EBADMSG, "pstree.img has process %d without its main thread", t->pid);
		if (!dead && !calls_are_valid(c))
			return error_set(s->e, -EBADMSG, "%s has a system call that can't be gone on with", name);
	}
	for (size_t i = 1; i < t->threads.count; i++) {
		struct rthread *th = &t->threads.data[i];
		snprintf(name, sizeof(name), "fs-%d.img", th->tid);
		int r = th->core->thread_core->own_fs ? restore_read_one(s, name, IMAGE_MAGIC_FS, &fs_entry__descriptor, &th->fs) : 0;
		snprintf(name, sizeof(name), "fdinfo-thread-%d.img", th->tid);
		th->own_files = th->core->thread_core->own_files;
		if (!r && th->own_files)
			r = load_all(s, name, IMAGE_MAGIC_FDINFO, &fdinfo_entry__descriptor, true, take_thread_fd, th);
		if (!r)
			r = check_table(s, th->fds.data, th->fds.count, name);
		if (r)
			return r;
	}
	t->core = t->threads.data[0].core;
	if (t->core->tc->has_exit_signal && t->core->tc->exit_signal > 64)
		return error_set(s->e, -EBADMSG, "core-%d.img has a signal that can't be", t->pid);
	t->dead = t->core->tc->task_state == TASK_DEAD;
	t->stopped = t->core->tc->task_state == TASK_STOPPED;
	t->leader_gone = !t->dead && t->core->tc->has_leader_exit_code;
	if (t->leader_gone && t->threads.count < 2)
		return error_set(s->e, -EBADMSG, "core-%d.img is of a leader that has ended, and there is no other thread", t->pid);
	return 0;
}

/* What the image has that the process is to have of its parent. */
static void drop_early(struct rtask *t)
{
	if (t->mm)
		mm_entry__free_unpacked(TAKE_PTR(t->mm), NULL);
	if (t->dead && t->fs)
		fs_entry__free_unpacked(TAKE_PTR(t->fs), NULL);
}

static int load_task(struct restore *s, struct rtask *t)
{
	char name[40];
	int r = load_cores(s, t);

	if (!r && t->dead)
		drop_early(t);
	if (!r && t->parent && t->parent->dead)
		return error_set(s->e, -EBADMSG, "process %d is the child of one that has ended", t->pid);
	if (r || t->dead)
		return r;
	if (t->parent && t->parent->core->ids->vm_id == t->core->ids->vm_id)
		t->vm_owner = t->parent->vm_owner ? t->parent->vm_owner : t->parent;
	if (t->vm_owner && (t->leader_gone || t->vm_owner->leader_gone || t->parent->leader_gone))
		return error_set(s->e, -EBADMSG, "core-%d.img is of a process that shares memory, and its main thread has ended", t->pid);
	snprintf(name, sizeof(name), "mm-%d.img", t->pid);
	if (t->vm_owner) {
		drop_early(t);
		t->mm = t->vm_owner->mm;
	} else
		r = restore_read_one(s, name, IMAGE_MAGIC_MM, &mm_entry__descriptor, &t->mm);
	snprintf(name, sizeof(name), "fs-%d.img", t->pid);
	if (!r)
		r = restore_read_one(s, name, IMAGE_MAGIC_FS, &fs_entry__descriptor, &t->fs);
	snprintf(name, sizeof(name), "fdinfo-%u.img", t->core->ids->files_id);
	if (!r)
		r = load_all(s, name, IMAGE_MAGIC_FDINFO, &fdinfo_entry__descriptor, true, take_fd, t);
	if (!r && t->vm_owner)
		return 0;
	if (!r)
		r = check_table(s, t->fds.data, t->fds.count, name);
	if (!r)
		r = load_pages(s, t);
	for (size_t i = 0; !r && i < t->mm->n_vmas; i++) {
		const VmaEntry *v = t->mm->vmas[i];
		if (v->start >= v->end || v->start % PAGE_SIZE || v->end % PAGE_SIZE || v->end > TASK_END || (i && v->start < t->mm->vmas[i - 1]->end))
			r = error_set(s->e, -EBADMSG, "mm-%d.img has areas that overlap, or such that can't be", t->pid);
	}
	return r ? r : foreign_vdso(s, t);
}

/* An image of one message. */
struct early {
	const char *format;
	pid_t id;
	uint32_t magic;
	const ProtobufCMessageDescriptor *type;
	void *ret;
};

struct earlies {
	struct restore *s;
	VEC(struct early) list;
	size_t next;
};

static void load_early_some(void *argument)
{
	struct earlies *l = argument;
	size_t from;

	while ((from = __atomic_fetch_add(&l->next, EARLY_AT_ONCE, __ATOMIC_RELAXED)) < l->list.count)
		for (size_t i = from; i < MIN(from + EARLY_AT_ONCE, l->list.count); i++) {
			const struct early *e = &l->list.data[i];
			struct image_file *file;
			char name[40];
			snprintf(name, sizeof(name), e->format, e->id);
			if (image_open(l->s->dir, name, e->magic, &file))
				continue;
			image_read_message(file, e->type, e->ret);
			image_close(file);
		}
}

static void add_early(struct earlies *l, const char *format, pid_t id, uint32_t magic, const ProtobufCMessageDescriptor *type, void *ret)
{
	struct early *e = VEC_PUSH(&l->list);

	if (e)
		*e = (struct early){ format, id, magic, type, ret };
}

/* Where there is much to read, the largest part of it by all processors. What can't be read stays for those who need it, to say so. */
static void load_early(struct restore *s)
{
	struct earlies l = { .s = s };

	for (size_t i = 0; i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		for (size_t k = 0; k < t->threads.count; k++)
			add_early(&l, "core-%d.img", t->threads.data[k].tid, IMAGE_MAGIC_CORE, &core_entry__descriptor, &t->threads.data[k].core);
		add_early(&l, "mm-%d.img", t->pid, IMAGE_MAGIC_MM, &mm_entry__descriptor, &t->mm);
		add_early(&l, "fs-%d.img", t->pid, IMAGE_MAGIC_FS, &fs_entry__descriptor, &t->fs);
	}
	struct workers *w = l.list.count < EARLY_SEVERAL || !image_is_directory(s->dir) ? NULL : workers_new();
	for (size_t i = 0; w && i < MIN((size_t)WORKERS_MAX, l.list.count / EARLY_AT_ONCE); i++)
		workers_submit_large(w, load_early_some, &l);
	if (w)
		load_early_some(&l);
	workers_free(w);
	VEC_FREE(&l.list);
}

static int by_id(const void *a, const void *b)
{
	const struct file *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

static int load_files(struct restore *s)
{
	int r = load_all(s, "files.img", IMAGE_MAGIC_FILES, &file_entry__descriptor, false, take_file, NULL);

	if (!r)
		r = load_all(s, "remap-fpath.img", IMAGE_MAGIC_REMAP_FPATH, &remap_file_path_entry__descriptor, true, take_remap, NULL);
	if (!r)
		r = load_all(s, "tty-info.img", IMAGE_MAGIC_TTY_INFO, &tty_info_entry__descriptor, true, take_tty, NULL);
	if (!r)
		r = load_all(s, "filelocks.img", IMAGE_MAGIC_FILE_LOCKS, &file_lock_entry__descriptor, true, take_lock, NULL);
	if (r)
		return r;
	if (s->files.count)
		qsort(s->files.data, s->files.count, sizeof(*s->files.data), by_id);
	VEC_FOREACH(&s->files, f)
		f->kind = kind_of_type((uint32_t)f->entry->type);
	for (size_t i = 1; i < s->files.count; i++)
		if (s->files.data[i].id == s->files.data[i - 1].id)
			return error_set(s->e, -EBADMSG, "files.img has file %u twice", s->files.data[i].id);
	return locks_check(s);
}

int restore_open(const char *path, const char *key, struct image_dir **ret, struct error *e)
{
	int r = image_dir_open_with(path, key, ret);

	if (r && store_is_path(path))
		return r == -ENOENT ? error_set(e, r, "there is no such checkpoint in the store; fermata store ls shows those that there are") :
		       r == -EINVAL ? error_set(e, r, "it names no checkpoint of a store; give store:DIR/NAME") :
		       r == -EBADMSG ? error_set(e, r, "it is damaged; fermata store verify tells what is") :
				       store_error(e, r, "open", path);
	if (r == -ENOENT)
		return error_set(e, r, "there is no such directory or file; give what a dump was written to");
	if (r == -EMEDIUMTYPE || r == -ENOTDIR)
		return error_set(e, r, "it is neither a directory nor an archive (tar, gzip, lz4, zlib, zstd); give what a dump was written to");
	if (r == -EBADMSG)
		return error_set(e, r, "the archive is damaged, or was cut off");
	return r ? error_errno(e, r, "cannot open it") : 0;
}

static int read_all(struct restore *s)
{
	struct image_lineage lineage;
	int r = s->request->skip_verify ? 0 : image_dir_verify_begin(s->dir, &s->verification, s->e);

	if (r < 0)
		return r;
	r = image_dir_lineage(s->dir, &lineage);
	if (r)
		return error_set(s->e, r, IMAGE_MANIFEST " can't be read: the checkpoint is damaged");
	if (lineage.dropped)
		return error_set(s->e, -ENODATA, "pages that a later checkpoint has were taken out of it (dedup): it is of use only as that one's parent");
	r = restore_read_one(s, "inventory.img", IMAGE_MAGIC_INVENTORY, &inventory_entry__descriptor, &s->inventory);
	if (r == -ENOENT)
		return error_set(s->e, r, "there is no checkpoint in it (no inventory.img); give the directory that a dump went to");
	if (r)
		return r;
	s->network_lock_id = s->inventory->network_lock;
	if (s->inventory->has_pre_dump_mode && !image_dir_has(s->dir, "pstree.img"))
		return error_set(s->e, -ENODATA, "it is a pre-dump, which has memory alone: the parent of a checkpoint; restore that one");
	r = load_all(s, "pstree.img", IMAGE_MAGIC_PSTREE, &pstree_entry__descriptor, false, take_task, NULL);
	if (!r && !s->tasks.count)
		r = error_set(s->e, -EBADMSG, "pstree.img is empty");
	if (!r)
		load_early(s);
	for (size_t i = 0; !r && i < s->tasks.count; i++)
		r = load_task(s, s->tasks.data[i]);
	if (!r)
		r = load_files(s);
	return r;
}

int restore_verified(struct restore *s, int r)
{
	struct error damage = {};
	int v = image_dir_verified(TAKE_PTR(s->verification), &damage);

	if (v < 0)
		*s->e = damage;
	return parents_verified(s, v < 0 ? v : r);
}

static int check_processor(struct restore *s)
{
	uint32_t now[PROCESSOR_WORDS];
	char names[512];

	if (s->request->any_processor || !s->inventory->n_processor)
		return 0;
	processor_read(now);
	if (!processor_lacks(s->inventory->processor, s->inventory->n_processor, now, names, sizeof(names)))
		return 0;
	return error_set(s->e, -ENOTSUP, "the processor lacks what that of the dump had, and programs may rely on: %s; restore it on a machine that has it, or use --cpu-cap none", names);
}

int restore_load(struct restore *s)
{
	int r = read_all(s);

	if (!r)
		r = check_processor(s);
	VEC_FOREACH(&s->files, f)
		if (!r && !f->kind)
			r = error_set(s->e, -ENOTSUP, "file %u is of type %d, which is not restored yet", f->id, f->entry->type);
	if (!r)
		r = ns_load(s);
	if (!r)
		r = cgroups_load(s);
	if (!r)
		r = tcp_load(s);
	if (!r)
		r = udp_load(s);
	return r ? r : seccomp_load(s);
}

int restore_read(struct restore *s)
{
	return restore_verified(s, read_all(s));
}

#define FREE_LIST(list, kind) \
	do { \
		for (size_t i_ = 0; i_ < (list)->count; i_++) \
			kind##__free_unpacked((list)->data[i_], NULL); \
		VEC_FREE(list); \
	} while (0)

static void task_free(struct rtask *t)
{
	for (size_t i = 0; i < t->threads.count; i++) {
		if (t->threads.data[i].core)
			core_entry__free_unpacked(t->threads.data[i].core, NULL);
		if (t->threads.data[i].fs)
			fs_entry__free_unpacked(t->threads.data[i].fs, NULL);
		FREE_LIST(&t->threads.data[i].fds, fdinfo_entry);
		batch_free(&t->threads.data[i].batch);
	}
	VEC_FREE(&t->threads);
	FREE_LIST(&t->fds, fdinfo_entry);
	FREE_LIST(&t->pages, pagemap_entry);
	if (t->tree)
		pstree_entry__free_unpacked(t->tree, NULL);
	if (t->mm && !t->vm_owner)
		mm_entry__free_unpacked(t->mm, NULL);
	if (t->fs)
		fs_entry__free_unpacked(t->fs, NULL);
	image_raw_close(t->stored);
	page_sources_finish(&t->sources);
	free(t->pages_name);
	if (t->pages_fd >= 0)
		close(t->pages_fd);
	if (t->mem_fd >= 0)
		close(t->mem_fd);
	free(t);
}

void restore_unload(struct restore *s)
{
	if (s->inventory)
		inventory_entry__free_unpacked(TAKE_PTR(s->inventory), NULL);
	for (size_t i = 0; i < s->tasks.count; i++)
		task_free(s->tasks.data[i]);
	VEC_FREE(&s->tasks);
	parents_release(s);
	for (size_t i = 0; i < s->files.count; i++)
		file_entry__free_unpacked(s->files.data[i].entry, NULL);
	VEC_FREE(&s->files);
	FREE_LIST(&s->remaps, remap_file_path_entry);
	FREE_LIST(&s->locks, file_lock_entry);
	FREE_LIST(&s->ttys, tty_info_entry);
	seccomp_release(s);
}
