/* See vmbits.h. */
#include "engine/memory/vmbits.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define AREAS_MAX 2000 /* of a process with more smaps tells outside of the pause */
#define HUGE (2UL << 20)
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

struct walk {
	struct kernel *k;
	const struct areas_layout *layout;
	struct areas areas;
};

/* All areas of a process, in order. */
static int walk_process(struct walk *w, pid_t pid, const char *comm)
{
	const int mm = kernel_offset(w->k, "task_struct", "mm");
	char path[64];
	uint64_t at;

	snprintf(path, sizeof(path), "/proc/%d/task/%d", pid, pid);
	_cleanup_close_ int fd = mm < 0 ? -1 : open(path, O_PATH | O_CLOEXEC);
	int r = fd < 0 ? -ENOTSUP : kernel_task(w->k, fd, comm, &at);
	if (!r)
		r = kernel_read(w->k, at + (uint64_t)mm, &at, sizeof(at));
	return r ? r : at ? areas_walk(w->k, w->layout, at, &w->areas) : -ESRCH;
}

/* ---- which bit is which ---- */

struct lesson {
	int map_flags, advice;
	uint64_t flag; /* PROC_VMF_*: 0: nothing is to be learned */
	enum { ADVISE, LOCK, LOCK_ON_FAULT, WATCH, MISS } how;
	char *at;
};

static char *make_area(struct lesson *l, char *at, int uffd)
{
	const bool huge = l->flag == PROC_VMF_HT;
	struct uffdio_register reg = { .range = { (uintptr_t)at, PAGE_SIZE },
				       .mode = l->how == MISS ? UFFDIO_REGISTER_MODE_MISSING : UFFDIO_REGISTER_MODE_WP };
	int r = 0;

	/* Huge pages that are never touched need none. */
	if (huge)
		at = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE, -1, 0);
	else
		at = mmap(at, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_FIXED | (l->map_flags ? l->map_flags : MAP_PRIVATE), -1, 0);
	if (at == MAP_FAILED)
		return NULL;
	if (l->how == ADVISE && l->advice)
		r = madvise(at, PAGE_SIZE, l->advice);
	else if (l->how == LOCK || l->how == LOCK_ON_FAULT)
		r = mlock2(at, PAGE_SIZE, l->how == LOCK ? 0 : MLOCK_ONFAULT);
	else if (l->how != ADVISE)
		r = ioctl(uffd, UFFDIO_REGISTER, &reg);
	return r ? NULL : at;
}

static const struct area *find_area(const struct walk *w, const char *at)
{
	for (size_t i = 0; at && i < w->areas.count; i++)
		if (w->areas.data[i].start <= (uintptr_t)at && w->areas.data[i].end > (uintptr_t)at)
			return &w->areas.data[i];
	return NULL;
}

static int learn_bit(struct vmbits *b, uint64_t bits, uint64_t flag)
{
	for (size_t i = 0; i < b->count; i++)
		bits &= ~b->known[i].bit;
	bits &= ~b->plain;
	if (!bits || bits & (bits - 1) || b->count == VMBITS_MAX)
		return -ENOTSUP;
	b->known[b->count].bit = bits;
	b->known[b->count++].flag = flag;
	return 0;
}

/* What our own mappings of files, and the area that the kernel gives to all, are like. */
static int learn_others(const struct walk *w, const struct proc_maps *own, struct vmbits *b)
{
	const uint64_t io = 0x4000, pfn = 0x400; /* of the memory of devices */
	uint64_t all = 0, kernels = 0;

	for (size_t i = 0; i < own->count; i++) {
		const struct proc_vma *v = &own->data[i];
		const struct area *a = find_area(w, (const char *)(uintptr_t)v->start);
		const char *name = v->name ? v->name : "";
		if (a && !(a->flags & (io | pfn)) && (name[0] == '/' || !strcmp(name, "[vdso]")) && !(v->prot & PROT_WRITE))
			all |= a->flags;
		if (a && !strcmp(name, "[vvar]"))
			kernels = a->flags;
	}
	if ((kernels & (io | pfn)) != (io | pfn))
		return -ENOTSUP;
	b->plain |= all;
	b->known[b->count].bit = io;
	b->known[b->count++].flag = PROC_VMF_IO;
	b->known[b->count].bit = pfn;
	b->known[b->count++].flag = PROC_VMF_PF;
	return 0;
}

