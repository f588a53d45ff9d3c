/* For live.h: the rounds, while the tree runs: what was written is protected, then copied. */
#include "base/log.h"
#include "base/workers.h"
#include "engine/memory/live_task.h"
#include "engine/memory/pinned.h"
#include "engine/memory/pins.h"
#include "engine/watch.h"

#include <sys/mman.h>
#include <time.h>

#define ROUNDS_MAX 10
#define SMALL_ENOUGH (1UL << 20) /* what is left for the pause */
#define LATE_AT_ONCE (1UL << 20) /* of the memory for it, that is there when the pause begins, or so many times what the last round copied */
#define LATE_TIMES 4

static bool has_memory(const struct live_task *lt)
{
	struct proc_maps maps = {};
	bool has = proc_read_maps(lt->proc, &maps) == 0 && maps.count;

	proc_maps_finish(&maps);
	return has;
}

/* Who else has the pages; in the first round, which of them are the parent's as well. */
static int split(struct dump *d, struct live_task *lt, bool first, struct extents *runs)
{
	struct extents out = {};
	struct live_task *p = first && lt->parent && !lt->parent->gone ? lt->parent : NULL;
	int r = 0;

	for (size_t i = 0; !r && i < lt->maps.count; i++) {
		const struct proc_vma *v = &lt->maps.data[i];
		struct page_runs pages = {};
		bool same = p && maps_find_same(&p->maps, v);
		for (size_t k = extents_find(runs, v->start); !r && k < runs->count && runs->data[k].start < v->end; k++) {
			struct page_run *page = VEC_PUSH(&pages);
			r = page ? 0 : -ENOMEM;
			if (page)
				*page = (struct page_run){ MAX(runs->data[k].start, v->start), MIN(runs->data[k].end, v->end), same, false, false };
		}
		if (!r)
			r = scan_split(lt->pagemap_fd, same ? p->pagemap_fd : -1, &pages);
		for (size_t k = 0; !r && k < pages.count; k++)
			r = extents_add(&out, (struct extent){ pages.data[k].start, pages.data[k].end, 0, pages.data[k].shared, pages.data[k].several, false });
		VEC_FREE(&pages);
	}
	/* It, or its parent, has ended meanwhile. */
	if ((r == -EIO || r == -ESRCH) && !has_memory(lt)) {
		lt->gone = true;
		out.count = 0;
		r = 0;
	} else if ((r == -EIO || r == -ESRCH) && p && !has_memory(p)) {
		VEC_FREE(&out);
		return split(d, lt, false, runs);
	}
	VEC_FREE(runs);
	*runs = out;
	return r ? error_errno(d->e, r, "process %d (%s): cannot read its pagemap", lt->pid, lt->comm) : 0;
}

void live_unwatch(struct live_task *lt)
{
	struct proc_maps maps = {};

	if (!lt->gone && !lt->kept && proc_read_maps(lt->proc, &maps) == 0)
		track_unwatch_all(lt->uffd, &maps);
	proc_maps_finish(&maps);
}

/* The places of a run. */
static int find_places(const struct extents *known, const struct extent *run, struct extents *copies)
{
	int r = 0;

	for (size_t i = extents_find(known, run->start); !r && i < known->count && known->data[i].start < run->end; i++) {
		struct extent x = known->data[i];
		uint64_t start = MAX(x.start, run->start);
		x.slot += start - x.start;
		x.start = start;
		x.end = MIN(x.end, run->end);
		if (!x.shared)
			r = extents_add(copies, x);
	}
	return r;
}

/* Two lists that have nothing in common. */
static int merge(const struct extents *a, const struct extents *b, struct extents *ret)
{
	int r = 0;

	for (size_t i = 0, k = 0; !r && (i < a->count || k < b->count);) {
		bool first = k == b->count || (i < a->count && a->data[i].start < b->data[k].start);
		r = extents_add(ret, first ? a->data[i++] : b->data[k++]);
	}
	return r;
}

/* In one list, so that places are in the order of addresses. What is copied in the pause needs a place only. */
static int place_found(struct live_task *lt, bool first, struct found *f, struct extents *copies)
{
	const bool several = f->places.count || f->previous.count;
	struct extents all = {}, some = {};
	int r = several ? merge(&f->runs, &f->places, &some) : 0;

	if (!r && several)
		r = merge(&some, &f->previous, &all);
	VEC_FREE(&some);
	if (!r)
		r = slots_place(&lt->slots, several ? &all : &f->runs, first ? NULL : copies);
	VEC_FREE(&all);
	for (size_t i = 0; !r && first && i < f->runs.count; i++)
		r = find_places(&lt->slots.known, &f->runs.data[i], copies);
	return r;
}

/* Who may still write to what has just been protected. */
static int see_who_holds(struct dump *d, struct live_task *lt, const struct extents *runs)
{
	const struct pins_of of = { lt->proc, lt->comm, lt->uffd, lt->pagemap_fd };
	int r = lt->gone || lt->given_up ? 0 : pins_release(d->pins, &of, runs);

	lt->unheld = r == 1;
	return r >= 0 || !has_memory(lt) ? 0 : error_errno(d->e, r, "process %d (%s): cannot see who holds its pages", lt->pid, lt->comm);
}

