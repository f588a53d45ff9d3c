/*
 * The pause of live.h: what of the pages that were copied still stands, and what must be copied now.
 *
 * In an area that is watched a page is as it was copied unless the kernel says that it was written, or is not there; a page that went and came
 * back is as one that was written. What a child had of its parent stands as long as neither has written it.
 */
#include "base/workers.h"
#include "engine/memory/live_task.h"

#define LOOK_SIZE (256UL << 20)
#define LOOKS 16 /* that an area is shared out into at most */

static bool is_held(const struct live_task *lt, const struct proc_vma *v)
{
	size_t i = extents_find(&lt->held, v->start);

	return i < lt->held.count && lt->held.data[i].start <= v->start && lt->held.data[i].end >= v->end;
}

static void run_look(void *argument)
{
	struct look *look = argument;
	struct error why = {};
	const int pagemap_fd = look->lt->t->pagemap_fd;
	int r = look->file || !look->d->live->tells_holes ?
			track_changes(pagemap_fd, look->start, look->end, look->file, &look->changes) :
			track_changes_of(look->lt->proc, pagemap_fd, look->start, look->end, &look->lt->slots.known, &look->changes);

	if (!r && look->huge)
		r = track_add_emptied(look->lt->proc, look->start, look->end, &look->changes);
	if (r)
		error_errno(&why, r, "process %d (%s): cannot read its pagemap", look->lt->pid, look->lt->comm);
	live_note(look->d->live, r, &why);
}

int live_look(struct dump *d, struct live_task *lt)
{
	struct task *t = lt->t;

	for (size_t i = 0; i < t->maps.count; i++) {
		const struct proc_vma *v = &t->maps.data[i];
		uint64_t step = MAX(LOOK_SIZE, ALIGN_UP((v->end - v->start) / LOOKS, PAGE_SIZE));
		for (uint64_t at = v->start; is_held(lt, v) && at < v->end; at += step) {
			struct look *look = VEC_PUSH(&lt->looks);
			if (!look)
				return error_set(d->e, -ENOMEM, "out of memory");
			*look = (struct look){ .d = d, .lt = lt, .start = at, .end = MIN(v->end, at + step), .file = track_is_file(v), .huge = track_is_huge(v) };
		}
	}
	VEC_FOREACH(&lt->looks, look) {
		if (look->end - look->start >= LOOK_SIZE)
			workers_submit_large(d->workers, run_look, look);
		else
			run_look(look);
	}
	return 0;
}

void live_forget_looks(struct live_task *lt)
{
	VEC_FOREACH(&lt->looks, look)
		VEC_FREE(&look->changes);
	VEC_FREE(&lt->looks);
}

static bool is_there(const struct track_run *x)
{
	return x->what & (TRACK_PRESENT | TRACK_SWAPPED) && !(x->what & TRACK_ZERO);
}

static bool is_changed(const struct track_run *x)
{
	return !is_there(x) || x->what & TRACK_WRITTEN;
}

static int add_piece(struct dump *d, struct live_task *lt, uint64_t start, uint64_t end, enum piece_kind kind, uint64_t from, bool several)
{
	struct live *l = d->live;
	struct pieces *p = &lt->pieces;
	uint64_t size = end - start;
	struct piece *last = p->count ? &p->data[p->count - 1] : NULL;

	if (start >= end)
		return 0;
	if (kind == PIECE_LATE) {
		/* All of it in memory, or none; with a gap, so that no two are taken for one across the border. */
		if (l->late_size <= l->late_room && l->late_room - l->late_size < size)
			l->late_size = l->late_room + PAGE_SIZE;
		from = l->late_size;
		l->late_size += size;
		if (extents_add(&lt->late, (struct extent){ .start = start, .end = end, .slot = from, .several = several }))
			return -ENOMEM;
	}
	/* What is the parent's is told area by area. */
	if (last && last->end == start && last->kind == kind && p->count > p->first && (kind == PIECE_SHARED || kind == PIECE_PREVIOUS || last->from + (last->end - last->start) == from))
		last->end = end;
	else if (!(last = VEC_PUSH(p)))
		return -ENOMEM;
	else
		*last = (struct piece){ .start = start, .end = end, .kind = kind, .from = from, .at = p->size };
	p->size += piece_is_elsewhere(&(struct piece){ .kind = kind }) ? 0 : size;
	return 0;
}

/* What the parent had too when both were first looked at: still so where the parent has not written. */
static int add_shared(struct dump *d, struct live_task *lt, const struct proc_vma *v, uint64_t start, uint64_t end)
{
	struct live_task *p = lt->parent;
	bool may = p && p->t && lt->t->may_share && lt->t->parent == p->t && maps_find_same(&p->t->maps, v);
	int r = 0;

	if (!may)
		return add_piece(d, lt, start, end, PIECE_LATE, 0, true);
	for (size_t i = extents_find(&p->touched, start); !r && start < end; i++) {
		const struct extent *x = i < p->touched.count ? &p->touched.data[i] : NULL;
		uint64_t same = x ? MIN(MAX(x->start, start), end) : end, stop = x ? MIN(x->end, end) : end;
		r = add_piece(d, lt, start, same, PIECE_SHARED, 0, false);
		if (!r && same < stop)
			r = add_piece(d, lt, same, stop, PIECE_LATE, 0, true);
		start = stop;
	}
	return r;
}

