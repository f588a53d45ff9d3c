/*
 * userfaultfd(2): a process that handles faults of its own memory, or write-protects it. Features come from fdinfo, the areas that are watched from
 * smaps, the pages that are protected from pagemap, whose memory it is from the kernel's own (kernel.h). A thread that waits in a fault is woken by
 * the stop, and meets the fault again.
 *
 * Which of several descriptors watches an area is found by registering it once more, which does nothing for the one that has it, and fails for others.
 *
 * Refused: those of the memory of a process that does not hold them, pages that are protected and not there, protection of other memory than private
 * anonymous. Left out: which pages of shared memory were mapped (UFFDIO_REGISTER_MODE_MINOR); the kernel may take those away at any time.
 */
#include "engine/kinds/uffd.h"

#include "base/pool.h"
#include "engine/kernel.h"
#include "engine/kinds/anon.h"
#include "engine/kinds/in_task.h"
#include "engine/memory/vma.h"
#include "engine/task/inside.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define USER_MODE_ONLY 1U /* UFFD_USER_MODE_ONLY, Linux 5.11 */
#define MODE_MISSING 1U
#define MODE_WP 2U
#define MODE_MINOR 4U
#define INITIALIZED (1ULL << 31) /* of the features: the kernel's own */
#define WORDS 4096
#define WORD_PRESENT (1ULL << 63)
#define WORD_PROTECTED (1ULL << 57)
#define RANGES_MAX (1U << 20)

struct watched {
	const struct task *task;
	uint64_t start;
};

struct state {
	VEC(struct watched) areas;
};

struct ranges {
	VEC(UffdRange *) list;
	struct pool *pool;
};

extern const struct kind kind_uffd;

#define refuse(d, f, format, ...) fd_error(d, f, -ENOTSUP, "is a userfaultfd " format, ##__VA_ARGS__)

static bool recognise(const struct descriptor *f)
{
	return anon_is(f, "userfaultfd");
}

static int add(struct ranges *to, uint64_t start, uint64_t end, uint32_t mode)
{
	UffdRange *last = to->list.count ? to->list.data[to->list.count - 1] : NULL, **slot;

	if (last && !mode && last->end == start) {
		last->end = end;
		return 0;
	}
	last = pool_take(to->pool, sizeof(*last));
	slot = last ? VEC_PUSH(&to->list) : NULL;
	if (!slot)
		return -ENOMEM;
	*slot = last;
	uffd_range__init(last);
	last->start = start;
	last->end = end;
	last->mode = mode;
	return 0;
}

static uint32_t mode_of(const struct proc_vma *v)
{
	return (v->vmflags & PROC_VMF_UM ? MODE_MISSING : 0) | (v->vmflags & PROC_VMF_UW ? MODE_WP : 0) | (v->vmflags & PROC_VMF_UI ? MODE_MINOR : 0);
}

static int find_protected(struct dump *d, struct descriptor *f, const struct proc_vma *v, struct ranges *to)
{
	uint64_t words[WORDS];

	if (!(vma_status(v) & VMA_ANON_PRIVATE) || v->vmflags & PROC_VMF_HT)
		return refuse(d, f, "that protects memory which is not private and anonymous, or of huge pages, at %lx; close it first", (unsigned long)v->start);
	for (uint64_t at = v->start; at < v->end; at += WORDS * PAGE_SIZE) {
		const size_t count = MIN((v->end - at) / PAGE_SIZE, (uint64_t)WORDS);
		ssize_t n = pread(f->task->pagemap_fd, words, count * 8, (off_t)(at / PAGE_SIZE * 8));
		if (n != (ssize_t)(count * 8))
			return task_errno(d, f->task, n < 0 ? -errno : -EIO, "cannot read its pagemap");
		for (size_t i = 0; i < count; i++) {
			if (!(words[i] & WORD_PROTECTED))
				continue;
			if (!(words[i] & WORD_PRESENT))
				return refuse(d, f, "that protects pages which are swapped out or not there yet, at %lx; try again", (unsigned long)at);
			if (to->list.count > RANGES_MAX || add(to, at + i * PAGE_SIZE, at + (i + 1) * PAGE_SIZE, 0))
				return error_set(d->e, -ENOMEM, "out of memory");
		}
	}
	return 0;
}