/* In this order: all are protected, then looked at who may write unseen, then copied. */
static int copy_found(struct dump *d, struct live_task *lt, bool first, struct found *f, uint64_t settled)
{
	struct extents copies = {};
	int r = 0;

	lt->copied = 0;
	if (!lt->given_up && !lt->gone && (lt->given_up = pinned_by(lt->proc, &lt->maps))) {
		log_info("Process %d (%s): its memory is copied while it is stopped, since %s may write to it", lt->pid, lt->comm, lt->given_up);
		live_unwatch(lt);
		increment_break(d, lt->pid, lt->start_time);
	}
	if (lt->given_up || lt->gone)
		return 0;
	if (lt->store_fd < 0 && (lt->store_fd = image_scratch(d->dir)) < 0)
		return error_errno(d->e, lt->store_fd, "cannot make a file for the pages of process %d", lt->pid);
	if (d->live->tree)
		r = split(d, lt, first, &f->runs);
	if (!r && d->live->tree && f->previous.count)
		r = split(d, lt, first, &f->previous);
	for (size_t i = 0; !r && i < f->previous.count; i++) {
		struct extent *x = &f->previous.data[i];
		x->previous = !x->shared;
		x->shared = true;
		x->several = false;
	}
	if (!r)
		r = place_found(lt, first, f, &copies);
	if (!r && !first && d->live->tree)
		r = extents_join(&lt->touched, &f->runs);
	if (first) /* where every second page is there these lists are what a dump has of memory */
		VEC_FREE(&f->runs);
	if (r && !d->e->text[0])
		error_set(d->e, r, "out of memory");
	if (!r && copies.count)
		pins_wait(d->pins, lt->uffd, settled);
	if (!r)
		r = live_copy(d, lt, &copies);
	VEC_FREE(&copies);
	return r;
}

int live_run_round(struct dump *d, bool first, uint64_t *ret)
{
	struct live *l = d->live;
	_cleanup_free_ struct found *found = calloc(l->tasks.count + 1, sizeof(*found));
	uint64_t size = 0;
	int r = found ? 0 : error_set(d->e, -ENOMEM, "out of memory");

	*ret = 0;
	for (size_t i = 0; i < l->tasks.count; i++)
		VEC_FREE(&l->tasks.data[i]->last);
	for (size_t i = 0; !r && i < l->tasks.count; i++)
		if (!l->tasks.data[i]->given_up && !l->tasks.data[i]->gone)
			r = live_collect(d, l->tasks.data[i], first, &found[i]);
	for (size_t i = 0; !r && i < l->tasks.count; i++)
		for (size_t k = 0; k < found[i].runs.count; k++)
			size += found[i].runs.data[k].end - found[i].runs.data[k].start;
	live_gently(d, size);
	for (size_t i = 0; !r && i < l->tasks.count; i++)
		r = see_who_holds(d, l->tasks.data[i], &found[i].runs);
	const uint64_t settled = watch_now() + PINS_SETTLE_NS;
	for (size_t i = 0; !r && i < l->tasks.count; i++) {
		r = copy_found(d, l->tasks.data[i], first, &found[i], settled);
		*ret += l->tasks.data[i]->copied;
	}
	workers_pace(d->workers, PACE_USUAL);
	for (size_t i = 0; found && i < l->tasks.count; i++) {
		l->tasks.data[i]->last = found[i].runs;
		VEC_FREE(&found[i].places);
		VEC_FREE(&found[i].previous);
	}
	return r;
}

/* The last that is not done in the pause: it takes a while, during which the program writes; rounds follow. */
static int read_flags(struct dump *d)
{
	for (size_t i = 0; !d->live->told && i < d->live->tasks.count; i++) {
		struct live_task *lt = d->live->tasks.data[i];
		if (lt->given_up || lt->gone)
			continue;
		proc_maps_finish(&lt->flags);
		if (proc_read_smaps(lt->proc, &lt->flags))
			lt->gone = true;
	}
	return 0;
}

/* Memory that is there already when the pause begins. `last`: bytes of the last round. */
static void populate_late(struct live *l, uint64_t last)
{
	uint64_t size = MIN(l->late_room, ALIGN_UP(MAX(LATE_AT_ONCE, last * LATE_TIMES), PAGE_SIZE));

	if (madvise(l->late, size, MADV_POPULATE_WRITE) < 0)
		log_debug("Memory for the pause is made in it: %s", strerror(errno));
}

/* Ends when little is left, or as much as before. */
int live_run_rounds(struct dump *d)
{
	uint64_t now = 0, last, left = 0;
	int r = 0;

	for (int n = 1; !r && n <= ROUNDS_MAX; n++) {
		last = now;
		r = live_run_round(d, n == 1, &now);
		left = now;
		log_info("Round %d: %llu KiB", n, (unsigned long long)now >> 10);
		if (r || (n > 3 && now > last - last / 4))
			break;
		if (n == 2)
			read_flags(d);
		live_name_calls(d);
		/* The third at least, where the flags must be known. */
		if (n >= (d->live->told ? 1 : 3) && !(r = live_left(d, &left)) && left <= SMALL_ENOUGH)
			break;
	}
	populate_late(d->live, left);
	return r || left < LIVE_COW_MIN ? r : live_cow_prepare(d);
}
