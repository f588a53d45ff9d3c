/* See increment.h. */
#include "engine/memory/increment.h"

#include "base/log.h"
#include "engine/memory/holder.h"
#include "engine/memory/parents.h"
#include "engine/memory/pinned.h"
#include "engine/memory/pins.h"
#include "engine/memory/slots.h"
#include "engine/memory/track.h"
#include "engine/task/task.h"
#include "engine/watch.h"

#include <fcntl.h>
#include <limits.h>
#include <time.h>

#define SINGLY 256 /* so many parts of an area are protected one by one, more together with what is between them */

/* A process that is watched. */
struct tracked {
	pid_t pid;
	uint64_t start_time;
	int uffd;
	bool since_parent;	  /* what was not written is as the parent checkpoint has it */
	bool from_holder;	  /* of the last dump */
	bool broken;		  /* someone may write to it unseen: not to be watched any longer */
	struct page_spans before; /* what the parent checkpoint has, itself or in its own parents */
	struct extents held;	  /* areas that were watched when the tree was stopped */
};

struct increment {
	struct image_dir *parent; /* NULL: none was asked for */
	struct image_lineage of;
	struct pagemap root; /* the root's, of it, read while the tree runs */
	char link[PATH_MAX];
	char id[IMAGE_ID_SIZE]; /* of the checkpoint that is written */
	VEC(struct tracked *) tasks;
	VEC(struct holding *) holdings;
	bool track, touched, used, any; /* touched: something was protected; used: a page is the parent's; any: a process was watched since it */
};

/* ---- the parent checkpoint ---- */

