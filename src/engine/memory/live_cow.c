/*
 * For live.h: programs that write faster than they are copied. Rounds lead nowhere there, and what is left would make the pause long. So areas of which
 * the last round still had much are not watched any more; in the pause all of their pages are protected (20 ms for a GiB, where a copy takes a second), and
 * the first write to one waits until it was copied, while they are copied one after the other.
 *
 * That needs a second userfaultfd, one that asks (and for the kernel's own writes, too: so the process needs CAP_SYS_PTRACE, and without it all is copied in
 * the pause). A thread answers; it copies what is asked for, and a little of what follows. When the coordinator dies, or fails, its descriptor is closed,
 * and the kernel takes all protection away and wakes who waits.
 *
 * A page that was unmapped, emptied or moved before it was copied is lost. That is seen: it has no protection any more, which only a copy takes away. Then
 * the pause is repeated, and all is copied in it.
 */
#include "base/log.h"
#include "base/workers.h"
#include "engine/memory/live_task.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#define CHUNK (256UL << 10)
#define ANSWER (64UL << 10) /* is copied at once for a write that waits */
#define AREA_MIN (1UL << 20) /* smaller ones are soon copied */
#define SHARE 8		     /* of an area: to protect it takes a fortieth of the time of a copy, but then all of it is copied once more */
#define PROTECT_SIZE (64UL << 20)
#define GAP (64UL << 10)
#define EVENTS 16

enum { TO_DO, BUSY, DONE };

/* What is copied at once. */
struct cow_chunk {
	uint64_t start, slot;
	uint32_t size;
	bool several;
	unsigned char state; /* atomic */
};

struct cow_area {
	uint64_t start, end;
};

struct live_cow {
	struct dump *d;
	struct live_task *lt;
	int uffd, stop;
	pthread_t thread;
	bool runs;
	int lost; /* atomic: what could not be copied as it was, a negative errno */
	uint64_t answered;
	VEC(struct cow_chunk) chunks;
	VEC(struct cow_area) areas;
};

/* ---- copying ---- */

static int unprotect(const struct live_cow *c, const struct cow_chunk *x)
{
	struct uffdio_writeprotect wp = { .range = { x->start, x->size } };
	int r;

	do
		r = ioctl(c->uffd, UFFDIO_WRITEPROTECT, &wp);
	while (r < 0 && errno == EAGAIN);
	return r < 0 ? -errno : 0;
}

/* Nobody has written to it, or taken it away. */
static bool is_as_it_was(const struct live_cow *c, const struct cow_chunk *x)
{
	uint64_t size = 0;
	struct track_runs runs = {};

	if (!track_protected(c->lt->pagemap_fd, x->start, x->start + x->size, &runs))
		for (size_t i = 0; i < runs.count; i++)
			size += runs.data[i].end - runs.data[i].start;
	VEC_FREE(&runs);
	return size == x->size;
}

