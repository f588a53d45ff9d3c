/* See vma.h. */
#include "engine/memory/vma.h"

#include "engine/arch/x86_64/snippet.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>

uint32_t vma_status(const struct proc_vma *vma)
{
	const char *name = vma->name ? vma->name : "";

	if (!strcmp(name, "[vsyscall]"))
		return VMA_VSYSCALL;
	if (!strcmp(name, "[vdso]"))
		return VMA_REGULAR | VMA_VDSO | VMA_ANON_PRIVATE;
	if (!strncmp(name, "[vvar", 5))
		return VMA_REGULAR | VMA_VVAR | VMA_ANON_PRIVATE;
	if (!strcmp(name, "[heap]"))
		return VMA_REGULAR | VMA_HEAP | VMA_ANON_PRIVATE;
	if (!strcmp(name, "[stack]"))
		return VMA_REGULAR | VMA_STACK | VMA_ANON_PRIVATE;
	if (!strncmp(name, "/SYSV", 5) && vma->deleted) /* its inode is its id, of which the first is 0 */
		return VMA_REGULAR | VMA_SYSVIPC;
	if (vma->inode == 0 || (!strcmp(name, "/anon_hugepage") && vma->deleted))
		return VMA_REGULAR | (vma->shared ? VMA_ANON_SHARED : VMA_ANON_PRIVATE);
	if (!strcmp(name, "/dev/zero") && vma->deleted)
		return VMA_REGULAR | VMA_ANON_SHARED;
	if (!strcmp(name, "/[aio]") && vma->deleted)
		return VMA_REGULAR | VMA_AIORING;
	return VMA_REGULAR | (vma->shared ? VMA_FILE_SHARED : VMA_FILE_PRIVATE);
}

uint64_t maps_find_hole(const struct proc_maps *maps, size_t size)
{
	uint64_t top = 0x7ffff0000000ULL;

	for (size_t i = maps->count; i-- > 0;) {
		const struct proc_vma *vma = &maps->data[i];
		if (vma->start >= top)
			continue;
		/* A gap on both sides, so that no neighbour merges with it and no stack grows into it. */
		if (vma->end + size + 0x200000 <= top)
			return top - size - 0x100000;
		top = vma->start;
	}
	return top > size + 0x200000 ? top - size - 0x100000 : 0;
}

uint64_t vdso_find_slack(uint64_t start, uint64_t end, int mem_fd)
{
	Elf64_Ehdr head;

	if (pread(mem_fd, &head, sizeof(head), (off_t)start) != sizeof(head))
		return 0;
	uint64_t image_end = start + head.e_shoff + (uint64_t)head.e_shnum * head.e_shentsize;
	if (memcmp(head.e_ident, ELFMAG, SELFMAG) || image_end < start || image_end > end)
		return 0;
	image_end = ALIGN_UP(image_end, 16);
	return image_end + SNIPPET_MAX <= end ? image_end : 0;
}

uint64_t maps_find_slack(const struct proc_maps *maps, int mem_fd)
{
	for (size_t i = 0; i < maps->count; i++) {
		const struct proc_vma *vma = &maps->data[i];
		if (vma->name && !strcmp(vma->name, "[vdso]"))
			return vdso_find_slack(vma->start, vma->end, mem_fd);
	}
	return 0;
}

const struct proc_vma *maps_find_same(const struct proc_maps *parent, const struct proc_vma *vma)
{
	size_t low = 0, high = parent->count;

	while (low < high) { /* the first that ends after the start */
		size_t middle = (low + high) / 2;
		if (parent->data[middle].end <= vma->start)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == parent->count)
		return NULL;
	const struct proc_vma *p = &parent->data[low];
	if (p->start > vma->start || p->end < vma->end || p->shared != vma->shared || p->inode != vma->inode ||
	    p->dev_major != vma->dev_major || p->dev_minor != vma->dev_minor)
		return NULL;
	if (p->inode && p->pgoff + (vma->start - p->start) != vma->pgoff)
		return NULL;
	/* What the images have as its flags must be the same too: it is kept as it is. */
	const uint64_t kept = PROC_VMF_GD | PROC_VMF_NR;
	return (p->vmflags & kept) == (vma->vmflags & kept) && vma_status(p) == vma_status(vma) ? p : NULL;
}

static int by_start(const void *a, const void *b)
{
	const struct proc_vma *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

void maps_sort(struct proc_maps *maps)
{
	if (maps->count)
		qsort(maps->data, maps->count, sizeof(*maps->data), by_start);
}

/* Whether smaps tells of MLOCK_ONFAULT, as newer kernels do: tried on a page of our own. */
static bool kernel_tells_onfault(void)
{
	struct proc_maps maps = {};
	bool told = true;
	void *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (page == MAP_FAILED)
		return true;
	if (mlock2(page, PAGE_SIZE, MLOCK_ONFAULT) == 0 && proc_read_smaps(getpid(), &maps) == 0)
		for (size_t i = 0; i < maps.count; i++)
			if (maps.data[i].start <= (uintptr_t)page && maps.data[i].end > (uintptr_t)page)
				told = maps.data[i].vmflags & PROC_VMF_LF;
	proc_maps_finish(&maps);
	munmap(page, PAGE_SIZE);
	return told;
}

/* Where it isn't told, it shows in pages that are missing: otherwise all were brought when it was locked. */
bool vma_locks_on_fault(const struct proc_vma *vma)
{
	return vma->vmflags & PROC_VMF_LF || ((vma->vmflags & (PROC_VMF_LO | PROC_VMF_PARTLY)) == (PROC_VMF_LO | PROC_VMF_PARTLY) && !kernel_tells_onfault());
}
