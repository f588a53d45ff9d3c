/* See restore.h. */
#include "engine/memory/restore.h"

#include "engine/agent/blob.h"
#include "engine/kinds/uffd.h"
#include "engine/kinds/uring.h"
#include "engine/memory/aio.h"
#include "engine/memory/lazy.h"
#include "engine/memory/parents.h"
#include "engine/memory/shmem.h"
#include "engine/memory/sysv.h"
#include "engine/memory/vdso.h"
#include "engine/memory/vma.h"

#include <fcntl.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/rseq.h>

#define TASK_END 0x7ffffffff000ULL
#define VDSO_ROOM (64 * PAGE_SIZE)
#define ARENA_SIZE (1UL << 30)
#define HEAP_ROOM (256UL << 20)
#define NR_MSEAL 462

int arena_make(struct restore *s)
{
	struct proc_maps all = {};
	int r = 0;

	for (size_t i = 0; i < s->self.count; i++) {
		struct proc_vma *v = VEC_PUSH(&all);
		if (!v)
			goto out_of_memory;
		*v = (struct proc_vma){ .start = s->self.data[i].start, .end = s->self.data[i].end };
		if (s->self.data[i].name && !strcmp(s->self.data[i].name, "[heap]"))
			v->end += HEAP_ROOM;
	}
	for (size_t i = 0; i < s->tasks.count; i++) {
		const MmEntry *mm = s->tasks.data[i]->mm;
		for (size_t k = 0; mm && k < mm->n_vmas; k++) {
			struct proc_vma *v = VEC_PUSH(&all);
			if (!v)
				goto out_of_memory;
			*v = (struct proc_vma){ .start = mm->vmas[k]->start, .end = mm->vmas[k]->end };
		}
	}
	maps_sort(&all);
	uint64_t at = maps_find_hole(&all, ARENA_SIZE + VDSO_ROOM);
	VEC_FREE(&all);
	int fd = s->ns.seed ? memfd_create("fermata-arena", MFD_CLOEXEC) : -1;
	if (s->ns.seed && (fd < 0 || ftruncate(fd, ARENA_SIZE) < 0 || (fd = restore_hold(s, fd)) < 0))
		return error_errno(s->e, -errno, "cannot make room for the agent");
	s->arena.fd = fd;
	s->arena.start = mmap((void *)at, ARENA_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
			      MAP_SHARED | (fd < 0 ? MAP_ANONYMOUS : 0) | MAP_NORESERVE | MAP_FIXED_NOREPLACE, fd, 0);
	if (!at || s->arena.start == MAP_FAILED) {
		s->arena.start = NULL;
		return error_errno(s->e, at ? -errno : -ENOMEM, "no room for the agent");
	}
	s->arena.size = ARENA_SIZE;
	void *code = arena_take(&s->arena, agent_blob_size);
	s->status = arena_take(&s->arena, sizeof(*s->status));
	s->words = arena_take(&s->arena, sizeof(*s->words));
	memcpy(code, agent_blob, agent_blob_size);
	return r;

out_of_memory:
	VEC_FREE(&all);
	return error_set(s->e, -ENOMEM, "out of memory");
}

