/*
 * pagemap-PID.img and pages-N.img: the private pages of an address space, found by scan.h, copied with process_vm_readv(2).
 *
 * Pages that several processes have by fork(2) are read through /proc/PID/mem: process_vm_readv pins pages, and the kernel gives
 * a process its own copy of a page before it is pinned, for good.
 *
 * A page that parent and child still share since fork(2) is stored with the parent only; the child's pagemap says so, and restore
 * lets the child be born from the parent that has it.
 */
#include "engine/memory/aio.h"
#include "engine/memory/scan.h"
#include "engine/memory/vma.h"
#include "engine/task/task.h"
#include "pagemap.pb-c.h"

#include <sys/uio.h>

#define COPY_SIZE (512UL << 10)
#define ENTRY_PAGES_MAX (1UL << 30)

struct pages {
	struct dump *d;
	struct task *t;
	struct image_file *map, *data;
	struct page_runs runs;
	unsigned char *buffer;
};

static int copy_run(struct pages *p, uint64_t start, uint64_t end, bool several)
{
	int r = 0;

	for (uint64_t at = start; at < end && !r;) {
		size_t size = MIN(COPY_SIZE, end - at);
		struct iovec to = { p->buffer, size }, from = { (void *)at, size };
		ssize_t n = several ? 0 : process_vm_readv(p->t->proc, &to, 1, &from, 1, 0);
		if (n <= 0) { /* PROT_NONE too: only /proc/PID/mem reads that */
			n = pread(p->t->mem_fd, p->buffer, size, (off_t)at);
			if (n <= 0)
				return task_errno(p->d, p->t, n ? -errno : -EIO, "cannot read its memory at %lx", (unsigned long)at);
		}
		r = image_write_bytes(p->data, p->buffer, (size_t)n);
		at += (uint64_t)n;
	}
	return r ? error_errno(p->d->e, r, "cannot write the pages of process %d", p->t->pid) : 0;
}

static int write_run(struct pages *p, const struct page_run *run)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;
	int r = 0;

	for (uint64_t at = run->start; at < run->end && !r;) {
		uint64_t end = MIN(run->end, at + ENTRY_PAGES_MAX * PAGE_SIZE);
		entry.vaddr = at;
		entry.nr_pages = (uint32_t)((end - at) / PAGE_SIZE);
		entry.has_flags = 1;
		entry.flags = run->shared ? 0 : 4;
		entry.has_forked = entry.forked = run->shared;
		r = image_write_message(p->map, &entry.base);
		if (r)
			return error_errno(p->d->e, r, "cannot write the pagemap of process %d", p->t->pid);
		if (!run->shared)
			r = copy_run(p, at, end, run->several);
		at = end;
	}
	return r;
}

static int scan_vma(struct pages *p, const struct proc_vma *vma)
{
	uint32_t status = vma_status(vma);
	struct task *parent = p->t->parent;
	size_t first = p->runs.count;

	/* What the kernel writes there need not be in the page table. */
	if (status & VMA_AIORING) {
		struct page_run *run = VEC_PUSH(&p->runs);
		if (!run)
			return error_set(p->d->e, -ENOMEM, "out of memory");
		*run = (struct page_run){ vma->start, vma->end, false, true };
		return 0;
	}
	/* It may be lost at any time; and keys of random numbers, which are kept there, must not be had twice. */
	if (vma->vmflags & PROC_VMF_DP)
		return 0;
	if (!(status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || status & (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL))
		return 0;
	int r = scan_pages(p->t->pagemap_fd, vma->start, vma->end, status & VMA_FILE_PRIVATE, &p->runs);
	bool same = p->t->may_share && parent && maps_find_same(&parent->maps, vma);
	if (!r && p->d->tasks.count > 1)
		r = scan_split(p->t->pagemap_fd, same ? parent->pagemap_fd : -1, &p->runs, first);
	return r ? task_errno(p->d, p->t, r, "cannot read its pagemap") : 0;
}

static int write_pages(struct pages *p)
{
	struct task *t = p->t;
	int r = 0;

	for (size_t i = 0; !r && i < t->maps.count; i++)
		r = scan_vma(p, &t->maps.data[i]);
	for (size_t i = 0; !r && i < p->runs.count; i++)
		r = write_run(p, &p->runs.data[i]);
	return r ? r : aio_recheck(p->d, t);
}

int pages_capture(struct dump *d, struct task *t)
{
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	struct pages p = { .d = d, .t = t, .buffer = buffer };
	PagemapHead head = PAGEMAP_HEAD__INIT;
	char name[64], pages_name[32];

	head.pages_id = ++d->next_pages_id;
	snprintf(name, sizeof(name), "pagemap-%d.img", t->pid);
	snprintf(pages_name, sizeof(pages_name), "pages-%u.img", head.pages_id);
	int r = buffer ? image_create(d->dir, name, IMAGE_MAGIC_PAGEMAP, &p.map) : -ENOMEM;
	if (!r && (r = image_create_raw(d->dir, pages_name, &p.data)))
		image_close(p.map);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	r = image_write_message(p.map, &head.base);
	if (r)
		r = error_errno(d->e, r, "cannot write %s", name);
	else
		r = write_pages(&p);
	VEC_FREE(&p.runs);
	int a = image_close(p.map), b = image_close(p.data);
	if (!r && (a || b))
		r = error_errno(d->e, a ? a : b, "cannot write the pages of process %d", t->pid);
	return r;
}
