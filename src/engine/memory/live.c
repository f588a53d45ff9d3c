/* See live.h. */
#include "base/log.h"
#include "base/workers.h"
#include "engine/memory/lazy.h"
#include "engine/memory/live_task.h"
#include "engine/memory/pages.h"
#include "engine/cuda/cuda.h"
#include "engine/memory/pinned.h"
#include "engine/memory/pins.h"
#include "engine/memory/vmflags.h"
#include "engine/task/insight.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>

#define LATE_MIN (16UL << 20)	 /* memory for what is copied in the pause, and a part of the whole where that is more */
#define LATE_SHARE 256
#define URGENT_MAX (64UL << 20) /* what is copied in the pause before all others' work */

static uint64_t ms_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)((now.tv_sec - start->tv_sec) * 1000 + (now.tv_nsec - start->tv_nsec) / 1000000);
}

static struct live_task *find_live(const struct dump *d, pid_t pid, uint64_t start_time)
{
	for (size_t i = 0; d->live && i < d->live->tasks.count; i++) {
		struct live_task *lt = d->live->tasks.data[i];
		if (lt->pid == pid && lt->start_time == start_time)
			return lt;
	}
	return NULL;
}

struct live_task *live_usable(const struct dump *d, const struct task *t)
{
	struct live_task *lt = find_live(d, t->pid, t->stat.start_time);

	return lt && !lt->given_up && !lt->gone ? lt : NULL;
}

/* ---- the tree is stopped for a moment ---- */

static int add_task(struct dump *d, struct task *t)
{
	struct live_task *lt = calloc(1, sizeof(*lt)), **slot = lt ? VEC_PUSH(&d->live->tasks) : NULL;

	if (!slot) {
		free(lt);
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	*slot = lt;
	*lt = (struct live_task){ .pid = t->pid, .proc = t->proc, .start_time = t->stat.start_time, .uffd = -1, .store_fd = -1 };
	snprintf(lt->comm, sizeof(lt->comm), "%s", t->stat.comm);
	lt->parent = t->parent ? find_live(d, t->parent->pid, t->parent->stat.start_time) : NULL;
	lt->mem_fd = TAKE_FD(t->mem_fd);
	lt->pagemap_fd = TAKE_FD(t->pagemap_fd);
	return 0;
}

/* By a process that shares its memory: it is saved with that one. */
static bool is_watched_by_another_of_us(const struct dump *d, const struct proc_vma *v)
{
	for (size_t i = 0; i < d->live->tasks.count; i++)
		if (d->live->tasks.data[i]->uffd >= 0 && track_watch(d->live->tasks.data[i]->uffd, v->start, v->end) == 1)
			return true;
	return false;
}

/* While it stands still, so that no area is cut. */
static void watch_areas(struct dump *d, struct live_task *lt, const struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->count; i++) {
		const struct proc_vma *v = &maps->data[i];
		if (!track_can_watch(v) || track_watch(lt->uffd, v->start, v->end) != -EBUSY)
			continue;
		log_info("Process %d (%s): its memory at %lx is watched by another", lt->pid, lt->comm, (unsigned long)v->start);
		/* What we protect does not seem written any more to him, be it for another dump, or for a process of ours that has the same memory. */
		if (is_watched_by_another_of_us(d, v))
			lt->given_up = "a process that has the same memory";
		else if (track_is_watched(lt->pagemap_fd, v->start, v->end))
			lt->given_up = "another dump";
	}
}

static int watch_tree(struct dump *d)
{
	int r = tree_freeze(d);

	for (size_t i = 0; !r && i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i];
		if (t->state == TASK_DEAD)
			continue;
		r = task_look_briefly(d, t);
		if (!r)
			r = live_note_calls(d, t);
		d->live->told = d->live->told && !r && !vmbits_read(d->kernel, &d->live->bits, t->pid, t->stat.comm, &t->maps);
		if (!r)
			r = increment_open(d, t);
		const bool watched = !r && pinned_is_watched(t->proc);
		int kept = r ? -1 : increment_uffd(d, t), fd = r ? r : kept >= 0 ? fcntl(kept, F_DUPFD_CLOEXEC, 3) : watched ? -1 : track_open(d, t);
		if (kept >= 0 && fd < 0)
			r = error_errno(d->e, -errno, "cannot watch process %d", t->pid);
		else
			r = fd < 0 && !watched ? fd : add_task(d, t);
		if (r && fd >= 0)
			close(fd);
		if (r)
			break;
		struct live_task *lt = d->live->tasks.data[d->live->tasks.count - 1];
		lt->uffd = fd;
		lt->kept = kept >= 0;
		if (watched)
			lt->given_up = "a userfaultfd of its own";
		if ((r = increment_take(d, t, &lt->since, &lt->before)))
			break;
		watch_areas(d, lt, &t->maps);
	}
	const size_t descriptors = dump_descriptors(d);
	tree_thaw(d);
	descriptors_reserve(descriptors); /* while there are no threads, which there will be in the pause */
	d->live->watching = true;
	d->live->tree = d->live->tasks.count > 1;
	return r;
}

