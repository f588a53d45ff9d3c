/* See lazy.h. */
#include "engine/memory/lazy.h"

#include "base/log.h"
#include "engine/foreign.h"
#include "engine/kinds/uffd.h"
#include "engine/kinds/uring.h"
#include "engine/memory/pager.h"
#include "engine/memory/parents.h"
#include "engine/memory/restore.h"
#include "engine/memory/vma.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define WORTH_PAGES 1024 /* fewer are read at once in less time than it takes to arrange for them */
#define FEATURES (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)

static bool kernel_can(void)
{
	_cleanup_close_ int fd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };

	return fd >= 0 && ioctl(fd, UFFDIO_API, &api) == 0;
}

static bool shares_pages(const struct restore *s, const struct rtask *t)
{
	for (size_t i = 0; i < s->tasks.count; i++)
		if ((s->tasks.data[i] == t || s->tasks.data[i]->parent == t) && memory_is_shared(s->tasks.data[i]))
			return true;
	return false;
}

/* Others have its memory, and theirs is built from it; or a ring is to have it, which the kernel holds from then on; or it watches its memory itself. */
static bool is_needed_early(struct restore *s, struct rtask *t)
{
	bool needed = t->vm_owner || uring_has_buffers(s, t) || uffd_watches(s, t);

	for (size_t i = 0; i < s->tasks.count; i++)
		needed |= s->tasks.data[i]->vm_owner == t;
	return needed;
}

static bool may_wait(const VmaEntry *v)
{
	return v->status & VMA_ANON_PRIVATE && !(v->status & (VMA_AIORING | VMA_VDSO | VMA_VVAR | VMA_VSYSCALL | VMA_STACK)) &&
	       v->flags & MAP_PRIVATE && !(v->flags & (uint32_t)(MAP_GROWSDOWN | MAP_LOCKED | VMA_HUGE_FLAGS));
}

bool lazy_covers(const struct rtask *t, const VmaEntry *v)
{
	return t->lazy && may_wait(v);
}

uint64_t lazy_stretch(const struct rtask *t, uint64_t address, uint64_t end, size_t *vma, bool *later)
{
	*later = false;
	if (!t->lazy)
		return end;
	while (*vma < t->mm->n_vmas && t->mm->vmas[*vma]->end <= address)
		++*vma;
	if (*vma == t->mm->n_vmas)
		return end;
	*later = lazy_covers(t, t->mm->vmas[*vma]);
	return MIN(end, t->mm->vmas[*vma]->end);
}

static uint64_t stored_pages(const PagemapEntry *p)
{
	return pages_place(p) == PAGES_HERE ? p->nr_pages : 0;
}

/* Its own, and those that parent checkpoints have. */
static uint64_t pages_in(const struct rtask *t)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < t->pages.count; i++)
		sum += pages_place(t->pages.data[i]) == PAGES_FORKED ? 0 : t->pages.data[i]->nr_pages;
	return sum;
}

static bool is_sequential(const struct restore *s)
{
	bool sequential = image_is_sequential(s->dir);

	for (size_t i = 0; i < s->parents.count; i++)
		sequential |= image_is_sequential(s->parents.data[i]->dir);
	return sequential;
}

static void verify_rest(struct restore *s)
{
	image_dir_verify_start(s->verification);
	parents_verify(s);
}

static bool can_wait(const struct restore *s)
{
	if (is_sequential(s))
		log_warning("The checkpoint is an archive without an index, which is read from its beginning on: all memory is read before it runs");
	else if (!kernel_can())
		log_warning("This kernel has no userfaultfd that can follow a process (Linux 4.11): all memory is read before it runs");
	else
		return true;
	return false;
}

int lazy_choose(struct restore *s)
{
	size_t count = 0;

	const bool able = s->request->lazy != LAZY_NOT && can_wait(s);
	for (size_t i = 0; able && i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		t->lazy = !t->dead && t->mm && pages_in(t) >= (s->request->lazy == LAZY_ALL ? 1 : WORTH_PAGES) && !shares_pages(s, t) &&
			  !is_needed_early(s, t);
		count += t->lazy;
	}
	fill_expect(s);
	if (!count)
		verify_rest(s);
	if (s->request->lazy != LAZY_NOT)
		log_info("The memory of %zu of %zu processes comes when it is touched", count, s->tasks.count);
	return 0;
}

