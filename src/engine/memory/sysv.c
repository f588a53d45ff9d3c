/* See sysv.h. */
#include "engine/memory/sysv.h"

#include "engine/memory/shmem.h"
#include "engine/memory/vma.h"
#include "engine/ns/ns.h"
#include "engine/task/task.h"
#include "ipc_shm.pb-c.h"
#include "proc/sysctl.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#ifndef SHM_DEST
#define SHM_DEST 01000
#endif
#define NEXT_ID "kernel/shm_next_id"
#define TABLE_MAX (16UL << 20)

/* The image's name. */
struct shm_name {
	char text[40];
};

struct segment {
	int id, fd;
	struct shmid_ds ds;
};

struct sysv_table {
	VEC(struct segment) segments;
	VEC(IpcShmEntry *) entries; /* restore */
};

static struct shm_name image_name(uint32_t number)
{
	struct shm_name name;

	snprintf(name.text, sizeof(name.text), "ipcns-shm-%u.img", number);
	return name;
}

bool sysv_is(const struct proc_vma *vma)
{
	return vma->name && !strncmp(vma->name, "/SYSV", 5) && strspn(vma->name + 5, "0123456789abcdef") == 8 && !vma->name[13];
}

static bool is_seen(const struct dump *d, int id)
{
	if (d->sysv)
		VEC_FOREACH(&d->sysv->segments, s)
			if (s->id == id)
				return true;
	return false;
}

static int add_segment(struct dump *d, const struct segment *seg)
{
	if (!d->sysv)
		d->sysv = calloc(1, sizeof(*d->sysv));
	struct segment *slot = d->sysv ? VEC_PUSH(&d->sysv->segments) : NULL;
	if (!slot) {
		close(seg->fd);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	*slot = *seg;
	return 0;
}

int sysv_capture_vma(struct dump *d, struct task *t, const struct proc_vma *vma)
{
	int id = (int)vma->inode;
	char path[96];

	if (is_seen(d, id))
		return 0;
	struct segment seg = { .id = id };
	if (shmctl(id, IPC_STAT, &seg.ds) < 0)
		return task_errno(d, t, -errno, "cannot examine the System V segment %d", id);
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", t->proc, (unsigned long)vma->start, (unsigned long)vma->end);
	seg.fd = open(path, O_RDONLY | O_CLOEXEC);
	if (seg.fd < 0)
		return task_errno(d, t, -errno, "cannot open the System V segment %d", id);
	return add_segment(d, &seg);
}

/* One that nobody has attached: the coordinator does for a moment. */
static int capture_unattached(struct dump *d, int id)
{
	struct segment seg = { .id = id };
	char path[96];

	if (shmctl(id, IPC_STAT, &seg.ds) < 0)
		return error_errno(d->e, -errno, "cannot examine the System V segment %d", id);
	const size_t size = ALIGN_UP(seg.ds.shm_segsz, PAGE_SIZE);
	char *at = shmat(id, NULL, SHM_RDONLY);
	if (at == (void *)-1)
		return error_errno(d->e, -errno, "cannot attach the System V segment %d", id);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + size);
	seg.fd = open(path, O_RDONLY | O_CLOEXEC);
	int r = seg.fd < 0 ? error_errno(d->e, -errno, "cannot open the System V segment %d", id) : add_segment(d, &seg);
	shmdt(at);
	return r;
}

/* In a namespace of the tree's own they go with it. */
static int capture_others(struct dump *d)
{
	_cleanup_free_ char *text = NULL;
	int id, r = read_file_at(AT_FDCWD, "/proc/sysvipc/shm", TABLE_MAX, &text, NULL);

	if (r)
		return r == -ENOENT ? 0 : error_errno(d->e, r, "cannot list the System V segments");
	for (const char *line = strchr(text, '\n'); !r && line; line = strchr(line + 1, '\n'))
		if (sscanf(line, "%*d %d", &id) == 1 && !is_seen(d, id))
			r = capture_unattached(d, id);
	return r;
}