int memory_plan_clear(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;
	uint64_t arena = (uint64_t)s->arena.start, room = arena + s->arena.size;

	if (__rseq_size && (!s->clocks.moved || s->ns.seed)) {
		batch_what(b, "leave the rseq area of the coordinator");
		OP(b, __NR_rseq, (uint64_t)__builtin_thread_pointer() + (uint64_t)__rseq_offset, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
	}
	batch_what(b, "put the vdso aside");
	vdso_plan_aside(s, b, room);
	batch_what(b, "clear the address space");
	OP(b, __NR_munmap, 0, arena);
	OP(b, __NR_munmap, room + VDSO_ROOM, TASK_END - room - VDSO_ROOM);
	return 0;
}

bool memory_is_shared(const struct rtask *t)
{
	for (size_t i = 0; t->parent && i < t->pages.count; i++)
		if (t->pages.data[i]->has_forked && t->pages.data[i]->forked)
			return true;
	return false;
}

/* The parent's area that a child's is a part of since fork(2), or NULL. */
static const VmaEntry *inherited(const struct rtask *t, const VmaEntry *v)
{
	const MmEntry *p = t->parent ? t->parent->mm : NULL;
	size_t low = 0, high = p ? p->n_vmas : 0;

	if (!p || !(v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || vdso_is_part(v) || !t->shares)
		return NULL;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (p->vmas[middle]->end <= v->start)
			low = middle + 1;
		else
			high = middle;
	}
	const VmaEntry *x = low < p->n_vmas ? p->vmas[low] : NULL;
	const uint32_t kept = MAP_PRIVATE | MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE | VMA_HUGE_FLAGS;
	if (!x || x->start > v->start || x->end < v->end || x->status != v->status || (x->flags & kept) != (v->flags & kept))
		return NULL;
	if (v->status & VMA_FILE_PRIVATE && (x->shmid != v->shmid || x->pgoff + (v->start - x->start) != v->pgoff))
		return NULL;
	return x;
}

bool memory_is_inherited(const struct rtask *t, const VmaEntry *v)
{
	return inherited(t, v) != NULL || (t->vdso_stays && vdso_is_part(v));
}

struct place_range memory_own_range(const struct restore *s)
{
	uint64_t arena = (uint64_t)s->arena.start;

	return (struct place_range){ arena, arena + s->arena.size + VDSO_ROOM };
}

static void plan_unmap(struct batch *b, uint64_t start, uint64_t end)
{
	if (start < end)
		OP(b, __NR_munmap, start, end - start);
}

int memory_plan_inherit(struct restore *s, struct rtask *t, bool alone)
{
	struct batch *b = &t->threads.data[0].batch;
	uint64_t arena = (uint64_t)s->arena.start, room = arena + s->arena.size, at = 0;

	t->shares = !t->parent->vm_owner;
	t->vdso_stays = alone && vdso_is_parents(s, t);
	batch_what(b, "put the vdso aside in process %d", t->pid);
	if (!t->vdso_stays)
		vdso_plan_aside_of(s, b, t->parent, room);
	batch_what(b, "leave what process %d has of its parent", t->pid);
	for (size_t i = 0; i <= t->mm->n_vmas; i++) {
		const VmaEntry *v = i < t->mm->n_vmas ? t->mm->vmas[i] : NULL;
		if (v && !memory_is_inherited(t, v))
			continue;
		uint64_t start = v ? v->start : TASK_END;
		if (at < arena && start > arena) {
			plan_unmap(b, at, arena);
			at = room + VDSO_ROOM;
		}
		plan_unmap(b, at, start);
		at = v ? v->end : start;
	}
	return 0;
}

/* What the parent has there: nothing but what was saved of it. */
static void plan_drop_range(struct rtask *t, uint64_t start, uint64_t end)
{
	const struct rtask *p = t->parent;
	size_t low = 0, high = p->pages.count;

	if (start >= end)
		return;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (p->pages.data[middle]->vaddr + (uint64_t)p->pages.data[middle]->nr_pages * PAGE_SIZE <= start)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < p->pages.count && p->pages.data[low]->vaddr < end)
		OP(&t->threads.data[0].batch, __NR_madvise, start, end - start, MADV_DONTNEED);
}

/* In an area that was inherited: what is not shared any more goes; what was saved comes over it. True: its protection is not yet
 * what it is to be. */
static bool plan_drop(struct rtask *t, const VmaEntry *v, size_t *page)
{
	struct batch *b = &t->threads.data[0].batch;
	uint32_t prot = inherited(t, v)->prot;
	uint64_t at = v->start;
	bool own = false;

	batch_what(b, "drop pages of the parent's at %lx of process %d", (unsigned long)v->start, t->pid);
	for (; *page < t->pages.count && t->pages.data[*page]->vaddr < v->end; ++*page) {
		const PagemapEntry *p = t->pages.data[*page];
		uint64_t end = p->vaddr + (uint64_t)p->nr_pages * PAGE_SIZE;
		bool forked = p->has_forked && p->forked;
		own |= !forked && end > v->start;
		if (forked && end > v->start) {
			plan_drop_range(t, at, MAX(p->vaddr, v->start));
			at = MIN(end, v->end);
		}
		if (end > v->end) /* the next area has some of it too */
			break;
	}
	plan_drop_range(t, at, v->end);
	if (own && (prot & 3) != 3) {
		prot = v->prot | PROT_READ | PROT_WRITE;
		OP(b, __NR_mprotect, v->start, v->end - v->start, prot);
	}
	return prot != v->prot;
}

