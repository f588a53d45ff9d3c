/*
 * pagemap-PID.img and pages-N.img: the private pages of an address space that are worth saving, found with
 * /proc/PID/pagemap, copied with process_vm_readv(2).
 *
 * A page of a private file mapping is saved when it was written to (it is anonymous then); of anonymous memory when it is
 * there or swapped out.
 */
#include "engine/memory/vma.h"
#include "engine/task/task.h"
#include "pagemap.pb-c.h"

#include <sys/uio.h>

#define COPY_SIZE (512UL << 10)

struct pages {
	struct dump *d;
	struct task *t;
	struct image_file *map, *data;
	unsigned char *buffer;
};

static int copy_run(struct pages *p, uint64_t start, uint64_t end)
{
	PagemapEntry entry = PAGEMAP_ENTRY__INIT;

	entry.vaddr = start;
	entry.nr_pages = (uint32_t)((end - start) / PAGE_SIZE);
	entry.has_flags = 1;
	entry.flags = 4;
	int r = image_write_message(p->map, &entry.base);
	for (uint64_t at = start; at < end && !r;) {
		size_t size = MIN(COPY_SIZE, end - at);
		struct iovec to = { p->buffer, size }, from = { (void *)at, size };
		ssize_t n = process_vm_readv(p->t->pid, &to, 1, &from, 1, 0);
		if (n <= 0) { /* PROT_NONE: only /proc/PID/mem reads that */
			n = pread(p->t->mem_fd, p->buffer, size, (off_t)at);
			if (n <= 0)
				return task_errno(p->d, p->t, n ? -errno : -EIO, "cannot read its memory at %lx", (unsigned long)at);
		}
		r = image_write_bytes(p->data, p->buffer, (size_t)n);
		at += (uint64_t)n;
	}
	return r ? error_errno(p->d->e, r, "cannot write the pages of process %d", p->t->pid) : 0;
}

/* Whether a page must be stored, from its word in /proc/PID/pagemap. */
static bool page_wanted(uint64_t word, bool file_backed)
{
	const uint64_t present = 1ULL << 63, swapped = 1ULL << 62, file_page = 1ULL << 61;

	return (word & (present | swapped)) && !(file_backed && (word & file_page));
}

static int copy_vma(struct pages *p, const struct proc_vma *vma)
{
	uint32_t status = vma_status(vma);
	uint64_t words[512], run = 0;
	int r = 0;

	if (!(status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || status & (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL))
		return 0;
	for (uint64_t at = vma->start; at <= vma->end && !r; at += PAGE_SIZE) {
		size_t i = (at - vma->start) / PAGE_SIZE % ARRAY_SIZE(words);
		if (i == 0 && at < vma->end) {
			size_t bytes = MIN(sizeof(words), (vma->end - at) / PAGE_SIZE * 8);
			if (pread(p->t->pagemap_fd, words, bytes, (off_t)(at / PAGE_SIZE * 8)) != (ssize_t)bytes)
				return task_errno(p->d, p->t, -EIO, "cannot read its pagemap");
		}
		bool wanted = at < vma->end && page_wanted(words[i], status & VMA_FILE_PRIVATE);
		if (wanted && !run)
			run = at;
		if (wanted || !run)
			continue;
		r = copy_run(p, run, at);
		run = 0;
	}
	return r;
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
	for (size_t i = 0; !r && i < t->maps.count; i++)
		r = copy_vma(&p, &t->maps.data[i]);
	int a = image_close(p.map), b = image_close(p.data);
	if (!r && (a || b))
		r = error_errno(d->e, a ? a : b, "cannot write the pages of process %d", t->pid);
	return r;
}