static int make_late(struct dump *d)
{
	struct live *l = d->live;
	uint64_t size = 0;

	for (size_t i = 0; i < l->tasks.count; i++)
		size += l->tasks.data[i]->slots.size;
	l->late_room = ALIGN_UP(MAX(LATE_MIN, size / LATE_SHARE), PAGE_SIZE);
	l->late = mmap(NULL, l->late_room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (l->late == MAP_FAILED) {
		l->late = NULL;
		return error_set(d->e, -ENOMEM, "out of memory");
	}
	l->spill_fd = image_scratch(d->dir);
	return l->spill_fd < 0 ? error_errno(d->e, l->spill_fd, "cannot make a file for pages") : 0;
}

/* 1: it is not possible. */
static int begin(struct dump *d)
{
	struct timespec start;

	if (track_possible()) {
		log_info("This kernel can't tell what a running process writes: memory is copied while the tree is stopped");
		return 1;
	}
	d->live = calloc(1, sizeof(*d->live));
	if (!d->live)
		return error_set(d->e, -ENOMEM, "out of memory");
	pthread_mutex_init(&d->live->lock, NULL);
	d->live->spill_fd = -1;
	d->live->tells_holes = track_tells_holes();
	d->live->told = dump_kernel(d) && !vmbits_learn(d->kernel, &d->live->bits);
	pins_open(d);
	clock_gettime(CLOCK_MONOTONIC, &start);
	workers_pace(d->workers, PACE_URGENT);
	int r = watch_tree(d);
	workers_pace(d->workers, PACE_USUAL);
	log_info("Stopped for %llu ms to watch its memory", (unsigned long long)ms_since(&start));
	return r;
}

int live_begin(struct dump *d)
{
	int r = begin(d);

	if (!r)
		r = make_late(d);
	return r < 0 ? r : r ? 0 : live_run_rounds(d);
}

static int by_start(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static int order_missing(struct dump *d, struct live_task *lt)
{
	struct extents none = {};

	if (lt->missing.count)
		qsort(lt->missing.data, lt->missing.count, sizeof(*lt->missing.data), by_start);
	return extents_join(&lt->missing, &none) ? error_set(d->e, -ENOMEM, "out of memory") : 0;
}

/* One process of a pre-dump. Of one that can't be watched the image has nothing. */
static int write_running(struct dump *d, struct live_task *lt)
{
	struct task t = { .pid = lt->pid };

	lt->t = &t;
	int r = order_missing(d, lt);
	if (!r && lt->store_fd < 0 && (lt->store_fd = image_scratch(d->dir)) < 0)
		r = error_errno(d->e, lt->store_fd, "cannot make a file for the pages of process %d", lt->pid);
	if (!r)
		r = pages_create(d, &t, &lt->map, &lt->data);
	if (!r && !lt->given_up)
		r = live_take_all(d, lt);
	if (!r)
		r = live_settle_task(d, lt);
	lt->t = NULL;
	return r;
}

int live_pre_dump(struct dump *d)
{
	uint64_t copied;
	int r = begin(d);

	if (!r)
		r = live_run_round(d, true, &copied);
	for (size_t i = 0; !r && i < d->live->tasks.count; i++)
		if (!d->live->tasks.data[i]->gone)
			r = write_running(d, d->live->tasks.data[i]);
	return r;
}

/* ---- the pause ---- */

bool live_has(const struct dump *d, const struct task *t)
{
	struct live_task *lt = d->live ? find_live(d, t->pid, t->stat.start_time) : NULL;

	return lt && lt->t == t && !lt->gone;
}

/* Areas that are watched by us are not seen to be watched. */
static int hold_areas(struct dump *d, struct live_task *lt, struct task *t)
{
	struct proc_maps *maps = &t->maps;
	int r = 0;

	for (size_t i = 0; !r && i < maps->count; i++) {
		struct proc_vma *v = &maps->data[i];
		if (live_cow_has(lt->cow, v)) {
			v->vmflags &= ~(uint64_t)(PROC_VMF_UW | PROC_VMF_UM);
			continue;
		}
		int s = track_can_watch(v) && track_is_watched(t->pagemap_fd, v->start, v->end) ? track_watch(lt->uffd, v->start, v->end) : 0;
		if (s == -ESRCH) {
			lt->gone = true; /* another program: exec */
			return 0;
		}
		if ((s != 1 && !(s == -EBUSY && is_watched_by_another_of_us(d, v))) || (s == 1 && track_drop_marked(lt->uffd, t->pagemap_fd, v)))
			continue;
		v->vmflags &= ~(uint64_t)(PROC_VMF_UW | PROC_VMF_UM);
		if (s == 1)
			r = extents_add(&lt->held, (struct extent){ .start = v->start, .end = v->end, .shared = true });
	}
	return r ? error_set(d->e, r, "out of memory") : 0;
}

static bool seems_watched(const struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->count; i++)
		if (maps->data[i].vmflags & (PROC_VMF_UM | PROC_VMF_UW))
			return true;
	return false;
}

int live_read_maps(const struct dump *d, struct task *t)
{
	const struct live_task *lt = live_usable(d, t);
	int r;

	/* The first stop needs no flags. */
	if (!d->live || d->live->slowly || (!lt && d->live->watching))
		return insight_read_maps(t);
	r = proc_read_maps(t->proc, &t->maps);
	if (!r && lt && d->live->watching && !d->live->told)
		vmflags_borrow(&t->maps, &lt->flags);
	return r;
}

/* With all flags, and once nobody brings pages any more. */
static int read_all_of_maps(struct dump *d, struct task *t)
{
	proc_maps_finish(&t->maps);
	int r = proc_read_smaps(t->proc, &t->maps);
	return r ? task_errno(d, t, r, "cannot read its maps") : lazy_settle(d, t);
}

/*
 * One with a GPU can't be watched, but what it has must not be written in the pause: all of it is copied then, to memory (live_reserve). Its device is not there now.
 * Rings of asynchronous i/o are for pages_capture alone.
 */
static bool take_plain(struct dump *d, struct task *t)
{
	struct live_task *lt = d->live ? find_live(d, t->pid, t->stat.start_time) : NULL;

	if (!lt || !lt->given_up || lt->gone || !cuda_has(d, t->pid))
		return false;
	for (size_t i = 0; i < t->maps.count; i++)
		if (vma_status(&t->maps.data[i]) & VMA_AIORING)
			return false;
	if (lt->store_fd < 0 && (lt->store_fd = image_scratch(d->dir)) < 0)
		return false;
	lt->plain = true;
	lt->t = t;
	return true;
}

int live_hold(struct dump *d, struct task *t)
{
	struct live_task *lt = live_usable(d, t);
	int r;

	if (!lt && take_plain(d, t))
		return 0;
	if (!lt)
		return lazy_settle(d, t);
	if (d->live->told && vmbits_read(dump_kernel(d), &d->live->bits, t->pid, t->stat.comm, &t->maps)) {
		log_info("Process %d (%s): smaps tells the flags of its areas, in the pause", t->pid, t->stat.comm);
		r = read_all_of_maps(d, t);
		if (r)
			return r;
	}
	r = hold_areas(d, lt, t);
	/* Watched by another: its pages are still being brought, by a lazy restore. */
	if (!r && !lt->gone && seems_watched(&t->maps)) {
		r = read_all_of_maps(d, t);
		lt->held.count = 0;
		if (!r)
			r = hold_areas(d, lt, t);
	}
	if (!r && lt->gone)
		r = read_all_of_maps(d, t);
	lt->t = lt->gone ? NULL : t;
	return r || !lt->t ? r : live_look(d, lt);
}

int live_capture(struct dump *d, struct task *t)
{
	struct live_task *lt = find_live(d, t->pid, t->stat.start_time);

	return pages_create(d, t, &lt->map, &lt->data);
}

/* What is protected already stays so. */
static int arm_again(struct dump *d, struct live_task *lt)
{
	struct track_runs changes = {};
	int r = 0;

	VEC_FOREACH(&lt->looks, look)
		for (size_t i = 0; !r && lt->kept && i < look->changes.count; i++) {
			struct track_run *x = look->changes.data[i].what & TRACK_WRITTEN ? VEC_PUSH(&changes) : NULL;
			if (x)
				*x = look->changes.data[i];
			else if (look->changes.data[i].what & TRACK_WRITTEN)
				r = error_set(d->e, -ENOMEM, "out of memory");
		}
	if (!r)
		r = increment_arm(d, lt->t, &lt->held, &changes);
	VEC_FREE(&changes);
	return r;
}

int live_paused(struct dump *d, int r)
{
	if (!d->live)
		return r;
	workers_wait(d->workers);
	if (!r && d->live->result) {
		*d->e = d->live->why;
		r = d->live->result;
	}
	for (size_t i = 0; i < d->live->tasks.count; i++) {
		struct live_task *lt = d->live->tasks.data[i];
		if (!lt->map || r)
			continue;
		r = order_missing(d, lt);
		if (!r)
			r = live_find_pieces(d, lt);
		if (!r)
			r = arm_again(d, lt);
		live_forget_looks(lt);
		if (!r && d->live->late_size > LIVE_COW_MIN && !d->live->slowly && !d->cuda)
			r = live_cow_arm(d, lt);
		if (d->live->late_size > URGENT_MAX && !lt->cow)
			workers_pace(d->workers, PACE_USUAL);
		if (!r)
			live_copy_late(d, lt);
	}
	workers_wait(d->workers);
	if (!r && d->live->result) {
		*d->e = d->live->why;
		r = d->live->result;
	}
	return r;
}

/* ---- behind it ---- */

static bool flags_held(struct dump *d)
{
	bool held = true;

	for (size_t i = 0; i < d->live->tasks.count && !d->live->slowly && !d->live->told; i++) {
		struct live_task *lt = d->live->tasks.data[i];
		struct proc_maps later = {};
		if (!lt->map || lt->plain)
			continue;
		/* One that has ended since: nothing more can be known of it. */
		if (proc_read_smaps(lt->proc, &later) || !vmflags_confirm(&lt->t->maps, &later, PROC_VMF_UW | PROC_VMF_UM))
			held = false;
		proc_maps_finish(&later);
	}
	return held;
}

int live_settle(struct dump *d)
{
	uint64_t size = 0;
	int r = 0;

	if (!d->live)
		return 0;
	workers_pace(d->workers, PACE_USUAL);
	if (!flags_held(d)) {
		log_info("Areas of memory were changed at the moment of the pause: it is repeated, and takes longer");
		return 1;
	}
	if ((r = live_cow_finish(d))) {
		if (r > 0)
			log_info("Memory went before it was copied: the pause is repeated, and takes longer");
		return r;
	}
	for (size_t i = 0; i < d->live->tasks.count; i++)
		size += d->live->tasks.data[i]->pieces.size;
	live_gently(d, size);
	for (size_t i = 0; !r && i < d->live->tasks.count; i++)
		if (d->live->tasks.data[i]->map)
			r = live_settle_task(d, d->live->tasks.data[i]);
	workers_pace(d->workers, PACE_USUAL);
	return r;
}

/* Images that were begun. */
static void drop_images(struct live_task *lt)
{
	live_cow_free(lt->cow);
	lt->cow = NULL;
	if (lt->map && !lt->settled) {
		image_close(lt->map);
		image_close(lt->data);
	}
	lt->map = lt->data = NULL;
	lt->settled = false;
	lt->t = NULL;
	live_forget_looks(lt);
	lt->pieces.count = lt->late.count = lt->held.count = 0;
	lt->pieces.size = 0;
}

void live_slowly(struct dump *d)
{
	d->live->slowly = true;
	d->live->late_size = 0;
	for (size_t i = 0; i < d->live->tasks.count; i++)
		drop_images(d->live->tasks.data[i]);
}

void live_reserve(struct dump *d, uint64_t size)
{
	struct live *l = d->live;
	const uint64_t room = ALIGN_UP(l ? l->late_room + size : 0, PAGE_SIZE);
	unsigned char *more;

	if (!l || !l->late || l->late_size || !size)
		return;
	more = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (more == MAP_FAILED) /* then it goes to the file */
		return;
	munmap(l->late, l->late_room);
	l->late = more;
	l->late_room = room;
}

static void live_task_free(struct live_task *lt)
{
	drop_images(lt);
	live_unwatch(lt);
	for (int i = 0; i < 4; i++) {
		int fd = (int[]){ lt->uffd, lt->pagemap_fd, lt->mem_fd, lt->store_fd }[i];
		if (fd >= 0)
			close(fd);
	}
	proc_maps_finish(&lt->maps);
	proc_maps_finish(&lt->flags);
	VEC_FREE(&lt->slots.known);
	VEC_FREE(&lt->last);
	VEC_FREE(&lt->touched);
	VEC_FREE(&lt->since);
	VEC_FREE(&lt->before);
	VEC_FREE(&lt->missing);
	VEC_FREE(&lt->pieces);
	VEC_FREE(&lt->late);
	VEC_FREE(&lt->held);
	free(lt);
}

void live_end(struct dump *d)
{
	struct live *l = d->live;

	if (!l)
		return;
	workers_pace(d->workers, PACE_USUAL);
	for (size_t i = 0; i < l->tasks.count; i++)
		live_task_free(l->tasks.data[i]);
	VEC_FREE(&l->tasks);
	if (l->late)
		munmap(l->late, l->late_room);
	if (l->spill_fd >= 0)
		close(l->spill_fd);
	pthread_mutex_destroy(&l->lock);
	free(l);
	d->live = NULL;
}