static int write_segment(struct dump *d, const struct segment *seg, struct image_file *file)
{
	IpcShmEntry e = IPC_SHM_ENTRY__INIT;
	IpcDescEntry desc = IPC_DESC_ENTRY__INIT;
	char name[64];

	desc.key = (uint32_t)seg->ds.shm_perm.__key;
	desc.uid = seg->ds.shm_perm.uid;
	desc.gid = seg->ds.shm_perm.gid;
	desc.cuid = seg->ds.shm_perm.cuid;
	desc.cgid = seg->ds.shm_perm.cgid;
	desc.mode = seg->ds.shm_perm.mode;
	desc.id = (uint32_t)seg->id;
	e.desc = &desc;
	e.size = seg->ds.shm_segsz;
	e.has_in_pagemaps = e.in_pagemaps = 1;
	int r = image_write_message(file, &e.base);
	if (r)
		return error_errno(d->e, r, "cannot write the System V segment %d", seg->id);
	snprintf(name, sizeof(name), "pagemap-shmem-%u.img", SYSV_SHMID(seg->id));
	return shmem_write_pages(d, seg->fd, e.size, name);
}

int sysv_finish(struct dump *d, bool success)
{
	const struct shm_name name = image_name(ns_number(d, CLONE_NEWIPC));
	struct image_file *file = NULL;
	int r = success && ns_is_own(d, CLONE_NEWIPC) ? capture_others(d) : 0;

	if (!d->sysv)
		return r;
	if (success && !r && (r = image_create(d->dir, name.text, IMAGE_MAGIC_IPCNS_SHM, &file)))
		r = error_errno(d->e, r, "cannot create %s", name.text);
	VEC_FOREACH(&d->sysv->segments, s) {
		if (success && !r)
			r = write_segment(d, s, file);
		close(s->fd);
	}
	if (file) {
		int closed = image_close(file);
		if (!r && closed)
			r = error_errno(d->e, closed, "cannot write %s", name.text);
	}
	VEC_FREE(&d->sysv->segments);
	free(d->sysv);
	d->sysv = NULL;
	return r;
}

/* ---- restore ---- */

/* The segment with its id, made if it is not there. */
static int make(struct restore *s, const IpcShmEntry *e)
{
	int id = (int)e->desc->id;
	struct shmid_ds ds;

	if (shmctl(id, IPC_STAT, &ds) == 0) {
		if (ds.shm_segsz != e->size || (uint32_t)ds.shm_perm.__key != e->desc->key)
			return error_set(s->e, -EEXIST, "System V segment %d is another one now", id);
		if (ds.shm_nattch)
			return error_set(s->e, -EBUSY, "System V segment %d is in use by others; end those first", id);
	} else {
		int r = sysctl_write_number(NEXT_ID, id);
		int made = r ? r : shmget((key_t)e->desc->key, e->size, IPC_CREAT | IPC_EXCL | (int)(e->desc->mode & 0777));
		if (made < 0)
			return error_errno(s->e, r ? r : -errno, "cannot make System V segment %d", id);
		if (made != id) {
			shmctl(made, IPC_RMID, NULL);
			return error_set(s->e, -EEXIST, "System V segment %d can't have its id again", id);
		}
	}
	if (shmctl(id, IPC_STAT, &ds) < 0)
		return error_errno(s->e, -errno, "cannot examine System V segment %d", id);
	ds.shm_perm.uid = e->desc->uid;
	ds.shm_perm.gid = e->desc->gid;
	ds.shm_perm.mode = e->desc->mode & 0777;
	if (shmctl(id, IPC_SET, &ds) < 0)
		return error_errno(s->e, -errno, "cannot set the owner of System V segment %d", id);
	return 0;
}

static int fill(struct restore *s, const IpcShmEntry *e)
{
	char path[96], name[64];
	size_t size = ALIGN_UP(e->size, PAGE_SIZE);
	char *at = shmat((int)e->desc->id, NULL, 0);

	if (at == (void *)-1)
		return error_errno(s->e, -errno, "cannot attach System V segment %u", e->desc->id);
	/* What is in it now may be of later than the dump: only what was saved is to be there. */
	madvise(at, size, MADV_REMOVE);
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at, (unsigned long)at + size);
	_cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC);
	snprintf(name, sizeof(name), "pagemap-shmem-%u.img", SYSV_SHMID(e->desc->id));
	int r = fd < 0 ? error_errno(s->e, -errno, "cannot open System V segment %u", e->desc->id) : shmem_read_pages(s, fd, name);
	shmdt(at);
	return r == -ENOENT ? 0 : r;
}

