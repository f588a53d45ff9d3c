/*
 * pagemap-PID.img and pages-N.img: the private pages of an address space, found by scan.h, copied with process_vm_readv(2), by the
 * workers: each address space is a job, each block of its file another, while the dump goes on with the next process.
 *
 * Pages that several processes have by fork(2) are read through /proc/PID/mem: process_vm_readv pins pages, and the kernel gives
 * a process its own copy of a page before it is pinned, for good.
 *
 * A page that parent and child still share since fork(2) is stored with the parent only; the child's pagemap says so, and restore
 * lets the child be born from the parent that has it.
 */
#include "base/workers.h"
#include "engine/memory/aio.h"
#include "engine/memory/increment.h"
#include "engine/memory/live.h"
#include "engine/memory/pages.h"
#include "engine/memory/scan.h"
#include "engine/memory/vma.h"
#include "engine/task/task.h"
#include "engine/watch.h"
#include "pagemap.pb-c.h"

#include <sys/uio.h>

#define COPY_SIZE (256UL << 10) /* stays in the cache of a processor */
#define SEGMENTS 64
#define AREAS_AT_ONCE 256
#define NEAR (64 * PAGE_SIZE) /* no more than that between two of them */
#define MANY_THREADS 64 /* then capturing them is worth a worker for the pages */

/* One address space that is being saved by the workers. */
struct page_job {
	struct dump d; /* a copy, with an error of its own: jobs run side by side */
	struct error why;
	struct task *t;
	struct image_file *map, *data;
	struct page_runs runs;
	uint64_t *offsets; /* in the file, where a run begins */
	uint64_t size;
	size_t blocks_left;
	int result;
	struct page_job *next;
};