/* Whether some of an area's pages were saved. `page` goes along with the areas. */
static bool has_pages(const struct rtask *t, const VmaEntry *v, size_t *page)
{
	while (*page < t->pages.count &&
	       t->pages.data[*page]->vaddr + (uint64_t)t->pages.data[*page]->nr_pages * PAGE_SIZE <= v->start)
		++*page;
	return *page < t->pages.count && t->pages.data[*page]->vaddr < v->end;
}

/* CRIU's images have one file for all mappings of it, and a mapping says how it is to be opened. */
static int mapped_fd(struct restore *s, const VmaEntry *v)
{
	int fd = file_fd_early(s, (uint32_t)v->shmid), flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
	struct file *f = file_find(s, (uint32_t)v->shmid);
	char path[40];

	if (flags < 0 || (flags & O_ACCMODE) != O_RDONLY || !(v->status & VMA_FILE_SHARED) || !v->has_fdflags || (v->fdflags & O_ACCMODE) != O_RDWR)
		return fd;
	if (!f->writable) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		fd = open(path, O_RDWR | O_CLOEXEC);
		fd = fd < 0 ? -errno : restore_hold(s, fd);
		if (fd < 0)
			return error_errno(s->e, fd, "cannot open file %u for writing, as a mapping at %lx asks for", f->id, (unsigned long)v->start);
		f->writable = fd;
	}
	return f->writable;
}

/* Whether at least half of an area was saved. Pages of a parent process don't count: they come with it. */
static bool is_dense(const struct rtask *t, const VmaEntry *v)
{
	size_t low = 0, high = t->pages.count;
	uint64_t saved = 0;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (t->pages.data[middle]->vaddr + (uint64_t)t->pages.data[middle]->nr_pages * PAGE_SIZE <= v->start)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < t->pages.count && t->pages.data[low]->vaddr < v->end; low++) {
		const PagemapEntry *p = t->pages.data[low];
		uint64_t end = p->vaddr + (uint64_t)p->nr_pages * PAGE_SIZE;
		saved += pages_place(p) == PAGES_FORKED ? 0 : MIN(end, v->end) - MAX(p->vaddr, v->start);
	}
	return saved >= (v->end - v->start) / 2;
}

/* What must be known before the area is filled: each page would be a huge one; or none, though the program has asked for them, where they are
 * filled three times as fast. One that is sparse gets its advice when it is filled (memory_plan_finish). */
static uint64_t early_advice(struct restore *s, const struct rtask *t, const VmaEntry *v)
{
	if (!v->has_madv || v->status & (VMA_SYSVIPC | VMA_AIORING) || inherited(t, v) || vdso_is_part(v) || uring_is_area(s, v))
		return 0;
	if (v->madv & 1ULL << MADV_NOHUGEPAGE)
		return 1ULL << MADV_NOHUGEPAGE;
	return v->madv & 1ULL << MADV_HUGEPAGE && is_dense(t, v) ? 1ULL << MADV_HUGEPAGE : 0;
}

static void plan_advice(struct rtask *t, uint64_t start, uint64_t end, uint64_t advice)
{
	struct batch *b = &t->threads.data[0].batch;

	for (uint64_t one = 0; one < 64 && advice >> one; one++)
		if (advice >> one & 1) {
			batch_what(b, "advise %d on memory at %lx of process %d", (int)one, (unsigned long)start, t->pid);
			OP_MAY_FAIL(b, __NR_madvise, start, end - start, one);
		}
}

