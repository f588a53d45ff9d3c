/* See vmflags.h. */
#include "engine/memory/vmflags.h"

/* What is kept in a checkpoint, or says how an area is to be treated. */
#define KEPT (PROC_VMF_GD | PROC_VMF_LO | PROC_VMF_IO | PROC_VMF_PF | PROC_VMF_SR | PROC_VMF_RR | PROC_VMF_DC | PROC_VMF_NR | PROC_VMF_HT | \
	      PROC_VMF_WF | PROC_VMF_DD | PROC_VMF_HG | PROC_VMF_NH | PROC_VMF_MG | PROC_VMF_UM | PROC_VMF_UW | PROC_VMF_LF | PROC_VMF_DP)
/* What a program relies on; the rest is about speed and accounting. */
#define RELIED_ON (PROC_VMF_LO | PROC_VMF_DC | PROC_VMF_WF | PROC_VMF_DD | PROC_VMF_DP)

static bool same_area(const struct proc_vma *a, const struct proc_vma *b)
{
	return a->inode == b->inode && a->dev_major == b->dev_major && a->dev_minor == b->dev_minor && a->shared == b->shared &&
	       (!a->inode || a->start - a->pgoff == b->start - b->pgoff);
}

/* The area of `maps` that holds all of `v` and is of the same kind; an area may have been joined to others, or cut. `hint` goes along. */
static const struct proc_vma *find(const struct proc_maps *maps, const struct proc_vma *v, size_t *hint)
{
	while (*hint < maps->count && maps->data[*hint].end <= v->start)
		++*hint;
	const struct proc_vma *found = *hint < maps->count ? &maps->data[*hint] : NULL;
	return found && found->start <= v->start && found->end >= v->end && same_area(found, v) ? found : NULL;
}

/* The flags that all parts of `v` have in `maps`. false: part of it was not there, or they differ. */
static bool flags_of(const struct proc_maps *maps, const struct proc_vma *v, size_t *hint, uint64_t ignored, uint64_t *ret)
{
	const struct proc_vma *whole = find(maps, v, hint);
	uint64_t at = v->start;

	if (whole) {
		*ret = whole->vmflags;
		return true;
	}
	for (size_t i = *hint; i < maps->count && at < v->end; i++) {
		const struct proc_vma *part = &maps->data[i];
		if (part->start > at || !same_area(part, v) || (at > v->start && (part->vmflags ^ *ret) & KEPT & ~ignored))
			return false;
		*ret = part->vmflags;
		at = part->end;
	}
	return at >= v->end;
}

static uint64_t guess(const struct proc_vma *v)
{
	const char *name = v->name ? v->name : "";

	if (!strcmp(name, "[stack]"))
		return PROC_VMF_GD;
	return !strncmp(name, "/anon_hugepage", 14) ? PROC_VMF_HT : 0;
}

void vmflags_borrow(struct proc_maps *now, const struct proc_maps *earlier)
{
	size_t hint = 0;

	for (size_t i = 0; i < now->count; i++) {
		struct proc_vma *v = &now->data[i];
		if (!flags_of(earlier, v, &hint, PROC_VMF_UW, &v->vmflags))
			v->vmflags = guess(v);
	}
}

bool vmflags_confirm(const struct proc_maps *now, const struct proc_maps *later, uint64_t ignored)
{
	uint64_t all = 0, flags;
	bool unseen = false;
	size_t hint = 0;

	for (size_t i = 0; i < now->count; i++) {
		const struct proc_vma *v = &now->data[i];
		all |= v->vmflags;
		if (!flags_of(later, v, &hint, ignored, &flags)) {
			unseen |= v->vmflags == guess(v);
			continue;
		}
		if ((flags ^ v->vmflags) & KEPT & ~ignored)
			return false;
	}
	for (size_t i = 0; i < later->count; i++)
		all |= later->data[i].vmflags;
	return !unseen || !(all & RELIED_ON);
}