static void note_failure(struct page_job *p, int r)
{
	int none = 0;

	if (r)
		__atomic_compare_exchange_n(&p->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

static int read_segment(struct dump *d, struct task *t, unsigned char *to, const struct segment *s)
{
	for (size_t done = 0; done < s->size;) {
		struct iovec local = { to + done, s->size - done }, remote = { (void *)(s->from + done), s->size - done };
		ssize_t n = s->several ? 0 : process_vm_readv(t->proc, &local, 1, &remote, 1, 0);
		if (n <= 0) /* PROT_NONE too: only /proc/PID/mem reads that */
			n = pread(t->mem_fd, to + done, s->size - done, (off_t)(s->from + done));
		if (n <= 0)
			return task_errno(d, t, n ? -errno : -EIO, "cannot read its memory at %lx", (unsigned long)(s->from + done));
		done += (size_t)n;
	}
	return 0;
}

/* As many as go at once, then those that do not one by one. */
int pages_read(struct dump *d, struct task *t, unsigned char *to, const struct segment *segments, size_t count)
{
	struct iovec remote[SEGMENTS];
	int r = 0;

	for (size_t i = 0; !r && i < count;) {
		size_t n = 0, total = 0;
		for (; i + n < count && !segments[i + n].several; n++) {
			remote[n] = (struct iovec){ (void *)segments[i + n].from, segments[i + n].size };
			total += segments[i + n].size;
		}
		struct iovec local = { to, total };
		if (n < 2 || process_vm_readv(t->proc, &local, 1, remote, n, 0) != (ssize_t)total) {
			n = 1;
			total = segments[i].size;
			r = read_segment(d, t, to, &segments[i]);
		}
		to += total;
		i += n;
	}
	return r;
}

/* With the parent process, or in the parent checkpoint. */
static bool is_elsewhere(const struct page_run *run)
{
	return run->shared || run->previous;
}

/* The run that a place in the file lies in. */
static size_t find_run(const struct page_job *p, uint64_t offset)
{
	size_t low = 0, high = p->runs.count;

	while (low + 1 < high) {
		size_t middle = (low + high) / 2;
		if (p->offsets[middle] <= offset)
			low = middle;
		else
			high = middle;
	}
	/* Runs that are elsewhere take no room: the last of those that begin there does. */
	return low;
}

static int copy_block(struct page_job *p, struct image_block *b, unsigned char *buffer)
{
	uint64_t at = b->index * IMAGE_BLOCK, end = MIN(at + IMAGE_BLOCK, p->size);
	size_t i = find_run(p, at);
	uint64_t within = at - p->offsets[i];
	int r = 0;

	while (!r && at < end) {
		struct segment segments[SEGMENTS];
		size_t count = 0, used = 0;
		while (count < SEGMENTS && used < COPY_SIZE && at + used < end) {
			const struct page_run *run = &p->runs.data[i];
			uint64_t left = is_elsewhere(run) ? 0 : run->end - run->start - within;
			if (!left) {
				i++;
				within = 0;
				continue;
			}
			size_t size = (size_t)MIN(MIN(COPY_SIZE - used, left), end - at - used);
			segments[count++] = (struct segment){ run->start + within, size, run->several };
			used += size;
			within += size;
		}
		r = pages_read(&p->d, p->t, buffer, segments, count);
		if (!r && (r = image_block_write(b, buffer, used)))
			r = error_errno(p->d.e, r, "cannot write the pages of process %d", p->t->pid);
		at += used;
	}
	return r;
}

/* The time from the first page to the last. */
static void note_time(struct dump_counts *c)
{
	uint64_t now = watch_now(), none = 0;

	__atomic_compare_exchange_n(&c->memory_from, &none, now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	__atomic_store_n(&c->memory_to, now, __ATOMIC_RELAXED);
}

static void finish_job(struct page_job *p)
{
	int r = image_close(p->data);

	if (r && !p->result) {
		error_errno(&p->why, r, "cannot write the pages of process %d", p->t->pid);
		note_failure(p, r);
	}
	if (!p->result)
		note_failure(p, aio_recheck(&p->d, p->t));
}

static void note_block(struct page_job *p, int r, const struct error *why)
{
	int none = 0;

	if (r && __atomic_compare_exchange_n(&p->result, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		p->why = *why;
}

static int fill_block(void *owner, struct image_block *b)
{
	struct page_job *p = owner;
	struct error why = {};
	struct page_job own = *p; /* errors of blocks must not mix */

	if (p->result)
		return 0;
	note_time(p->d.counts);
	own.d.e = &why;
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	int r = buffer ? copy_block(&own, b, buffer) : error_set(&why, -ENOMEM, "out of memory");
	note_block(p, r, &why);
	return r;
}

static void block_filled(void *owner, int r)
{
	struct page_job *p = owner;
	struct error why = {};

	if (r) {
		error_errno(&why, r, "cannot write the pages of process %d", p->t->pid);
		note_block(p, r, &why);
	}
	note_time(p->d.counts);
	if (__atomic_sub_fetch(&p->blocks_left, 1, __ATOMIC_SEQ_CST) == 0)
		finish_job(p);
}

static const struct image_filler page_filler = { fill_block, block_filled };

int pages_write_entries(struct dump *d, struct task *t, struct image_file *map, uint64_t start, uint64_t last, enum pages_place place)
{
	int r = pagemap_write(map, start, last, place);

	return r ? error_errno(d->e, r, "cannot write the pagemap of process %d", t->pid) : 0;
}

enum way { NOT_AT_ALL, WHOLE, BY_PAGE, BY_PAGE_OF_FILE, BY_PAGE_AND_ZEROS };

/* How what is worth saving in an area is found. */
static enum way way_of(const struct page_job *p, const struct proc_vma *vma)
{
	const uint32_t status = vma_status(vma);

	/* What the kernel writes there need not be in the page table; the vdso is the kernel's own, and CRIU wants it. */
	if (status & VMA_AIORING || (status & VMA_VDSO && p->d.request->portable))
		return WHOLE;
	/* It may be lost at any time; and keys of random numbers, which are kept there, must not be had twice. */
	if (vma->vmflags & PROC_VMF_DP)
		return NOT_AT_ALL;
	if (!(status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || status & (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL))
		return NOT_AT_ALL;
	if (vma->vmflags & (PROC_VMF_UM | PROC_VMF_UW))
		return BY_PAGE_AND_ZEROS;
	return status & VMA_FILE_PRIVATE ? BY_PAGE_OF_FILE : BY_PAGE;
}

static bool may_be_parents(const struct page_job *p, const struct proc_vma *vma)
{
	return p->t->may_share && p->t->parent && maps_find_same(&p->t->parent->maps, vma);
}

/* Areas that are scanned in the same way and are near to each other take one call. Gives how many, from number `first` on. */
static int scan_vmas(struct page_job *p, size_t first)
{
	const struct proc_maps *maps = &p->t->maps;
	const struct proc_vma *vma = &maps->data[first], *last = vma;
	const enum way way = way_of(p, vma);
	const bool same = way >= BY_PAGE && may_be_parents(p, vma);
	uint64_t cuts[AREAS_AT_ONCE];
	size_t count = 1;

	if (way == WHOLE) {
		struct page_run *run = VEC_PUSH(&p->runs);
		if (!run)
			return error_set(p->d.e, -ENOMEM, "out of memory");
		*run = (struct page_run){ vma->start, vma->end, false, true, false };
	}
	if (way < BY_PAGE)
		return 1;
	for (; first + count < maps->count && count < AREAS_AT_ONCE; last = &maps->data[first + count++]) {
		const struct proc_vma *next = &maps->data[first + count];
		if (next->start - last->end > NEAR || way_of(p, next) != way || may_be_parents(p, next) != same)
			break;
		cuts[count - 1] = next->start;
	}
	const enum scan_what what = way == BY_PAGE_OF_FILE ? SCAN_WRITTEN : way == BY_PAGE_AND_ZEROS ? SCAN_ALL : SCAN_DATA;
	int r = scan_areas(p->t->pagemap_fd, vma->start, last->end, cuts, count - 1, what, same, &p->runs);
	return r ? task_errno(&p->d, p->t, r, "cannot read its pagemap") : (int)count;
}

/* What there is, where it goes in the file, and pagemap-PID.img. */
static int lay_out(struct page_job *p)
{
	struct task *t = p->t;
	int r = 0;

	for (size_t i = 0; r >= 0 && i < t->maps.count; i += (size_t)MAX(r, 0))
		r = scan_vmas(p, i);
	r = MIN(r, 0);
	if (!r && p->d.tasks.count > 1) {
		r = scan_split(t->pagemap_fd, t->may_share && t->parent ? t->parent->pagemap_fd : -1, &p->runs);
		r = r ? task_errno(&p->d, t, r, "cannot read its pagemap") : 0;
	}
	if (!r)
		r = increment_cut(&p->d, t, &p->runs);
	p->offsets = r ? NULL : calloc(p->runs.count + 1, sizeof(*p->offsets));
	if (!r && !p->offsets)
		r = error_set(p->d.e, -ENOMEM, "out of memory");
	uint64_t scanned = 0, previous = 0;
	for (size_t i = 0; !r && i < p->runs.count; i++) {
		const struct page_run *run = &p->runs.data[i];
		p->offsets[i] = p->size;
		p->size += is_elsewhere(run) ? 0 : run->end - run->start;
		scanned += run->end - run->start;
		previous += run->previous ? run->end - run->start : 0;
		r = pages_write_entries(&p->d, t, p->map, run->start, run->end,
					run->shared ? PAGES_FORKED : run->previous ? PAGES_IN_PARENT : PAGES_HERE);
	}
	int s = image_close(p->map);
	if (!r && s)
		r = error_errno(p->d.e, s, "cannot write the pagemap of process %d", t->pid);
	p->blocks_left = image_blocks_count(p->size);
	__atomic_add_fetch(&p->d.counts->pages_scanned, scanned / PAGE_SIZE, __ATOMIC_RELAXED);
	__atomic_add_fetch(&p->d.counts->pages_previous, previous / PAGE_SIZE, __ATOMIC_RELAXED);
	__atomic_add_fetch(&p->d.counts->pages_written, p->size / PAGE_SIZE, __ATOMIC_RELAXED);
	return r;
}

static void run_job(void *argument)
{
	struct page_job *p = argument;
	int r = lay_out(p);

	if (!r && (r = image_blocks_fill(p->data, p->size, &page_filler, p)))
		error_errno(p->d.e, r, "cannot write the pages of process %d", p->t->pid);
	if (r) {
		note_failure(p, r);
		image_close(p->data);
	}
}

int pages_create(struct dump *d, struct task *t, struct image_file **ret_map, struct image_file **ret_pages)
{
	PagemapHead head = PAGEMAP_HEAD__INIT;
	char name[64], pages_name[32];

	head.pages_id = ++d->next_pages_id;
	snprintf(name, sizeof(name), "pagemap-%d.img", t->pid);
	snprintf(pages_name, sizeof(pages_name), "pages-%u.img", head.pages_id);
	int r = image_create(d->dir, name, IMAGE_MAGIC_PAGEMAP, ret_map);
	if (!r && (r = image_create_raw(d->dir, pages_name, ret_pages)))
		image_close(*ret_map);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	r = image_write_message(*ret_map, &head.base);
	if (r) {
		image_close(*ret_map);
		image_close(*ret_pages);
		return error_errno(d->e, r, "cannot write %s", name);
	}
	return 0;
}

int pages_capture(struct dump *d, struct task *t)
{
	if (live_has(d, t))
		return live_capture(d, t);
	struct page_job *p = calloc(1, sizeof(*p));
	int r = p ? pages_create(d, t, &p->map, &p->data) : error_set(d->e, -ENOMEM, "out of memory");

	if (r) {
		free(p);
		return r;
	}
	p->t = t;
	p->d = *d;
	p->d.e = &p->why;
	p->next = d->page_jobs;
	d->page_jobs = p;
	if (t->threads.count >= MANY_THREADS)
		workers_submit_large(d->workers, run_job, p);
	else
		workers_submit(d->workers, run_job, p);
	return 0;
}

int pages_finish(struct dump *d)
{
	int r = 0;

	if (d->workers)
		workers_wait(d->workers);
	while (d->page_jobs) {
		struct page_job *p = d->page_jobs;
		d->page_jobs = p->next;
		if (p->result && !r) {
			*d->e = p->why;
			r = p->result;
		}
		VEC_FREE(&p->runs);
		free(p->offsets);
		free(p);
	}
	return r;
}