int lazy_plan(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };

	if (!t->lazy)
		return 0;
	batch_what(b, "watch the memory of process %d (userfaultfd)", t->pid);
	t->uffd_op = b->ops.count;
	OP(b, __NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	OP(b, __NR_ioctl, t->uffd_op, UFFDIO_API, arena_place(&s->arena, &api, sizeof(api)))->flags |= AGENT_OP_REF_ARG0;
	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *v = t->mm->vmas[i];
		struct uffdio_register range = { .range = { v->start, v->end - v->start }, .mode = UFFDIO_REGISTER_MODE_MISSING };
		if (lazy_covers(t, v))
			OP(b, __NR_ioctl, t->uffd_op, UFFDIO_REGISTER, arena_place(&s->arena, &range, sizeof(range)))->flags |= AGENT_OP_REF_ARG0;
	}
	OP(b, AGENT_OP_ARRIVE, (uint64_t)&s->words->watched);
	OP(b, AGENT_OP_ARRIVE, (uint64_t)&s->status->change);
	OP(b, AGENT_OP_AWAIT, (uint64_t)&s->words->taken, 1);
	OP(b, __NR_close, t->uffd_op)->flags |= AGENT_OP_REF_ARG0;
	return 0;
}

static bool is_watched(const struct proc_maps *maps)
{
	for (size_t i = 0; i < maps->count; i++)
		if (maps->data[i].vmflags & PROC_VMF_UM)
			return true;
	return false;
}

int lazy_settle(struct dump *d, struct task *t)
{
	if (!is_watched(&t->maps))
		return 0;
	/* Its pager may also have ended, by itself or for another task, since the maps were read. */
	pager_finish(t->pid);
	proc_maps_finish(&t->maps);
	int r = proc_read_smaps(t->proc, &t->maps);
	return r ? task_errno(d, t, r, "cannot read its maps") : 0;
}

/* The pages of [start, end) that come later; `vma` goes along. */
static int add_extents(struct rtask *t, uint64_t start, uint64_t end, uint64_t offset, size_t source, struct pager_space *space, size_t *capacity,
		       size_t *vma)
{
	for (uint64_t at = start, next; at < end; at = next) {
		bool later;
		next = lazy_stretch(t, at, end, vma, &later);
		if (!later)
			continue;
		if (!vec_reserve((void **)&space->extents, capacity, space->count + 1, sizeof(*space->extents)))
			return -ENOMEM;
		space->extents[space->count++] = (struct pager_extent){ at, next, offset + (at - start), source };
	}
	return 0;
}

static int add_own(struct rtask *t, size_t source, struct pager_space *space, size_t *capacity)
{
	uint64_t offset = t->pages_offset;
	size_t vma = 0;
	int r = 0;

	for (size_t i = 0; !r && i < t->pages.count; i++) {
		const PagemapEntry *p = t->pages.data[i];
		const uint64_t size = stored_pages(p) * PAGE_SIZE;
		if (!pages_are_passed_over(p))
			r = add_extents(t, p->vaddr, p->vaddr + size, offset, source, space, capacity, &vma);
		offset += size;
	}
	return r;
}

static int add_of_parent(struct rtask *t, const struct page_source *from, size_t source, struct pager_space *space, size_t *capacity)
{
	size_t vma = 0;
	int r = 0;

	VEC_FOREACH(&from->spans, x)
		r = r ? r : add_extents(t, x->address, x->address + x->size, from->offset + x->offset, source, space, capacity, &vma);
	return r;
}