static int find_areas(struct dump *d, struct descriptor *f, struct ranges *areas, struct ranges *protected)
{
	void **at = kind_state(d, &kind_uffd);
	struct state *s = *at = *at ? *at : calloc(1, sizeof(*s));
	int r = s ? 0 : -ENOMEM;

	for (size_t i = 0; !r && i < f->task->maps.count; i++) {
		const struct proc_vma *v = &f->task->maps.data[i];
		struct uffdio_register again = { .range = { v->start, v->end - v->start }, .mode = mode_of(v) };
		if (!again.mode || ioctl(f->own_fd, UFFDIO_REGISTER, &again) < 0)
			continue;
		struct watched *w = VEC_PUSH(&s->areas);
		if (!w || add(areas, v->start, v->end, (uint32_t)again.mode))
			r = -ENOMEM;
		else
			*w = (struct watched){ f->task, v->start };
		if (!r && again.mode & MODE_WP && (r = find_protected(d, f, v, protected)))
			return r;
	}
	return r ? error_set(d->e, r, "out of memory") : 0;
}

/* How it was made, and that it is of this process's memory. */
static int look_inside(struct dump *d, struct descriptor *f, uint32_t *ret_flags)
{
	struct kernel *k = dump_kernel(d);
	uint64_t at = 0, its = 0, own = 0;
	int flags = k ? kernel_offset(k, "userfaultfd_ctx", "flags") : -1, mm = k ? kernel_offset(k, "userfaultfd_ctx", "mm") : -1;

	if (flags < 0 || mm < 0 || kernel_file(k, f->own_fd, &at) || inside_follow(d, &at, "file", "private_data") ||
	    kernel_read(k, at + (uint64_t)flags, ret_flags, sizeof(*ret_flags)) || kernel_read(k, at + (uint64_t)mm, &its, sizeof(its)) ||
	    inside_thread(d, f->task->threads.data[0], "mm", &own, sizeof(own)))
		return refuse(d, f, "and whose memory it watches stands in the kernel's, which can't be read here (BTF, BPF); close it first");
	if (its != own)
		return refuse(d, f, "of the memory of another process, which does not hold it, or has ended; close it first");
	return 0;
}

static int capture_entry(struct dump *d, struct descriptor *f, UffdEntry *e, struct pool *pool)
{
	struct ranges areas = { .pool = pool }, protected = { .pool = pool };
	const char *api = fdinfo_value(f, "API"), *total = fdinfo_value(f, "total");
	FileEntry entry = FILE_ENTRY__INIT;
	unsigned long long version, features;
	uint32_t flags = 0;

	if (!api || !total || sscanf(api, "%llx:%llx:", &version, &features) != 2)
		return fd_error(d, f, -ENOTSUP, "is a userfaultfd, and the kernel does not tell its state");
	if (f->fd < 0)
		return refuse(d, f, "under way in a socket, which is not saved; try again when it was received");
	if (strtoul(total, NULL, 10))
		return refuse(d, f, "with faults that the kernel itself waits for; try again");
	int r = f->task->vm_owner ? refuse(d, f, "of a process that shares its memory; close it first") : look_inside(d, f, &flags);
	if (!r)
		r = find_areas(d, f, &areas, &protected);
	e->id = f->id;
	e->flags = (f->flags & O_NONBLOCK) | (flags & USER_MODE_ONLY);
	e->pid = (uint32_t)f->task->pid;
	e->has_features = (features & INITIALIZED) != 0;
	e->features = features & ~INITIALIZED;
	e->areas = areas.list.data;
	e->n_areas = areas.list.count;
	e->protected_ = protected.list.data;
	e->n_protected_ = protected.list.count;
	entry.uffd = e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__FERMATA_UFFD);
	VEC_FREE(&areas.list);
	VEC_FREE(&protected.list);
	return r;
}

static int capture(struct dump *d, struct descriptor *f)
{
	UffdEntry e = UFFD_ENTRY__INIT;
	struct pool pool = {};
	int r = capture_entry(d, f, &e, &pool);

	pool_free(&pool);
	return r;
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;

	if (s)
		VEC_FREE(&s->areas);
	free(s);
	*at = NULL;
	return 0;
}

