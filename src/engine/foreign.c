/* See foreign.h. */
#include "engine/foreign.h"

#include "engine/memory/vdso_patch.h"
#include "engine/memory/vma.h"

#define VDSO_MAX (64UL << 10)

/* The pages of an entry from `at` on become an entry of their own, behind it. */
static int split(struct rtask *t, size_t i, uint64_t at)
{
	PagemapEntry *p = t->pages.data[i], *rest = malloc(sizeof(*rest)), **slot = rest ? VEC_PUSH(&t->pages) : NULL;

	if (!slot) {
		free(rest);
		return -ENOMEM;
	}
	memmove(&t->pages.data[i + 2], &t->pages.data[i + 1], (t->pages.count - i - 2) * sizeof(*slot));
	t->pages.data[i + 1] = rest;
	*rest = *p;
	p->nr_pages = (uint32_t)((at - p->vaddr) / PAGE_SIZE);
	rest->vaddr = at;
	rest->nr_pages -= p->nr_pages;
	rest->base.n_unknown_fields = 0;
	rest->base.unknown_fields = NULL;
	return 0;
}

static const VmaEntry *vdso_of(const struct rtask *t)
{
	for (size_t i = 0; t->mm && i < t->mm->n_vmas; i++)
		if (t->mm->vmas[i]->status & VMA_VDSO)
			return t->mm->vmas[i];
	return NULL;
}

/* From `offset` of the pages on. Its size is what its own ELF headers say. */
static int take_image(struct restore *s, struct rtask *t, uint64_t offset, uint64_t room)
{
	unsigned char *image = calloc(1, VDSO_MAX);
	size_t size = 0;

	if (!image)
		return error_set(s->e, -ENOMEM, "out of memory");
	if (room <= VDSO_MAX && image_raw_read(t->stored, NULL, image, room, offset) == 0)
		size = vdso_image_size(image, room);
	if (!size) {
		free(image);
		return error_set(s->e, -EBADMSG, "the vdso of process %d is damaged", t->pid);
	}
	t->mm->has_vdso = 1;
	t->mm->vdso.data = image;
	t->mm->vdso.len = size;
	return 0;
}

int foreign_vdso(struct restore *s, struct rtask *t)
{
	const VmaEntry *v = vdso_of(t);
	uint64_t offset = 0;
	int r = 0;

	for (size_t i = 0; i < t->pages.count && !r; i++) {
		PagemapEntry *p = t->pages.data[i];
		uint64_t end = p->vaddr + (uint64_t)p->nr_pages * PAGE_SIZE;
		p->flags &= ~PAGES_PASSED_OVER;
		if (p->has_forked && p->forked)
			continue;
		if (v && p->vaddr < v->start && end > v->start) {
			r = split(t, i, v->start);
		} else if (v && p->vaddr >= v->start && p->vaddr < v->end) {
			r = end > v->end ? split(t, i, v->end) : 0;
			p->has_flags = 1;
			p->flags |= PAGES_PASSED_OVER;
			if (!r && p->vaddr == v->start && !t->mm->has_vdso)
				r = take_image(s, t, offset, MIN(end, v->end) - v->start);
		}
		offset += (uint64_t)p->nr_pages * PAGE_SIZE;
	}
	return r == -ENOMEM ? error_set(s->e, r, "out of memory") : r;
}