static int learn_from(struct walk *w, const struct lesson *lessons, size_t count, struct vmbits *b)
{
	struct proc_maps own = {};
	char comm[70] = "";
	struct proc_stat stat;
	int r = proc_read_stat(getpid(), &stat);

	snprintf(comm, sizeof(comm), "%s", r ? "" : stat.comm);
	r = r ? r : proc_read_maps(getpid(), &own);
	if (!r)
		r = walk_process(w, getpid(), comm);
	for (size_t i = 0; !r && i < count; i++) {
		const struct area *a = find_area(w, lessons[i].at);
		if (!a && !lessons[i].flag)
			r = -ENOTSUP;
		else if (a && !lessons[i].flag)
			b->plain |= a->flags;
	}
	if (!r)
		r = learn_others(w, &own, b);
	/* What could not be made here has no name: an area that has it is not understood. */
	for (size_t i = 0; !r && i < count; i++) {
		const struct area *a = find_area(w, lessons[i].at);
		if (a && lessons[i].flag)
			r = learn_bit(b, a->flags, lessons[i].flag);
	}
	proc_maps_finish(&own);
	return r;
}

int vmbits_learn(struct kernel *k, struct vmbits *ret)
{
	struct lesson lessons[] = {
		{}, { .map_flags = MAP_SHARED }, { .map_flags = MAP_PRIVATE | MAP_NORESERVE, .flag = PROC_VMF_NR },
		{ .map_flags = MAP_PRIVATE | MAP_GROWSDOWN, .flag = PROC_VMF_GD },		{ .advice = MADV_DONTFORK, .flag = PROC_VMF_DC }, { .advice = MADV_DONTDUMP, .flag = PROC_VMF_DD },
		{ .advice = MADV_WIPEONFORK, .flag = PROC_VMF_WF }, { .advice = MADV_HUGEPAGE, .flag = PROC_VMF_HG },
		{ .advice = MADV_NOHUGEPAGE, .flag = PROC_VMF_NH }, { .advice = MADV_MERGEABLE, .flag = PROC_VMF_MG },
		{ .advice = MADV_SEQUENTIAL, .flag = PROC_VMF_SR }, { .advice = MADV_RANDOM, .flag = PROC_VMF_RR },
		{ .how = LOCK, .flag = PROC_VMF_LO }, { .how = LOCK_ON_FAULT, .flag = PROC_VMF_LF },
		{ .how = WATCH, .flag = PROC_VMF_UW }, { .how = MISS, .flag = PROC_VMF_UM }, { .map_flags = MAP_DROPPABLE, .flag = PROC_VMF_DP },
		{ .flag = PROC_VMF_HT },
	};
	const size_t count = ARRAY_SIZE(lessons), size = 2 * count * PAGE_SIZE;
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_PAGEFAULT_FLAG_WP };
	_cleanup_close_ int uffd = (int)syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	char *room = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct vmbits b = {};
	struct walk w = { .k = k, .layout = &b.layout };
	int r = room == MAP_FAILED ? -ENOMEM : areas_find_layout(k, &b.layout);

	if (room == MAP_FAILED)
		return r;
	if (uffd >= 0)
		ioctl(uffd, UFFDIO_API, &api);
	for (size_t i = 0; !r && i < count; i++)
		lessons[i].at = make_area(&lessons[i], room + (2 * i + 1) * PAGE_SIZE, uffd);
	if (!r)
		r = learn_from(&w, lessons, count, &b);
	VEC_FREE(&w.areas);
	if (!r && lessons[count - 1].at)
		munmap(lessons[count - 1].at, HUGE);
	munmap(room, size);
	if (!r)
		*ret = b;
	return r;
}

int vmbits_read(struct kernel *k, const struct vmbits *bits, pid_t pid, const char *comm, struct proc_maps *maps)
{
	struct walk w = { .k = k, .layout = &bits->layout };
	size_t n = 0;
	int r = maps->count > AREAS_MAX ? -E2BIG : walk_process(&w, pid, comm);

	for (size_t i = 0; !r && i < maps->count; i++) {
		struct proc_vma *v = &maps->data[i];
		uint64_t flags = 0, left;
		if (v->name && !strcmp(v->name, "[vsyscall]")) /* which is no area */
			continue;
		const struct area *a = n < w.areas.count ? &w.areas.data[n++] : NULL;
		if (!a || a->start != v->start || a->end != v->end) {
			r = -EBADMSG;
			break;
		}
		left = a->flags & ~bits->plain;
		for (size_t b = 0; b < bits->count; b++)
			if (left & bits->known[b].bit) {
				flags |= bits->known[b].flag;
				left &= ~bits->known[b].bit;
			}
		r = left ? -EBADMSG : 0;
		v->vmflags = flags;
	}
	r = r ? r : n == w.areas.count ? 0 : -EBADMSG;
	VEC_FREE(&w.areas);
	return r;
}