/* [start, end) is as it was when it was copied. */
static int add_unchanged(struct dump *d, struct live_task *lt, const struct proc_vma *v, uint64_t start, uint64_t end)
{
	const struct extents *known = &lt->slots.known;
	int r = 0;

	for (size_t i = extents_find(known, start); !r && i < known->count && known->data[i].start < end; i++) {
		const struct extent *x = &known->data[i];
		uint64_t from = MAX(x->start, start), to = MIN(x->end, end);
		r = x->previous ? add_piece(d, lt, from, to, PIECE_PREVIOUS, 0, false) :
		    x->shared ? add_shared(d, lt, v, from, to) :
				 add_piece(d, lt, from, to, PIECE_STORED, x->slot + (from - x->start), false);
	}
	return r;
}

/* The same, but for what could not be read then. */
static int add_read(struct dump *d, struct live_task *lt, const struct proc_vma *v, uint64_t start, uint64_t end)
{
	int r = 0;

	for (size_t i = extents_find(&lt->missing, start); !r && start < end; i++) {
		const struct extent *x = i < lt->missing.count ? &lt->missing.data[i] : NULL;
		uint64_t same = x ? MIN(MAX(x->start, start), end) : end, stop = x ? MIN(x->end, end) : end;
		r = add_unchanged(d, lt, v, start, same);
		if (!r && same < stop)
			r = add_piece(d, lt, same, stop, PIECE_LATE, 0, d->live->tree);
		start = stop;
	}
	return r;
}

static int add_held(struct dump *d, struct live_task *lt, const struct proc_vma *v, size_t *look, struct extents *touched)
{
	uint64_t at = v->start;
	int r = 0;

	for (; !r && *look < lt->looks.count && lt->looks.data[*look].start < v->end; ++*look) {
		const struct track_runs *changes = &lt->looks.data[*look].changes;
		for (size_t i = 0; !r && i < changes->count; i++) {
			const struct track_run *x = &changes->data[i];
			if (!is_changed(x))
				continue;
			r = add_read(d, lt, v, at, x->start);
			if (!r && is_there(x))
				r = add_piece(d, lt, x->start, x->end, PIECE_LATE, 0, d->live->tree);
			if (!r)
				r = extents_add(touched, (struct extent){ .start = x->start, .end = x->end, .shared = true });
			at = x->end;
		}
	}
	return r ? r : add_read(d, lt, v, at, v->end);
}

/* An area that nobody watches: all that is there. */
static int add_plain(struct dump *d, struct live_task *lt, const struct proc_vma *v, struct extents *touched)
{
	struct page_runs runs = {};
	uint32_t status = vma_status(v);
	struct task *t = lt->t, *parent = t->parent;
	bool same = d->live->tree && t->may_share && parent && maps_find_same(&parent->maps, v);
	int r = scan_pages(t->pagemap_fd, v->start, v->end, status & VMA_FILE_PRIVATE, same, &runs);

	if (!r && d->live->tree)
		r = scan_split(t->pagemap_fd, same ? parent->pagemap_fd : -1, &runs);
	for (size_t i = 0; !r && i < runs.count; i++) {
		const struct page_run *run = &runs.data[i];
		r = add_piece(d, lt, run->start, run->end, run->shared ? PIECE_SHARED : PIECE_LATE, 0, run->several);
	}
	VEC_FREE(&runs);
	return r ? r : extents_add(touched, (struct extent){ .start = v->start, .end = v->end, .shared = true });
}

int live_find_pieces(struct dump *d, struct live_task *lt)
{
	struct task *t = lt->t;
	struct extents touched = {};
	size_t look = 0;
	int r = 0;

	for (size_t i = 0; !r && i < t->maps.count; i++) {
		const struct proc_vma *v = &t->maps.data[i];
		uint32_t status = vma_status(v);
		if (v->vmflags & PROC_VMF_DP || !(status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || status & (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL))
			continue;
		lt->pieces.first = lt->pieces.count;
		r = is_held(lt, v) ? add_held(d, lt, v, &look, &touched) : add_plain(d, lt, v, &touched);
	}
	if (!r && d->live->tree)
		r = extents_join(&lt->touched, &touched);
	VEC_FREE(&touched);
	return r && !d->e->text[0] ? task_errno(d, lt->t, r, "cannot read its pagemap") : r;
}

int live_take_all(struct dump *d, struct live_task *lt)
{
	const struct extents *known = &lt->slots.known, *missing = &lt->missing;
	int r = 0;

	for (size_t i = 0; !r && i < known->count; i++) {
		const struct extent *x = &known->data[i];
		enum piece_kind kind = x->previous ? PIECE_PREVIOUS : x->shared ? PIECE_SHARED : PIECE_STORED;
		for (uint64_t at = x->start; !r && at < x->end;) {
			size_t k = extents_find(missing, at);
			const struct extent *gap = k < missing->count && missing->data[k].start < x->end ? &missing->data[k] : NULL;
			uint64_t end = gap ? MAX(gap->start, at) : x->end;
			r = add_piece(d, lt, at, end, kind, x->slot + (at - x->start), false);
			at = gap ? gap->end : end;
		}
	}
	return r ? error_set(d->e, r, "out of memory") : 0;
}
