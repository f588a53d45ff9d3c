/* For live.h: what a process has written since the last round. */
#include "engine/memory/live_task.h"

#define LARGE (32UL << 20) /* areas of this size are watched when they are new; one that changes in this very moment may be cut in two */

static int add_run(struct extents *runs, uint64_t start, uint64_t end)
{
	return extents_add(runs, (struct extent){ .start = start, .end = end });
}

/* Pages that were emptied, and then read: what was copied of them no longer holds. */
static int add_zero(struct live_task *lt, const struct track_run *zero, struct extents *runs)
{
	const struct extents *known = &lt->slots.known;
	int r = 0;

	for (size_t i = extents_find(known, zero->start); !r && i < known->count && known->data[i].start < zero->end; i++)
		r = add_run(runs, MAX(known->data[i].start, zero->start), MIN(known->data[i].end, zero->end));
	return r;
}

/* A large area that is not watched (any more) is from now on; what its pages look like then says nothing. */
static int watch_new(struct live_task *lt, const struct proc_vma *v, bool *is_new)
{
	*is_new = false;
	if (v->end - v->start < LARGE || track_is_watched(lt->pagemap_fd, v->start, v->end))
		return 0;
	int r = track_watch(lt->uffd, v->start, v->end);
	*is_new = r == 1;
	return r == -ESRCH ? r : 0;
}

/* Pages that were not written since the parent checkpoint: it has them, but for those that it lacks. `b` goes along. */
static int cut_clean(struct live_task *lt, uint64_t start, uint64_t end, size_t *b, struct extents *lacking, struct extents *previous)
{
	const struct page_spans *before = &lt->before;
	int r = 0;

	for (uint64_t at = start, next; !r && at < end; at = next) {
		while (*b < before->count && before->data[*b].address + before->data[*b].size <= at)
			++*b;
		const struct page_span *x = *b < before->count ? &before->data[*b] : NULL;
		bool has = x && x->address <= at;
		next = MIN(end, !x ? end : has ? x->address + x->size : x->address);
		r = add_run(has ? previous : lacking, at, next);
	}
	return r;
}

/* Of what the parent lacks: memory that was only read is not to be saved now either. */
static int add_lacking(struct live_task *lt, bool file, const struct extents *lacking, struct extents *changed)
{
	struct page_runs there = {};
	struct extents found = {};
	int r = 0;

	for (size_t i = 0; !r && i < lacking->count; i++)
		r = scan_pages(lt->pagemap_fd, lacking->data[i].start, lacking->data[i].end, file, false, &there);
	for (size_t i = 0; !r && i < there.count; i++)
		r = add_run(&found, there.data[i].start, there.data[i].end);
	if (!r)
		r = extents_join(changed, &found);
	VEC_FREE(&there);
	VEC_FREE(&found);
	return r;
}

/* Stretches of an area that are in neither list, of which the second has what came after the first. */
static int find_clean(struct live_task *lt, const struct proc_vma *v, const struct track_runs *changes, const struct track_runs *written,
		      struct extents *lacking, struct extents *previous)
{
	size_t c = 0, w = 0, b = 0;
	int r = 0;

	for (uint64_t at = v->start, next; !r && at < v->end; at = next) {
		while (c < changes->count && (changes->data[c].end <= at || (changes->data[c].what & (TRACK_SWAPPED | TRACK_WRITTEN)) == TRACK_SWAPPED))
			c++;
		while (w < written->count && written->data[w].end <= at)
			w++;
		const struct track_run *x = c < changes->count ? &changes->data[c] : NULL, *y = w < written->count ? &written->data[w] : NULL;
		if (y && (!x || y->start < x->start))
			x = y;
		next = x ? MIN(MAX(x->start, at), v->end) : v->end;
		r = cut_clean(lt, at, next, &b, lacking, previous);
		next = x ? MIN(MAX(x->end, next), v->end) : v->end;
	}
	return r;
}

/* Of what the parent has of an area, one part for each page table is enough for track_changes_of. */
static int list_tables(const struct page_spans *before, uint64_t start, uint64_t end, struct extents *ret)
{
	uint64_t known = start;
	int r = 0;

	for (size_t i = 0; !r && i < before->count && before->data[i].address < end; i++) {
		const uint64_t from = MAX(before->data[i].address, known), to = MIN(before->data[i].address + before->data[i].size, end);
		if (from >= to)
			continue;
		r = add_run(ret, from, to);
		known = (to + TRACK_TABLE - 1) & ~(TRACK_TABLE - 1);
	}
	return r;
}

static int find_changes(const struct dump *d, struct live_task *lt, const struct proc_vma *v, struct track_runs *changes, struct track_runs *written)
{
	const bool file = track_is_file(v), few = !file && d->live->tells_holes;
	struct extents tables = {};
	int r = few ? list_tables(&lt->before, v->start, v->end, &tables) : 0;

	if (few && !r)
		r = track_collect_of(lt->proc, lt->pagemap_fd, v->start, v->end, &tables, changes, written);
	else if (!r && !(r = track_changes(lt->pagemap_fd, v->start, v->end, file, changes)))
		r = track_collect(lt->pagemap_fd, v->start, v->end, file, written);
	VEC_FREE(&tables);
	return r;
}