int sysv_make(struct restore *s)
{
	const struct shm_name name = image_name(ns_number_saved(s, CLONE_NEWIPC));
	struct image_file *file;
	ProtobufCMessage *m;
	int r = image_open(s->dir, name.text, IMAGE_MAGIC_IPCNS_SHM, &file);

	if (r == -ENOENT)
		return 0;
	if (r || !(s->sysv = calloc(1, sizeof(*s->sysv))))
		return error_errno(s->e, r ? r : -ENOMEM, "cannot read %s", name.text);
	while ((r = image_read_message(file, &ipc_shm_entry__descriptor, &m)) == 1) {
		IpcShmEntry **slot = VEC_PUSH(&s->sysv->entries);
		if (!slot) {
			protobuf_c_message_free_unpacked(m, NULL);
			r = -ENOMEM;
			break;
		}
		*slot = (IpcShmEntry *)m;
	}
	image_close(file);
	if (r)
		return error_errno(s->e, r, "%s is damaged", name.text);
	for (size_t i = 0; !r && i < s->sysv->entries.count; i++) {
		r = make(s, s->sysv->entries.data[i]);
		if (!r)
			r = fill(s, s->sysv->entries.data[i]);
	}
	return r;
}

/* A segment is attached as a whole; what the task has unmapped of it goes again. Areas of one attachment come one after another. */
int sysv_plan_vma(struct restore *s, struct rtask *t, size_t index)
{
	const VmaEntry *v = t->mm->vmas[index], *before = index ? t->mm->vmas[index - 1] : NULL;
	struct batch *b = &t->threads.data[0].batch;
	const IpcShmEntry *e = NULL;
	uint64_t base = v->start - v->pgoff;

	for (size_t i = 0; s->sysv && i < s->sysv->entries.count; i++)
		if (s->sysv->entries.data[i]->desc->id == v->shmid)
			e = s->sysv->entries.data[i];
	if (!e)
		return error_set(s->e, -EBADMSG, "the image of System V segments lacks %lu", (unsigned long)v->shmid);
	uint64_t end = base + ALIGN_UP(e->size, PAGE_SIZE);
	if (v->end > end)
		return error_set(s->e, -EBADMSG, "mm-%d.img maps more of segment %u than it has", t->pid, e->desc->id);
	batch_what(b, "attach System V segment %u at %lx in process %d", e->desc->id, (unsigned long)base, t->pid);
	bool first = !before || !(before->status & VMA_SYSVIPC) || before->shmid != v->shmid || before->start - before->pgoff != base;
	if (first) {
		struct agent_op *op = OP(b, __NR_shmat, e->desc->id, base, v->prot & PROT_WRITE ? 0 : SHM_RDONLY);
		op->flags = AGENT_OP_EXPECT;
		op->expect = (int64_t)base;
		if (v->start > base)
			OP(b, __NR_munmap, base, v->start - base);
	} else if (v->start > before->end) {
		OP(b, __NR_munmap, before->end, v->start - before->end);
	}
	const VmaEntry *after = index + 1 < t->mm->n_vmas ? t->mm->vmas[index + 1] : NULL;
	bool last = !after || !(after->status & VMA_SYSVIPC) || after->shmid != v->shmid || after->start - after->pgoff != base;
	if (last && end > v->end)
		OP(b, __NR_munmap, v->end, end - v->end);
	if (!first || !(v->prot & PROT_READ) || v->prot & PROT_EXEC)
		OP(b, __NR_mprotect, v->start, v->end - v->start, v->prot);
	return 0;
}

int sysv_settle(struct restore *s)
{
	for (size_t i = 0; s->sysv && i < s->sysv->entries.count; i++) {
		const IpcShmEntry *e = s->sysv->entries.data[i];
		if (e->desc->mode & SHM_DEST && shmctl((int)e->desc->id, IPC_RMID, NULL) < 0)
			return error_errno(s->e, -errno, "cannot mark System V segment %u for removal", e->desc->id);
	}
	return 0;
}

void sysv_release(struct restore *s)
{
	if (!s->sysv)
		return;
	for (size_t i = 0; i < s->sysv->entries.count; i++)
		ipc_shm_entry__free_unpacked(s->sysv->entries.data[i], NULL);
	VEC_FREE(&s->sysv->entries);
	free(s->sysv);
}