/* From one directory to another, so that both may be moved together. */
static int relative_path(const char *from, const char *to, char ret[PATH_MAX])
{
	char a[PATH_MAX], b[PATH_MAX];
	size_t same = 0, used = 0;

	if (!realpath(from, a) || !realpath(to, b))
		return -errno;
	for (size_t i = 0; a[i] == b[i] || (!a[i] && b[i] == '/') || (!b[i] && a[i] == '/'); i++) {
		if (!a[i] || !b[i] || a[i] == '/')
			same = i;
		if (!a[i] || !b[i])
			break;
	}
	ret[0] = '\0';
	for (const char *p = a + same; *p; p++)
		if (*p == '/' && p[1] && used + 4 < PATH_MAX)
			used += (size_t)snprintf(ret + used, PATH_MAX - used, "../");
	const char *rest = b + same + (b[same] == '/');
	if (used + strlen(rest) + 2 > PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(ret + used, PATH_MAX - used, "%s", *rest ? rest : used ? "" : ".");
	return 0;
}

static int find_parent(struct dump *d, struct increment *n, char path[PATH_MAX])
{
	const struct request *q = d->request;
	const bool within = q->parent_from_images && q->parent[0] != '/';
	int size = snprintf(path, PATH_MAX, "%s%s%s", within ? q->images_dir : "", within ? "/" : "", q->parent);

	if (size >= PATH_MAX)
		return error_set(d->e, -ENAMETOOLONG, "the path of the parent checkpoint %s is too long", q->parent);
	int r = image_dir_open(path, &n->parent);
	if (r == -ENOENT)
		return error_set(d->e, r, "there is no parent checkpoint %s; leave it out for a whole one", path);
	if (r)
		return error_errno(d->e, r, "cannot open the parent checkpoint %s", path);
	if (q->parent_from_images)
		snprintf(n->link, sizeof(n->link), "%s", q->parent);
	else if ((r = relative_path(q->images_dir, path, n->link)))
		return error_errno(d->e, r, "cannot tell the way to the parent checkpoint %s", path);
	return 0;
}

static int check_parent(struct dump *d, struct increment *n, const char *path)
{
	char name[64];

	if (strcmp(image_packing_name(n->parent), "none") != 0)
		return error_set(d->e, -EINVAL, "the parent checkpoint %s is an archive; only a directory can be a parent", path);
	int r = image_dir_lineage(n->parent, &n->of);
	if (r || !n->of.id[0])
		return error_set(d->e, -EINVAL, "%s is no checkpoint that can be a parent: it has no manifest with an id (fermata.json)", path);
	if (n->of.dropped)
		return error_set(d->e, -EINVAL, "pages were taken out of the checkpoint %s, since a later one has them (dedup); give that one as the parent", path);
	snprintf(name, sizeof(name), "pagemap-%d.img", (int)d->request->pid);
	r = pagemap_read(n->parent, name, &n->root);
	if (r == -ENOENT)
		return error_set(d->e, -EINVAL, "the checkpoint %s is of another process: it has nothing of process %d", path, (int)d->request->pid);
	return r ? error_errno(d->e, r, "cannot read %s of the parent checkpoint %s", name, path) : 0;
}

int increment_begin(struct dump *d)
{
	const struct request *q = d->request;
	struct increment *n = d->increment = calloc(1, sizeof(*n));
	char path[PATH_MAX];

	if (!n)
		return error_set(d->e, -ENOMEM, "out of memory");
	n->track = q->track;
	if (n->track)
		pins_open(d);
	if (image_id_make(n->id))
		return error_set(d->e, -EIO, "cannot get random bytes");
	if (q->parent && (q->packing.kind != PACKING_NONE || q->packing.streams))
		return error_set(d->e, -EINVAL, "a checkpoint that is an archive can't have a parent; leave out one of both");
	if (n->track && track_possible()) {
		log_warning("This kernel can't tell what a process writes (userfaultfd with asynchronous write protection, Linux 6.7): every dump is a whole one");
		n->track = false;
	}
	int r = q->parent ? find_parent(d, n, path) : 0;
	return r || !q->parent ? r : check_parent(d, n, path);
}

void increment_name(struct dump *d)
{
	struct increment *n = d->increment;
	struct image_lineage own = {};

	memcpy(own.id, n->id, sizeof(own.id));
	if (n->used)
		memcpy(own.parent, n->of.id, sizeof(own.parent));
	image_dir_set_lineage(d->dir, &own, n->used ? n->link : NULL);
}

/* ---- what watches a process ---- */

static struct tracked *find(const struct dump *d, const struct task *t)
{
	const struct increment *n = d->increment;

	for (size_t i = 0; n && i < n->tasks.count; i++)
		if (n->tasks.data[i]->pid == t->pid && n->tasks.data[i]->start_time == t->stat.start_time)
			return n->tasks.data[i];
	return NULL;
}

int increment_uffd(const struct dump *d, const struct task *t)
{
	const struct tracked *tr = find(d, t);

	return tr ? tr->uffd : -1;
}

/* Its descriptor may have been taken already: there is no other, and the holder, which waits for what becomes of it, is not to be asked again. */
static struct held_process *find_held(struct holding *h, const struct task *t)
{
	VEC_FOREACH(&h->processes, p)
		if (p->pid == t->pid && p->start_time == t->stat.start_time)
			return p;
	return NULL;
}

/* The descriptor from the holder of the last dump. -1: none has it. */
static int take_held(struct dump *d, const struct task *t, const char **ret_id)
{
	struct increment *n = d->increment;
	struct held_process *p = NULL;
	struct holding *h = NULL;

	for (size_t i = 0; !p && i < n->holdings.count; i++)
		p = find_held(h = n->holdings.data[i], t);
	if (!p) {
		if (holder_take(t->pid, t->stat.start_time, &h) != 1)
			return -1;
		struct holding **slot = VEC_PUSH(&n->holdings);
		if (!slot) {
			holder_leave(h, HOLDER_LOST);
			return -1;
		}
		*slot = h;
		p = find_held(h, t);
	}
	if (!p)
		return -1;
	*ret_id = h->id;
	return TAKE_FD(p->uffd);
}

static void tracked_free(struct tracked *tr)
{
	if (tr->uffd >= 0)
		close(tr->uffd);
	VEC_FREE(&tr->before);
	VEC_FREE(&tr->held);
	free(tr);
}

static struct tracked *tracked_new(struct dump *d, const struct task *t, int uffd)
{
	struct tracked *tr = calloc(1, sizeof(*tr)), **slot = tr ? VEC_PUSH(&d->increment->tasks) : NULL;
	int high = slot ? fcntl(uffd, F_DUPFD_CLOEXEC, 3) : -1;

	close(uffd);
	if (high < 0) {
		if (slot)
			d->increment->tasks.count--;
		free(tr);
		error_set(d->e, -ENOMEM, "out of memory");
		return NULL;
	}
	*slot = tr;
	*tr = (struct tracked){ .pid = t->pid, .start_time = t->stat.start_time, .uffd = high };
	return tr;
}

static void forget(struct dump *d, struct tracked *tr)
{
	struct increment *n = d->increment;

	for (size_t i = 0; i < n->tasks.count; i++)
		if (n->tasks.data[i] == tr) {
			n->tasks.data[i] = n->tasks.data[--n->tasks.count];
			tracked_free(tr);
			return;
		}
}

/* The areas that this descriptor watches: what smaps says of that is ours. */
static int find_areas(struct dump *d, struct tracked *tr, struct task *t)
{
	int r = 0;

	tr->held.count = 0;
	for (size_t i = 0; !r && i < t->maps.count; i++) {
		struct proc_vma *v = &t->maps.data[i];
		if (!track_can_watch(v) || !track_is_watched(t->pagemap_fd, v->start, v->end) || track_watch(tr->uffd, v->start, v->end) != 1 ||
		    track_drop_marked(tr->uffd, t->pagemap_fd, v))
			continue;
		v->vmflags &= ~(uint64_t)(PROC_VMF_UW | PROC_VMF_UM);
		r = extents_add(&tr->held, (struct extent){ .start = v->start, .end = v->end, .shared = true });
	}
	return r ? error_set(d->e, r, "out of memory") : 0;
}

static int read_before(struct dump *d, struct tracked *tr)
{
	struct increment *n = d->increment;
	struct pagemap m = {};
	char name[64];

	snprintf(name, sizeof(name), "pagemap-%d.img", (int)tr->pid);
	const bool root = tr->pid == d->request->pid;
	const struct pagemap *of = root ? &n->root : &m;
	int r = root ? 0 : pagemap_read(n->parent, name, &m);
	if (!r)
		r = spans_join(&of->here, &of->in_parent, &tr->before);
	pagemap_finish(&m);
	if (r && r != -ENOENT)
		return error_errno(d->e, r, "cannot read %s of the parent checkpoint", name);
	tr->since_parent = !r;
	n->any |= !r;
	return 0;
}

/* Nobody wants it to be watched any longer. */
static void release(struct tracked *tr, const struct proc_maps *maps)
{
	track_unwatch_all(tr->uffd, maps);
}

static int open_held(struct dump *d, struct task *t, int uffd, const char *id)
{
	struct increment *n = d->increment;
	struct tracked *tr = tracked_new(d, t, uffd);
	bool of_parent = n->parent && !strcmp(id, n->of.id);
	int r = tr ? find_areas(d, tr, t) : -ENOMEM;

	if (r)
		return r;
	tr->from_holder = true;
	if (of_parent && !t->shares_memory)
		r = read_before(d, tr);
	/* Another program since (exec): the descriptor is of an address space that has gone, or is another's. */
	if (!r && tr->held.count && (tr->since_parent || n->track) && !t->shares_memory)
		return 0;
	/* A dump that stops the tree for all of its time has no need of the watch, and leaves it to its chain. */
	if (!r && tr->held.count && !n->track && !d->live)
		return 0;
	if (!r && tr->held.count) {
		log_info("Process %d (%s) is not watched any longer for an incremental dump: this is none", t->pid, t->stat.comm);
		increment_touch(d);
		release(tr, &t->maps);
	}
	forget(d, tr);
	return r;
}

int increment_open(struct dump *d, struct task *t)
{
	struct increment *n = d->increment;
	const char *id;
	int r = 0;

	if (!n)
		return 0;
	struct tracked *tr = find(d, t);
	if (tr) {
		tr->broken |= t->shares_memory;
		tr->since_parent &= !t->shares_memory;
		r = find_areas(d, tr, t);
		if (r || tr->held.count)
			return r;
		forget(d, tr); /* another program since */
	}
	int fd = take_held(d, t, &id);
	if (fd >= 0)
		r = open_held(d, t, fd, id);
	if (r || !n->track || find(d, t) || t->shares_memory || pinned_is_watched(t->proc))
		return r;
	fd = track_open(d, t);
	return fd < 0 ? fd : tracked_new(d, t, fd) ? 0 : -ENOMEM;
}

int increment_take(struct dump *d, const struct task *t, struct extents *since, struct page_spans *before)
{
	struct tracked *tr = find(d, t);

	if (!tr || !tr->since_parent)
		return 0;
	*before = tr->before;
	tr->before = (struct page_spans){};
	tr->since_parent = false;
	for (size_t i = 0; i < tr->held.count; i++)
		if (extents_add(since, tr->held.data[i]))
			return error_set(d->e, -ENOMEM, "out of memory");
	return 0;
}

void increment_touch(struct dump *d)
{
	__atomic_store_n(&d->increment->touched, true, __ATOMIC_RELAXED);
}

void increment_break(struct dump *d, pid_t pid, uint64_t start_time)
{
	for (size_t i = 0; i < d->increment->tasks.count; i++) {
		struct tracked *tr = d->increment->tasks.data[i];
		tr->broken |= tr->pid == pid && tr->start_time == start_time;
	}
}

struct image_dir *increment_parent(const struct dump *d)
{
	return d->increment && d->increment->any ? d->increment->parent : NULL;
}

void increment_used(struct dump *d)
{
	__atomic_store_n(&d->increment->used, true, __ATOMIC_RELAXED);
}

void increment_look(struct task *t)
{
	bool ours = false, looked = false;

	for (size_t i = 0; i < t->maps.count; i++) {
		struct proc_vma *v = &t->maps.data[i];
		if (!(v->vmflags & PROC_VMF_UW) || !track_can_watch(v))
			continue;
		if (!looked)
			ours = holder_has(t->pid, t->stat.start_time);
		looked = true;
		if (ours)
			v->vmflags &= ~(uint64_t)PROC_VMF_UW;
	}
}

/* ---- which pages ---- */

static bool lies_in(const struct extents *areas, const struct proc_vma *v)
{
	size_t i = extents_find(areas, v->start);

	return i < areas->count && areas->data[i].start <= v->start && areas->data[i].end >= v->end;
}

static bool is_held(const struct tracked *tr, const struct proc_vma *v)
{
	return lies_in(&tr->held, v);
}

static int note_written(const struct track_runs *runs, struct extents *written)
{
	int r = 0;

	for (size_t i = 0; !r && i < runs->count; i++) {
		const struct track_run *x = &runs->data[i];
		r = extents_add(written, (struct extent){ .start = x->start, .end = x->end, .shared = true });
	}
	return r;
}

/* Who may still write to what has just been protected. */
static int see_who_holds(struct dump *d, const struct tracked *tr, const struct task *t, const struct track_runs *runs)
{
	return pins_release_written(d->pins, &(struct pins_of){ t->proc, t->stat.comm, tr->uffd, t->pagemap_fd }, runs);
}

/* What of one area was written, and what can't be known: all of an area that was not watched. From now on all is protected, where that is wanted. */
static int look_at_area(struct dump *d, struct tracked *tr, struct task *t, const struct proc_vma *v, struct extents *unknown)
{
	const bool track = d->increment->track, held = is_held(tr, v);
	struct track_runs runs = {};
	int r = 0;

	if (track_can_watch(v) && (held || track)) {
		/* Without `track` nothing is changed; what is not there is listed as well. */
		if (!track)
			r = track_changes(t->pagemap_fd, v->start, v->end, track_is_file(v), &runs);
		else if (track_watch(tr->uffd, v->start, v->end) == 1)
			r = held ? track_collect(t->pagemap_fd, v->start, v->end, track_is_file(v), &runs) :
				   track_collect_all(tr->uffd, t->pagemap_fd, v->start, v->end, track_is_file(v), &runs);
	}
	if (!r && track)
		r = see_who_holds(d, tr, t, &runs);
	if (!r && held && track_is_huge(v))
		r = track_add_emptied(t->proc, v->start, v->end, &runs);
	if (!r)
		r = held ? note_written(&runs, unknown) : extents_add(unknown, (struct extent){ .start = v->start, .end = v->end, .shared = true });
	VEC_FREE(&runs);
	return r;
}

static int add_run(struct page_runs *to, const struct page_run *from, uint64_t start, uint64_t end, bool previous)
{
	struct page_run *last = to->count ? &to->data[to->count - 1] : NULL;

	if (start >= end)
		return 0;
	if (last && last->end == start && last->start >= from->start && last->previous == previous) {
		last->end = end;
		return 0;
	}
	last = VEC_PUSH(to);
	if (!last)
		return -ENOMEM;
	*last = *from;
	last->start = start;
	last->end = end;
	last->previous = previous;
	last->several &= !previous;
	return 0;
}

/* One run, by what the parent has of it and what was not written. */
static int cut_run(const struct tracked *tr, const struct extents *unknown, const struct page_run *run, size_t *before, struct page_runs *out)
{
	int r = 0;

	while (*before < tr->before.count && tr->before.data[*before].address + tr->before.data[*before].size <= run->start)
		++*before;
	for (uint64_t at = run->start, next; !r && at < run->end; at = next) {
		size_t i = *before, k = extents_find(unknown, at);
		while (i < tr->before.count && tr->before.data[i].address + tr->before.data[i].size <= at)
			i++;
		const struct page_span *x = i < tr->before.count ? &tr->before.data[i] : NULL;
		const struct extent *w = k < unknown->count ? &unknown->data[k] : NULL;
		bool has = x && x->address <= at, written = w && w->start <= at;
		next = MIN(run->end, !x ? run->end : has ? x->address + x->size : x->address);
		next = MIN(next, !w ? run->end : written ? w->end : w->start);
		r = add_run(out, run, at, next, has && !written);
		*before = i;
	}
	return r;
}

static int cut_runs(struct dump *d, const struct tracked *tr, const struct extents *unknown, struct page_runs *runs)
{
	struct page_runs out = {};
	size_t before = 0;
	int r = 0;

	for (size_t i = 0; !r && i < runs->count; i++) {
		const struct page_run *run = &runs->data[i];
		struct page_run *slot = run->shared ? VEC_PUSH(&out) : NULL;
		if (slot)
			*slot = *run;
		else
			r = run->shared ? -ENOMEM : cut_run(tr, unknown, run, &before, &out);
	}
	VEC_FREE(runs);
	*runs = out;
	for (size_t i = 0; i < out.count; i++)
		if (out.data[i].previous)
			increment_used(d);
	return r;
}

/* All areas; between protecting and copying it is looked who may write unseen. */
static int look_at_all(struct dump *d, struct tracked *tr, struct task *t, struct extents *unknown)
{
	const bool track = d->increment->track;
	int r = 0;

	if (track)
		increment_touch(d);
	for (size_t i = 0; !r && i < t->maps.count; i++)
		r = look_at_area(d, tr, t, &t->maps.data[i], unknown);
	if (!r && track && pinned_by(t->proc, &t->maps))
		tr->broken = true;
	return r ? task_errno(d, t, r, "cannot tell what it has written") : 0;
}

int increment_cut(struct dump *d, struct task *t, struct page_runs *runs)
{
	struct tracked *tr = find(d, t);
	struct extents unknown = {};

	if (!tr || (!d->increment->track && !tr->since_parent))
		return 0;
	int r = look_at_all(d, tr, t, &unknown);
	if (!r && tr->since_parent && (r = cut_runs(d, tr, &unknown, runs)))
		error_set(d->e, r, "out of memory");
	VEC_FREE(&unknown);
	if (!r && d->increment->track)
		pins_wait(d->pins, tr->uffd, watch_now() + PINS_SETTLE_NS);
	return r;
}

/* An area that was looked at while nothing could change. */
static int arm_looked(struct dump *d, const struct tracked *tr, struct task *t, const struct proc_vma *v, const struct track_runs *changes, size_t *next)
{
	const bool file = track_is_file(v);
	struct track_runs written = {};
	size_t first;
	int r = 0;

	while (*next < changes->count && changes->data[*next].end <= v->start)
		++*next;
	for (first = *next; *next < changes->count && changes->data[*next].start < v->end;)
		++*next;
	if (*next - first > SINGLY)
		r = track_collect(t->pagemap_fd, changes->data[first].start, changes->data[*next - 1].end, file, &written);
	for (size_t i = first; !r && *next - first <= SINGLY && i < *next; i++)
		r = track_collect(t->pagemap_fd, changes->data[i].start, changes->data[i].end, file, &written);
	if (!r)
		r = see_who_holds(d, tr, t, &written);
	VEC_FREE(&written);
	return r;
}

int increment_arm(struct dump *d, struct task *t, const struct extents *looked, const struct track_runs *changes)
{
	struct tracked *tr = d->increment->track ? find(d, t) : NULL;
	struct extents unknown = {};
	size_t next = 0;
	int r = 0;

	if (!tr)
		return 0;
	increment_touch(d);
	for (size_t i = 0; !r && i < t->maps.count; i++) {
		const struct proc_vma *v = &t->maps.data[i];
		if (lies_in(looked, v))
			r = arm_looked(d, tr, t, v, changes, &next);
		else
			r = look_at_area(d, tr, t, v, &unknown);
	}
	if (!r && pinned_by(t->proc, &t->maps))
		tr->broken = true;
	if (!r)
		pins_wait(d->pins, tr->uffd, watch_now() + PINS_SETTLE_NS);
	VEC_FREE(&unknown);
	return r ? task_errno(d, t, r, "cannot tell what it has written") : 0;
}

/* ---- the end ---- */

static void unwatch(const struct tracked *tr)
{
	struct proc_maps maps = {};

	if (proc_read_maps(tr->pid, &maps) == 0)
		track_unwatch_all(tr->uffd, &maps);
	proc_maps_finish(&maps);
}

/* One holder has all that are to be watched. */
static bool has_all(const struct increment *n)
{
	const struct holding *h = n->holdings.count == 1 ? n->holdings.data[0] : NULL;
	bool all = h != NULL;

	for (size_t i = 0; all && i < n->tasks.count; i++) {
		bool has = false;
		for (size_t k = 0; k < h->processes.count; k++)
			has |= h->processes.data[k].pid == n->tasks.data[i]->pid && h->processes.data[k].start_time == n->tasks.data[i]->start_time;
		all = has && n->tasks.data[i]->from_holder && !n->tasks.data[i]->broken;
	}
	return all && n->tasks.count;
}

/* Those that go on being watched. */
static bool keep(struct increment *n)
{
	if (has_all(n)) {
		int s = holder_renew(n->holdings.data[0], n->id);
		n->holdings.count = 0;
		if (s)
			log_warning("The process that watches memory does not answer: the next dump is a whole one");
		return s == 0;
	}
	struct holding h = { .connection = -1 };
	struct error why = {};

	memcpy(h.id, n->id, sizeof(h.id));
	for (size_t i = 0; i < n->tasks.count; i++) {
		const struct tracked *tr = n->tasks.data[i];
		struct held_process *p = tr->broken ? NULL : VEC_PUSH(&h.processes);
		if (p)
			*p = (struct held_process){ tr->pid, tr->start_time, tr->uffd };
		else
			unwatch(tr);
	}
	int r = holder_start(&h, &why);
	if (r)
		log_warning("%s: the next dump is a whole one", why.text);
	VEC_FREE(&h.processes);
	return r == 0;
}

void increment_end(struct dump *d, bool success)
{
	struct increment *n = d->increment;
	const bool runs_on = !success || d->request->leave_running || d->request->leave_stopped;
	bool kept = false;

	if (!n)
		return;
	if (success && n->parent && !n->any)
		log_warning("Process %d was not watched since %s was written: all of its memory is saved", (int)d->request->pid, d->request->parent);
	if (success && n->track && runs_on)
		kept = keep(n);
	const bool untouched = !kept && !n->touched && runs_on;
	for (size_t i = 0; i < n->tasks.count; i++) {
		if (!kept && !untouched && runs_on)
			unwatch(n->tasks.data[i]);
		tracked_free(n->tasks.data[i]);
	}
	for (size_t i = 0; i < n->holdings.count; i++)
		holder_leave(n->holdings.data[i], untouched ? HOLDER_UNTOUCHED : success ? HOLDER_TAKEN : HOLDER_LOST);
	VEC_FREE(&n->tasks);
	VEC_FREE(&n->holdings);
	pagemap_finish(&n->root);
	image_dir_free(n->parent);
	free(n);
	d->increment = NULL;
}