static void lose(struct live_cow *c, int r)
{
	int none = 0;

	__atomic_compare_exchange_n(&c->lost, &none, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* By whoever comes first. Gives the bytes that were copied. */
static uint64_t copy_chunk(struct live_cow *c, struct cow_chunk *x, unsigned char *buffer)
{
	unsigned char state = TO_DO;
	int r = 0;

	if (!__atomic_compare_exchange_n(&x->state, &state, BUSY, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		return 0;
	if (!__atomic_load_n(&c->lost, __ATOMIC_SEQ_CST) && !c->d->live->result) {
		r = live_late_copy(c->d, c->lt, x->start, x->size, x->several, x->slot, buffer);
		if (!r && !is_as_it_was(c, x))
			r = -ESTALE;
	}
	/* In any case: nobody waits for what failed. */
	int s = unprotect(c, x);
	if (r || s)
		lose(c, r ? r : s);
	__atomic_store_n(&x->state, DONE, __ATOMIC_SEQ_CST);
	return x->size;
}

static size_t find_chunk(const struct live_cow *c, uint64_t address)
{
	size_t low = 0, high = c->chunks.count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (c->chunks.data[middle].start + c->chunks.data[middle].size <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void answer(struct live_cow *c, const struct uffd_msg *msg, unsigned char *buffer)
{
	uint64_t at = msg->arg.pagefault.address & PAGE_MASK, done = 0;
	const struct cow_chunk page = { .start = at, .size = PAGE_SIZE };

	if (msg->event != UFFD_EVENT_PAGEFAULT)
		return;
	size_t first = find_chunk(c, at);
	for (size_t i = first; done < ANSWER && i < c->chunks.count && c->chunks.data[i].start < at + CHUNK; i++)
		done += copy_chunk(c, &c->chunks.data[i], buffer);
	c->answered++;
	/* Another thread copies it, and wakes who waits. What is none of ours was protected since it lies between. */
	if (first < c->chunks.count && c->chunks.data[first].start <= at && __atomic_load_n(&c->chunks.data[first].state, __ATOMIC_SEQ_CST) != DONE)
		return;
	unprotect(c, &page);
}

static void *answer_all(void *argument)
{
	struct live_cow *c = argument;
	struct pollfd fds[] = { { .fd = c->uffd, .events = POLLIN }, { .fd = c->stop, .events = POLLIN } };
	struct pacer pacer;
	_cleanup_free_ unsigned char *buffer = malloc(CHUNK);
	struct uffd_msg events[EVENTS];

	pacer_begin(&pacer);
	pacer_set(&pacer, 0, PACE_URGENT); /* the program waits for it */
	if (!buffer)
		lose(c, -ENOMEM);
	while (buffer) {
		if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			break;
		ssize_t n = fds[0].revents ? read(c->uffd, events, sizeof(events)) : 0;
		for (size_t i = 0; n > 0 && i < (size_t)n / sizeof(*events); i++)
			answer(c, &events[i], buffer);
		if (fds[1].revents || (fds[0].revents & (POLLERR | POLLHUP)))
			break;
	}
	return NULL;
}

/* ---- before the pause ---- */

/* From the descriptor that does not ask to the one that does. One that has changed meanwhile is left to be copied in the pause: it may have marks of the
 * first one still, and who writes to such a page would be asked when nobody answers yet. */
static int take_area(struct live_cow *c, const struct proc_vma *v)
{
	struct cow_area *area;

	if (!track_is_watched(c->lt->pagemap_fd, v->start, v->end) || track_unwatch(c->lt->uffd, v->start, v->end) || track_watch(c->uffd, v->start, v->end) != 1)
		return 0;
	area = VEC_PUSH(&c->areas);
	if (area)
		*area = (struct cow_area){ v->start, v->end };
	return area ? 0 : error_set(c->d->e, -ENOMEM, "out of memory");
}

/* Those of which the last round had much. */
static int take_areas(struct live_cow *c)
{
	const struct extents *last = &c->lt->last;
	int r = 0;

	for (size_t i = 0; !r && i < c->lt->maps.count; i++) {
		const struct proc_vma *v = &c->lt->maps.data[i];
		uint64_t size = 0;
		for (size_t k = extents_find(last, v->start); k < last->count && last->data[k].start < v->end; k++)
			size += MIN(last->data[k].end, v->end) - MAX(last->data[k].start, v->start);
		if (track_can_watch(v) && !v->inode && size >= AREA_MIN && size >= (v->end - v->start) / SHARE)
			r = take_area(c, v);
	}
	return r;
}

bool live_cow_has(const struct live_cow *c, const struct proc_vma *v)
{
	for (size_t i = 0; c && i < c->areas.count; i++)
		if (c->areas.data[i].start <= v->start && c->areas.data[i].end >= v->end)
			return track_watch(c->uffd, v->start, v->end) == 1;
	return false;
}

/* The tree is stopped for another moment, for the descriptors. A process that has none is copied in the pause. */
int live_cow_prepare(struct dump *d)
{
	workers_pace(d->workers, PACE_URGENT);
	int r = tree_freeze(d);

	for (size_t i = 0; !r && i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i];
		if (t->state == TASK_DEAD)
			continue;
		r = task_look_briefly(d, t);
		if (!r)
			r = live_note_calls(d, t);
		struct live_task *lt = live_usable(d, t);
		if (r || !lt || lt->cow)
			continue;
		int fd = track_open_asking(d, t);
		if (fd < 0) {
			log_info("Process %d (%s) can't be made to wait for a copy: %s", lt->pid, lt->comm, d->e->text);
			*d->e = (struct error){};
			continue;
		}
		struct live_cow *c = lt->cow = calloc(1, sizeof(*c));
		if (!c) {
			close(fd);
			r = error_set(d->e, -ENOMEM, "out of memory");
			break;
		}
		*c = (struct live_cow){ .d = d, .lt = lt, .uffd = fd, .stop = eventfd(0, EFD_CLOEXEC) };
		if (c->stop < 0)
			r = error_errno(d->e, -errno, "cannot make an eventfd");
	}
	tree_thaw(d);
	workers_pace(d->workers, PACE_USUAL);
	for (size_t i = 0; !r && i < d->live->tasks.count; i++)
		if (d->live->tasks.data[i]->cow && !d->live->tasks.data[i]->gone)
			r = take_areas(d->live->tasks.data[i]->cow);
	for (size_t i = 0; i < d->live->tasks.count; i++)
		VEC_FREE(&d->live->tasks.data[i]->last);
	return r;
}

/* ---- in the pause ---- */

static int add_chunks(struct live_cow *c, struct extent x)
{
	for (uint64_t step; x.start < x.end; x.start += step, x.slot += step) {
		struct cow_chunk *chunk = VEC_PUSH(&c->chunks);
		if (!chunk)
			return -ENOMEM;
		step = MIN(CHUNK, x.end - x.start);
		*chunk = (struct cow_chunk){ .start = x.start, .slot = x.slot, .size = (uint32_t)step, .several = x.several };
	}
	return 0;
}

struct protect_job {
	struct live_cow *c;
	uint64_t start, end;
};

static void run_protect(void *argument)
{
	struct protect_job *job = argument;
	struct uffdio_writeprotect wp = { .range = { job->start, job->end - job->start }, .mode = UFFDIO_WRITEPROTECT_MODE_WP };

	if (ioctl(job->c->uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
		lose(job->c, -errno);
	free(job);
}

/* By the workers. */
static int protect(struct live_cow *c, uint64_t start, uint64_t end)
{
	for (uint64_t step; start < end; start += step) {
		struct protect_job *job = malloc(sizeof(*job));
		if (!job)
			return -ENOMEM;
		step = MIN(PROTECT_SIZE, end - start);
		*job = (struct protect_job){ c, start, start + step };
		workers_submit_large(c->d->workers, run_protect, job);
	}
	return 0;
}

/* The late pieces of an area. What is between them is not there, or was not written. */
static int arm_area(struct live_cow *c, const struct extents *part)
{
	int r = 0;

	for (size_t i = 0; !r && i < part->count; i++)
		r = add_chunks(c, part->data[i]);
	for (size_t i = 0, next; !r && i < part->count; i = next) {
		for (next = i + 1; next < part->count && part->data[next].start - part->data[next - 1].end <= GAP; next++)
			;
		r = protect(c, part->data[i].start, part->data[next - 1].end);
	}
	return r;
}

/* Those of late->data[*i] and what follows that lie in the area; one may go on in the next area, where other things hold. */
static int cut_out(struct extents *late, size_t *i, const struct proc_vma *v, struct extents *part)
{
	int r = 0;

	part->count = 0;
	while (!r && *i < late->count && late->data[*i].start < v->end) {
		struct extent *x = &late->data[*i], head = *x;
		head.end = MIN(x->end, v->end);
		r = extents_add(part, head);
		x->slot += head.end - x->start;
		x->start = head.end;
		*i += x->start == x->end;
	}
	return r;
}

/* What is left to be copied in the pause stays in lt->late. */
static int arm(struct live_cow *c, const struct proc_maps *maps)
{
	struct extents *late = &c->lt->late, now = {}, part = {};
	size_t i = 0;
	int r = 0;

	for (size_t m = 0; !r && m < maps->count && i < late->count; m++) {
		const struct proc_vma *v = &maps->data[m];
		r = cut_out(late, &i, v, &part);
		if (!r && part.count && live_cow_has(c, v))
			r = arm_area(c, &part);
		else
			for (size_t n = 0; !r && n < part.count; n++)
				r = extents_add(&now, part.data[n]);
	}
	VEC_FREE(&part);
	VEC_FREE(late);
	*late = now;
	return r;
}

/* Fixed buffers of a ring, wherever that is (a child of before may have it), and the like: who has them writes to pages that are protected as to any. Who holds a
 * page for a moment only does not matter here: what that writes may as well be of the moment of the pause. */
static bool is_held_for_long(const struct live_task *lt)
{
	struct proc_status status;

	if (proc_read_status(lt->proc, &status) || !status.pinned_kib)
		return false;
	log_info("Process %d (%s): others hold %llu KiB of it, so it is copied in the pause", lt->pid, lt->comm, (unsigned long long)status.pinned_kib);
	return true;
}

int live_cow_arm(struct dump *d, struct live_task *lt)
{
	struct live_cow *c = lt->cow;
	sigset_t all, before;

	if (!c || !c->areas.count || is_held_for_long(lt))
		return 0;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = -pthread_create(&c->thread, NULL, answer_all, c);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	c->runs = !r;
	/* Before anything is protected there is someone who answers. */
	if (!r)
		r = arm(c, &lt->t->maps);
	workers_wait(d->workers);
	r = r ? r : c->lost;
	if (!r)
		log_info("Process %d (%s): %zu parts are copied before they are written to", lt->pid, lt->comm, c->chunks.count);
	return r ? error_errno(d->e, r, "process %d (%s): cannot protect its memory", lt->pid, lt->comm) : 0;
}

/* ---- behind it ---- */

struct cow_job {
	struct live_cow *c;
	size_t first, last;
};

static void run_job(void *argument)
{
	struct cow_job *job = argument;
	_cleanup_free_ unsigned char *buffer = malloc(CHUNK);

	if (!buffer)
		lose(job->c, -ENOMEM);
	for (size_t i = job->first; buffer && i < job->last; i++)
		copy_chunk(job->c, &job->c->chunks.data[i], buffer);
	free(job);
}

#define JOB (4UL << 20)

static void submit(struct dump *d, struct live_cow *c)
{
	for (size_t first = 0, last; first < c->chunks.count; first = last) {
		struct cow_job *job = malloc(sizeof(*job));
		uint64_t size = 0;
		for (last = first; last < c->chunks.count && size < JOB; last++)
			size += c->chunks.data[last].size;
		if (!job) {
			lose(c, -ENOMEM);
			return;
		}
		*job = (struct cow_job){ c, first, last };
		workers_submit_large(d->workers, run_job, job);
	}
}

/* Nobody is asked, and nobody waits, any more. */
static void disarm(struct live_cow *c)
{
	for (size_t i = 0; i < c->areas.count; i++)
		track_unwatch(c->uffd, c->areas.data[i].start, c->areas.data[i].end);
	c->areas.count = 0;
	if (c->runs) {
		eventfd_write(c->stop, 1);
		pthread_join(c->thread, NULL);
	}
	c->runs = false;
}

void live_cow_free(struct live_cow *c)
{
	if (!c)
		return;
	disarm(c);
	close(c->uffd);
	if (c->stop >= 0)
		close(c->stop);
	VEC_FREE(&c->chunks);
	VEC_FREE(&c->areas);
	free(c);
}

static int result_of(struct dump *d, const struct live_cow *c)
{
	struct proc_stat stat;

	if (!c->lost)
		return 0;
	if (c->lost != -ESTALE && c->lost != -ENOENT && c->lost != -EFAULT && c->lost != -ESRCH)
		return error_errno(d->e, c->lost, "cannot write the pages of process %d", c->lt->pid);
	if (proc_read_stat(c->lt->proc, &stat) || stat.start_time != c->lt->start_time || stat.state == 'Z')
		return error_set(d->e, -ESRCH, "process %d (%s) ended before its memory was copied", c->lt->pid, c->lt->comm);
	return 1;
}

int live_cow_finish(struct dump *d)
{
	int r = 0;

	for (size_t i = 0; i < d->live->tasks.count; i++)
		if (d->live->tasks.data[i]->cow)
			submit(d, d->live->tasks.data[i]->cow);
	workers_wait(d->workers);
	for (size_t i = 0; i < d->live->tasks.count; i++) {
		struct live_cow *c = d->live->tasks.data[i]->cow;
		if (!c)
			continue;
		disarm(c);
		if (c->chunks.count)
			log_info("Process %d (%s): it waited for %llu copies", c->lt->pid, c->lt->comm, (unsigned long long)c->answered);
		int s = result_of(d, c);
		r = r < 0 || !s ? r : s;
		live_cow_free(c);
		d->live->tasks.data[i]->cow = NULL;
	}
	return r;
}