bool uffd_covers(struct dump *d, const struct task *t, const struct proc_vma *vma)
{
	struct state *s = *kind_state(d, &kind_uffd);

	if (s)
		VEC_FOREACH(&s->areas, w)
			if (w->task->pid == t->pid && w->start == vma->start)
				return true;
	return false;
}

/* ---- restore ---- */

static bool is_watching(const struct rtask *t, const struct file *f)
{
	return f->kind == &kind_uffd && f->entry->uffd && f->entry->uffd->pid == (uint32_t)t->pid && f->entry->uffd->n_areas;
}

bool uffd_watches(struct restore *s, struct rtask *t)
{
	return rtask_holds(s, t, is_watching);
}

static bool is_sound(UffdRange *const *list, size_t count, bool areas)
{
	for (size_t i = 0; i < count; i++)
		if (list[i]->start % PAGE_SIZE || list[i]->end % PAGE_SIZE || list[i]->start >= list[i]->end || list[i]->mode > (MODE_MISSING | MODE_WP | MODE_MINOR) ||
		    areas != (list[i]->mode != 0))
			return false;
	return count <= RANGES_MAX;
}

/* The task whose memory it is makes it: late(). */
static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const UffdEntry *e = f->entry->uffd;

	if (!e || e->flags & ~(uint32_t)(O_NONBLOCK | USER_MODE_ONLY) || !is_sound(e->areas, e->n_areas, true) || !is_sound(e->protected_, e->n_protected_, false) ||
	    (e->n_areas && !e->has_features))
		return error_set(s->e, -EBADMSG, "file %u lacks its entry, or is a userfaultfd that can't be", f->id);
	return 0;
}

static void add_ioctl(struct restore *s, struct batch *b, uint64_t fd, unsigned long request, const void *argument, size_t size)
{
	OP(b, __NR_ioctl, fd, request, arena_place(&s->arena, argument, size))->flags |= AGENT_OP_REF_ARG0;
}

static uint64_t make(struct restore *s, struct file *f, struct rtask *t)
{
	const UffdEntry *e = f->entry->uffd;
	struct batch *b = &t->threads.data[0].batch;
	struct uffdio_api api = { .api = UFFD_API, .features = e->features };
	uint64_t fd = in_task_index(b, OP(b, __NR_userfaultfd, O_CLOEXEC | e->flags));

	if (e->has_features)
		add_ioctl(s, b, fd, UFFDIO_API, &api, sizeof(api));
	for (size_t i = 0; i < e->n_areas; i++) {
		struct uffdio_register area = { .range = { e->areas[i]->start, e->areas[i]->end - e->areas[i]->start }, .mode = e->areas[i]->mode };
		add_ioctl(s, b, fd, UFFDIO_REGISTER, &area, sizeof(area));
	}
	for (size_t i = 0; i < e->n_protected_; i++) {
		struct uffdio_writeprotect pages = { .range = { e->protected_[i]->start, e->protected_[i]->end - e->protected_[i]->start },
						     .mode = UFFDIO_WRITEPROTECT_MODE_WP };
		add_ioctl(s, b, fd, UFFDIO_WRITEPROTECT, &pages, sizeof(pages));
	}
	if (!t->mm->thp_disabled) /* memory_plan has switched them off */
		OP(b, __NR_prctl, PR_SET_THP_DISABLE, 0, 0, 0, 0);
	return fd;
}

static int late(struct restore *s, struct file *f, struct rtask *t, int fd)
{
	if (f->owner->pid != (pid_t)f->entry->uffd->pid || f->owner->vm_owner)
		return error_set(s->e, -EBADMSG, "file %u is a userfaultfd of process %u, which does not hold it", f->id, f->entry->uffd->pid);
	return in_task_late(s, f, t, fd, make);
}

const struct kind kind_uffd = {
	.name = "a userfaultfd",
	.summary = "userfaultfds of a process's own memory: the areas that they watch, their features, pages that are write-protected or not there yet",
	.type = FD_TYPES__FERMATA_UFFD,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = create,
	.late = late,
};