/* One call for all areas that lie side by side, as the stacks of threads do. Private ones only: there no advice fails for one and not for the other. */
static void plan_advices(struct restore *s, struct rtask *t, uint64_t (*advice_of)(struct restore *s, const struct rtask *t, const VmaEntry *v))
{
	for (size_t i = 0, next; i < t->mm->n_vmas; i = next) {
		const VmaEntry *v = t->mm->vmas[i];
		const uint64_t advice = advice_of(s, t, v);
		uint64_t end = v->end;
		for (next = i + 1; advice && next < t->mm->n_vmas && v->status & VMA_ANON_PRIVATE; next++) {
			const VmaEntry *n = t->mm->vmas[next];
			if (n->start != end || !(n->status & VMA_ANON_PRIVATE) || advice_of(s, t, n) != advice)
				break;
			end = n->end;
		}
		plan_advice(t, v->start, end, advice);
	}
}

static int plan_map(struct restore *s, struct rtask *t, const VmaEntry *v, bool fill)
{
	struct batch *b = &t->threads.data[0].batch;
	uint64_t flags = v->flags & (uint32_t)(MAP_SHARED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_NORESERVE | VMA_DROPPABLE | VMA_HUGE_FLAGS);
	uint64_t prot = v->prot;
	int fd = -1;

	if (v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) && (fd = mapped_fd(s, v)) < 0)
		return fd;
	if (v->status & VMA_ANON_SHARED) {
		fd = shmem_fd(s, v->shmid);
		if (fd < 0)
			return fd;
		flags &= ~(uint64_t)(MAP_ANONYMOUS | VMA_HUGE_FLAGS);
	}
	if (fill)
		prot |= PROT_READ | PROT_WRITE;
	batch_what(b, "map memory at %lx of process %d", (unsigned long)v->start, t->pid);
	OP(b, __NR_mmap, v->start, v->end - v->start, prot, flags | MAP_FIXED_NOREPLACE, fd, fd >= 0 ? v->pgoff : 0);
	return 0;
}

int memory_plan(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;
	_cleanup_free_ bool *opened = calloc(t->mm->n_vmas + 1, sizeof(*opened)); /* is writable for being filled */
	size_t page = 0, dropped = 0;
	uint64_t room = (uint64_t)s->arena.start + s->arena.size;
	int r = opened ? uring_plan_areas(s, t) : error_set(s->e, -ENOMEM, "out of memory");

	if (!r)
		r = vdso_plan(s, t, room, VDSO_ROOM);
	if (uffd_watches(s, t)) { /* a huge page would have pages that are not there yet */
		batch_what(b, "switch huge pages off in process %d", t->pid);
		OP(b, __NR_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0);
	}

	for (size_t i = 0; !r && i < t->mm->n_vmas; i++) {
		const VmaEntry *v = t->mm->vmas[i];
		bool private = v->status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE) && !vdso_is_part(v);
		opened[i] = private && has_pages(t, v, &page) && (v->prot & 3) != 3 && !lazy_covers(t, v);
		if (v->status & VMA_SYSVIPC) {
			r = sysv_plan_vma(s, t, i);
		} else if (inherited(t, v)) {
			opened[i] = plan_drop(t, v, &dropped);
		} else if (v->status & VMA_AIORING) {
			aio_plan_place(t, v);
			opened[i] = (v->prot & 3) != 3;
		} else if (!vdso_is_part(v) && !uring_is_area(s, v)) {
			r = plan_map(s, t, v, opened[i]);
		}
	}
	plan_advices(s, t, early_advice);
	if (!r)
		r = aio_plan(s, t);
	if (!r)
		r = lazy_plan(s, t);
	if (!r)
		r = fill_plan(s, t);
	if (!r)
		aio_plan_finish(t);
	for (size_t i = 0; !r && i < t->mm->n_vmas; i++) {
		const VmaEntry *v = t->mm->vmas[i];
		if (!opened[i])
			continue;
		batch_what(b, "protect memory at %lx of process %d", (unsigned long)v->start, t->pid);
		OP(b, __NR_mprotect, v->start, v->end - v->start, v->prot);
	}
	return r;
}