/* An area that has been watched since the parent checkpoint, in the first round. What comes between both looks is listed as written. */
static int collect_since(const struct dump *d, struct live_task *lt, const struct proc_vma *v, struct extents *runs, struct extents *previous)
{
	struct track_runs changes = {}, written = {};
	struct extents changed = {}, lacking = {};
	int r = find_changes(d, lt, v, &changes, &written);

	for (size_t i = 0; !r && i < written.count; i++)
		if (!(written.data[i].what & TRACK_ZERO))
			r = add_run(&changed, written.data[i].start, written.data[i].end);
	if (!r)
		r = find_clean(lt, v, &changes, &written, &lacking, previous);
	if (!r)
		r = add_lacking(lt, track_is_file(v), &lacking, &changed);
	for (size_t i = 0; !r && i < changed.count; i++)
		r = add_run(runs, changed.data[i].start, changed.data[i].end);
	VEC_FREE(&changes);
	VEC_FREE(&written);
	VEC_FREE(&changed);
	VEC_FREE(&lacking);
	return r;
}

static bool is_since(const struct live_task *lt, const struct proc_vma *v)
{
	size_t i = extents_find(&lt->since, v->start);

	return i < lt->since.count && lt->since.data[i].start <= v->start && lt->since.data[i].end >= v->end &&
	       track_is_watched(lt->pagemap_fd, v->start, v->end);
}

static int collect_watched(struct live_task *lt, const struct proc_vma *v, bool first, struct extents *runs)
{
	struct track_runs written = {};
	bool is_new = false;
	const bool file = track_is_file(v);
	int r = first ? 0 : watch_new(lt, v, &is_new);
	const bool all = first || is_new;

	if (!r)
		r = all	 ? track_collect_all(lt->uffd, lt->pagemap_fd, v->start, v->end, file, &written) :
		    file ? track_collect(lt->pagemap_fd, v->start, v->end, true, &written) :
			   track_collect_few(lt->pagemap_fd, v->start, v->end, &written);
	for (size_t i = 0; !r && i < written.count; i++)
		r = written.data[i].what & TRACK_ZERO ? add_zero(lt, &written.data[i], runs) :
							add_run(runs, written.data[i].start, written.data[i].end);
	VEC_FREE(&written);
	return r;
}

/* The pages that were written since the last round; those that can't be watched are given a place in the first. */
static int collect_area(const struct dump *d, struct live_task *lt, const struct proc_vma *v, bool first, struct found *f)
{
	struct page_runs plain = {};
	int r = 0;

	if (track_can_watch(v) && first && is_since(lt, v))
		return collect_since(d, lt, v, &f->runs, &f->previous);
	if (track_can_watch(v))
		return collect_watched(lt, v, first, &f->runs);
	if (!first || !(vma_status(v) & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || vma_status(v) & (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL))
		return 0;
	r = scan_pages(lt->pagemap_fd, v->start, v->end, vma_status(v) & VMA_FILE_PRIVATE, false, &plain);
	for (size_t i = 0; !r && i < plain.count; i++)
		r = add_run(&f->places, plain.data[i].start, plain.data[i].end);
	VEC_FREE(&plain);
	return r;
}

int live_collect(struct dump *d, struct live_task *lt, bool first, struct found *f)
{
	proc_maps_finish(&lt->maps);
	int r = proc_read_maps(lt->proc, &lt->maps);
	if (lt->kept)
		increment_touch(d);
	if (!r && !lt->maps.count)
		r = -ESRCH;
	for (size_t i = 0; !r && i < lt->maps.count; i++)
		r = collect_area(d, lt, &lt->maps.data[i], first, f);
	if (d->request->pre_dump) /* nobody would copy them later */
		f->places.count = 0;
	if (r == -ESRCH || r == -ENOENT) { /* it has ended, or called exec */
		lt->gone = true;
		f->runs.count = f->places.count = f->previous.count = 0;
		return 0;
	}
	return r ? error_errno(d->e, r, "process %d (%s): cannot see what it has written", lt->pid, lt->comm) : 0;
}

int live_left(const struct dump *d, uint64_t *ret)
{
	int r = 0;

	*ret = 0;
	for (size_t i = 0; i < d->live->tasks.count; i++) {
		const struct live_task *lt = d->live->tasks.data[i];
		for (size_t k = 0; !r && !lt->given_up && !lt->gone && k < lt->maps.count; k++)
			if (track_can_watch(&lt->maps.data[k]) && track_is_watched(lt->pagemap_fd, lt->maps.data[k].start, lt->maps.data[k].end))
				r = track_written(lt->pagemap_fd, lt->maps.data[k].start, lt->maps.data[k].end, track_is_file(&lt->maps.data[k]), ret);
		r = r == -ESRCH || r == -ENOENT ? 0 : r; /* it has ended */
	}
	return r;
}