static int by_address(const void *a, const void *b)
{
	const struct pager_extent *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

/* Where its pages are: first in its own file, then in those of parents. */
static int find_extents(struct restore *s, struct rtask *t, struct pager_lot *lot, struct pager_space *space)
{
	size_t capacity = 0, source = lot->n_sources++;
	struct pager_source *own = &lot->sources[source];
	int r = add_own(t, source, space, &capacity);

	*own = (struct pager_source){ .fd = t->pages_fd, .packed = t->pages_fd < 0 ? t->stored : NULL };
	if (t->pages_name)
		image_dir_verify_leave(s->verification, t->pages_name, &own->digest);
	VEC_FOREACH(&t->sources, x) {
		struct pager_source *to = &lot->sources[lot->n_sources];
		*to = (struct pager_source){ .fd = x->fd, .packed = x->fd < 0 ? x->stored : NULL };
		image_dir_verify_leave(x->parent->verification, image_raw_name(x->stored), &to->digest);
		r = r ? r : add_of_parent(t, x, lot->n_sources, space, &capacity);
		lot->n_sources++;
	}
	if (t->sources.count && space->count) /* each file's are in order */
		qsort(space->extents, space->count, sizeof(*space->extents), by_address);
	return r ? error_set(s->e, r, "out of memory") : 0;
}

static int make_space(struct restore *s, struct rtask *t, struct pager_lot *lot)
{
	const struct agent_op *op = &agent_batch_ops(t->threads.data[0].batch.final)[t->uffd_op];
	_cleanup_close_ int pidfd = (int)syscall(__NR_pidfd_open, t->pid, 0);
	struct pager_space *space = &lot->spaces[lot->n_spaces++];

	*space = (struct pager_space){ .uffd = -1, .pid = t->pid };
	space->uffd = pidfd < 0 ? -1 : (int)syscall(__NR_pidfd_getfd, pidfd, (int)op->result, 0);
	if (space->uffd < 0)
		return error_errno(s->e, -errno, "cannot fetch the userfaultfd of process %d", t->pid);
	return find_extents(s, t, lot, space);
}

static int lot_make(struct restore *s, size_t spaces, struct pager_lot *lot)
{
	size_t sources = 0;

	for (size_t i = 0; i < s->tasks.count; i++)
		sources += 1 + s->tasks.data[i]->sources.count;
	lot->spaces = calloc(spaces, sizeof(*lot->spaces));
	lot->sources = calloc(sources, sizeof(*lot->sources));
	return lot->spaces && lot->sources ? 0 : error_set(s->e, -ENOMEM, "out of memory");
}

static void lot_free(struct pager_lot *lot)
{
	for (size_t i = 0; i < lot->n_spaces; i++) {
		if (lot->spaces[i].uffd >= 0)
			close(lot->spaces[i].uffd);
		free(lot->spaces[i].extents);
	}
	free(lot->spaces);
	free(lot->sources);
}

/* All is there from the beginning. */
static void tell_waiter(const struct restore *s)
{
	if (s->request->lazy_waiter && send(s->request->lazy_waiter, "", 1, MSG_NOSIGNAL) != 1)
		log_debug("nobody waits for the pages any more: %s", strerror(errno));
}

int lazy_start(struct restore *s)
{
	_cleanup_close_ int dir = -1;
	struct pager_lot lot = { .touched = s->request->lazy == LAZY_TOUCHED, .waiter = s->request->lazy_waiter };
	char name[256];
	size_t count = 0;

	for (size_t i = 0; i < s->tasks.count; i++)
		count += s->tasks.data[i]->lazy;
	if (!count) {
		tell_waiter(s);
		return 0;
	}
	int r = lot_make(s, count, &lot);
	if (!r)
		r = restore_wait(s, &s->words->watched, (uint32_t)count);
	for (size_t i = 0; !r && i < s->tasks.count; i++)
		if (s->tasks.data[i]->lazy)
			r = make_space(s, s->tasks.data[i], &lot);
	if (!r) {
		verify_rest(s);
		lot.dir_fd = dir = image_order_place(s->request->images_dir, name);
		lot.name = name;
		r = pager_start(&lot, s->e);
	}
	lot_free(&lot);
	__atomic_store_n(&s->words->taken, 1, __ATOMIC_SEQ_CST);
	syscall(__NR_futex, &s->words->taken, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
	return r;
}