/* The coordinator's own program, which tasks are born with: it can't be set again while it is mapped. */
static bool is_own_program(int fd)
{
	char link[64], path[4200], own[4200];
	struct stat a, b;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, path, sizeof(path)), m = readlink("/proc/self/exe", own, sizeof(own));
	return n > 0 && n == m && !memcmp(path, own, (size_t)n) && !fstat(fd, &a) && !stat("/proc/self/exe", &b) && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

static int plan_fields(struct restore *s, struct rtask *t)
{
	const MmEntry *m = t->mm;
	struct batch *b = &t->threads.data[0].batch;
	int exe = file_fd_early(s, m->exe_file_id);

	if (exe < 0)
		return exe;
	struct prctl_mm_map map = { .start_code = m->mm_start_code, .end_code = m->mm_end_code, .start_data = m->mm_start_data,
				    .end_data = m->mm_end_data, .start_brk = m->mm_start_brk, .brk = m->mm_brk,
				    .start_stack = m->mm_start_stack, .arg_start = m->mm_arg_start, .arg_end = m->mm_arg_end,
				    .env_start = m->mm_env_start, .env_end = m->mm_env_end, .exe_fd = is_own_program(exe) ? UINT32_MAX : (uint32_t)exe };
	map.auxv = (void *)arena_place(&s->arena, m->mm_saved_auxv, m->n_mm_saved_auxv * 8);
	map.auxv_size = (uint32_t)(m->n_mm_saved_auxv * 8);
	batch_what(b, "set the mm fields of process %d", t->pid);
	OP(b, __NR_prctl, PR_SET_MM, PR_SET_MM_MAP, arena_place(&s->arena, &map, sizeof(map)), sizeof(map));
	return 0;
}

/* Last: nothing can be changed there any more. */
static void plan_seals(struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;

	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *v = t->mm->vmas[i];
		if (!v->sealed || vdso_is_part(v))
			continue;
		batch_what(b, "seal memory at %lx of process %d (mseal, Linux 6.10)", (unsigned long)v->start, t->pid);
		OP(b, NR_MSEAL, v->start, v->end - v->start, 0);
	}
}

/* What was not given before. */
static uint64_t late_advice(struct restore *s, const struct rtask *t, const VmaEntry *v)
{
	return vdso_is_part(v) || !v->has_madv ? 0 : v->madv & ~early_advice(s, t, v);
}

int memory_plan_finish(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;

	plan_advices(s, t, late_advice);
	for (size_t i = 0; i < t->mm->n_vmas; i++) {
		const VmaEntry *v = t->mm->vmas[i];
		if (vdso_is_part(v))
			continue;
		if (v->anon_name && !strncmp(v->anon_name, "[anon:", 6)) {
			char name[128];
			snprintf(name, sizeof(name), "%s", v->anon_name + 6);
			name[strcspn(name, "]")] = '\0';
			OP_MAY_FAIL(b, __NR_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, v->start, v->end - v->start,
				    arena_place(&s->arena, name, strlen(name) + 1));
		}
		if (v->has_mempolicy) {
			batch_what(b, "set the policy of memory at %lx of process %d", (unsigned long)v->start, t->pid);
			OP(b, __NR_mbind, v->start, v->end - v->start, v->mempolicy,
			   arena_place(&s->arena, v->mempolicy_nodes.data, v->mempolicy_nodes.len), v->mempolicy_nodes.len * 8, 0);
		}
		if (v->flags & MAP_LOCKED) {
			const uint64_t how = v->has_lock_onfault && v->lock_onfault ? MLOCK_ONFAULT : 0;
			batch_what(b, "lock memory at %lx of process %d", (unsigned long)v->start, t->pid);
			if (v->prot)
				OP(b, __NR_mlock2, v->start, v->end - v->start, how);
			else /* it is locked, and the call says that its pages can't be brought */
				OP_MAY_FAIL(b, __NR_mlock2, v->start, v->end - v->start, how);
		}
	}
	int r = plan_fields(s, t);
	if (!r)
		plan_seals(t);
	return r;
}
