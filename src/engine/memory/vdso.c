/* See vdso.h. */
#include "engine/memory/vdso.h"

#include "engine/memory/vdso_patch.h"
#include "engine/memory/vma.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <ucontext.h>

#define SCAN_SIZE (64UL << 10)
#define STACK_MAX (8UL << 20)
#define FRAMES_MAX 64

static const void *own_image(size_t *ret_size)
{
	const void *image = (const void *)getauxval(AT_SYSINFO_EHDR);

	*ret_size = image ? vdso_image_size(image, PAGE_SIZE) : 0;
	return *ret_size ? image : NULL;
}

/* ---- dump ---- */

int vdso_capture(struct dump *d, struct task *t, MmEntry *mm)
{
	size_t size;
	const void *own = own_image(&size);

	for (size_t i = 0; i < t->maps.count; i++) {
		const struct proc_vma *vma = &t->maps.data[i];
		if (!(vma_status(vma) & VMA_VDSO))
			continue;
		if (!own || size > vma->end - vma->start)
			return task_error(d, t, -ENOTSUP, "its vdso can't be read");
		unsigned char *image = malloc(size);
		if (!image)
			return error_set(d->e, -ENOMEM, "out of memory");
		if (pread(t->mem_fd, image, size, (off_t)vma->start) != (ssize_t)size || memcmp(image, own, size)) {
			free(image);
			return task_error(d, t, -ENOTSUP, "it has changed its vdso at %lx, which is not saved; let the program leave that as it was",
					  (unsigned long)vma->start);
		}
		if (t != d->tasks.data[0]) { /* all have the same */
			free(image);
			return 0;
		}
		mm->has_vdso = 1;
		mm->vdso.data = image;
		mm->vdso.len = size;
		return 0;
	}
	return task_error(d, t, -ENOTSUP, "it has unmapped its vdso, without which it can't be restored; run it without what does that (valgrind, say)");
}

/* ---- restore ---- */

bool vdso_is_part(const VmaEntry *v)
{
	return v->status & (VMA_VDSO | VMA_VVAR);
}

static bool is_own_part(const struct proc_vma *v)
{
	return vma_status(v) & (VMA_VDSO | VMA_VVAR);
}

static uint64_t start_of(const struct rtask *t)
{
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		if (vdso_is_part(t->mm->vmas[i]))
			return t->mm->vmas[i]->start;
	return 0;
}

/* The old image's area, in a task whose vdso is not this kernel's; else NULL. */
static const VmaEntry *old_area(const struct restore *s, const struct rtask *t)
{
	const MmEntry *first = s->tasks.data[0]->mm;
	size_t size;
	const void *own = own_image(&size);

	if (!t->mm || !first || !first->has_vdso || (own && size == first->vdso.len && !memcmp(own, first->vdso.data, size)))
		return NULL;
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		if (t->mm->vmas[i]->status & VMA_VDSO)
			return t->mm->vmas[i];
	return NULL;
}

/* Between a task's own place for the vdso and the room beside the arena. */
static void plan_move(struct restore *s, struct batch *b, uint64_t from, uint64_t to)
{
	for (size_t i = 0; i < s->self.count; i++) {
		const struct proc_vma *v = &s->self.data[i];
		uint64_t size = v->end - v->start;
		if (!is_own_part(v))
			continue;
		OP(b, __NR_mremap, from ? from : v->start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to);
		from += from ? size : 0;
		to += size;
	}
}

void vdso_plan_aside(struct restore *s, struct batch *b, uint64_t room)
{
	plan_move(s, b, 0, room);
}

void vdso_plan_aside_of(struct restore *s, struct batch *b, const struct rtask *parent, uint64_t room)
{
	if (!old_area(s, parent)) /* there it has stayed in the room */
		plan_move(s, b, start_of(parent), room);
}

static const VmaEntry *next_part(const struct rtask *t, size_t *at)
{
	while (*at < t->mm->n_vmas && !vdso_is_part(t->mm->vmas[*at]))
		++*at;
	return *at < t->mm->n_vmas ? t->mm->vmas[(*at)++] : NULL;
}

bool vdso_is_parents(const struct restore *s, const struct rtask *t)
{
	const VmaEntry *own, *theirs;
	size_t i = 0, k = 0;

	if (old_area(s, t) || old_area(s, t->parent))
		return false;
	do {
		own = next_part(t, &i);
		theirs = next_part(t->parent, &k);
	} while (own && theirs && own->start == theirs->start && own->end == theirs->end);
	return !own && !theirs;
}

/* The sizes of all areas, and where in them the code stands. */
static uint64_t own_size(const struct restore *s, uint64_t *ret_code)
{
	uint64_t size = 0;

	*ret_code = 0;
	for (size_t i = 0; i < s->self.count; i++) {
		const struct proc_vma *v = &s->self.data[i];
		if (!is_own_part(v))
			continue;
		if (vma_status(v) & VMA_VDSO)
			*ret_code = size;
		size += v->end - v->start;
	}
	return size;
}

/* A descriptor of the old image, patched. */
static int make_old(struct restore *s, uint64_t now_at)
{
	const ProtobufCBinaryData *image = &s->tasks.data[0]->mm->vdso;
	size_t size;
	const void *own = own_image(&size);
	_cleanup_free_ unsigned char *patched = malloc(image->len + 1);

	if (s->vdso_fd)
		return s->vdso_fd;
	if (!patched)
		return error_set(s->e, -ENOMEM, "out of memory");
	memcpy(patched, image->data, image->len);
	int r = vdso_patch(patched, image->len, own, size, now_at, s->e);
	if (r)
		return r;
	int fd = memfd_create("vdso", MFD_CLOEXEC);
	fd = fd < 0 ? -errno : restore_hold(s, fd);
	if (fd < 0)
		return error_errno(s->e, fd, "cannot make room for the vdso of the dump");
	s->vdso_fd = fd;
	ssize_t n = write(fd, patched, image->len);
	return n == (ssize_t)image->len ? fd : error_errno(s->e, n < 0 ? -errno : -EIO, "cannot make room for the vdso of the dump");
}

static int plan_old(struct restore *s, struct rtask *t, const VmaEntry *v, uint64_t now_at)
{
	struct batch *b = &t->threads.data[0].batch;
	uint64_t size = v->end - v->start, length = s->tasks.data[0]->mm->vdso.len;

	if (length > size)
		return error_set(s->e, -EBADMSG, "the vdso of process %d is larger than its area", t->pid);
	int fd = make_old(s, now_at);
	if (fd < 0)
		return fd;
	batch_what(b, "place the vdso of the dump in process %d", t->pid);
	OP(b, __NR_mmap, v->start, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	struct agent_op *op = OP(b, __NR_pread64, fd, v->start, length, 0);
	op->flags = AGENT_OP_EXPECT;
	op->expect = (int64_t)length;
	OP(b, __NR_mprotect, v->start, size, PROT_READ | PROT_EXEC);
	return 0;
}

int vdso_plan(struct restore *s, struct rtask *t, uint64_t room, uint64_t room_size)
{
	uint64_t code, ours = own_size(s, &code), theirs = 0;
	const VmaEntry *old = old_area(s, t);

	for (size_t i = 0; i < t->mm->n_vmas; i++)
		if (vdso_is_part(t->mm->vmas[i]))
			theirs += t->mm->vmas[i]->end - t->mm->vmas[i]->start;
	if (!ours || ours > room_size)
		return error_set(s->e, -ENOTSUP, "this kernel gives processes no vdso, or too large a one; boot without vdso=0");
	if (old)
		return plan_old(s, t, old, room + code);
	if (ours != theirs || !s->tasks.data[0]->mm->has_vdso)
		return error_set(s->e, -ENOTSUP, "mm-%d.img does not hold the vdso of the kernel of the dump; dump again, with this version",
				 s->tasks.data[0]->pid);
	if (t->vdso_stays)
		return 0;
	struct batch *b = &t->threads.data[0].batch;
	batch_what(b, "place the vdso of process %d", t->pid);
	plan_move(s, b, room, start_of(t));
	return 0;
}

static bool has_restorer(const struct rtask *t, uint64_t address)
{
	const TaskCoreEntry *tc = t->core->tc;

	for (size_t i = 0; address && i < tc->n_sigactions; i++)
		if (tc->sigactions[i]->restorer == address)
			return true;
	return false;
}

/* The next signal frame from `at` on, within `end`: where the handler goes back to, by the address that a handler returns to. */
static bool find_frame(const struct rtask *t, uint64_t at, uint64_t end, uint64_t *ret_rip, uint64_t *ret_rsp)
{
	_cleanup_free_ uint64_t *words = malloc(SCAN_SIZE);

	for (at = ALIGN_UP(at, 8); words && at < end; at += SCAN_SIZE) {
		ssize_t n = pread(t->mem_fd, words, MIN(SCAN_SIZE, end - at), (off_t)at);
		for (ssize_t i = 0; i < n / 8; i++) {
			ucontext_t context;
			uint64_t frame = at + (uint64_t)i * 8 + 8;
			const size_t size = offsetof(ucontext_t, uc_mcontext) + sizeof(context.uc_mcontext);
			if (!has_restorer(t, words[i]) || pread(t->mem_fd, &context, size, (off_t)frame) != (ssize_t)size)
				continue;
			*ret_rip = (uint64_t)context.uc_mcontext.gregs[REG_RIP];
			*ret_rsp = (uint64_t)context.uc_mcontext.gregs[REG_RSP];
			return true;
		}
	}
	return false;
}

static uint64_t end_of_area(const struct rtask *t, uint64_t at)
{
	for (size_t i = 0; i < t->mm->n_vmas; i++)
		if (t->mm->vmas[i]->start <= at && at < t->mm->vmas[i]->end)
			return MIN(t->mm->vmas[i]->end, at + STACK_MAX);
	return 0;
}

static bool is_inside(const struct rtask *t, const struct rthread *th, const VmaEntry *v)
{
	uint64_t rip = th->tracee.regs.rip, at = th->tracee.regs.rsp;

	for (int frames = 0; frames < FRAMES_MAX; frames++) {
		if (rip >= v->start && rip < v->end)
			return true;
		if (!find_frame(t, at, end_of_area(t, at), &rip, &at))
			return false;
	}
	return false;
}

bool vdso_is_old(struct restore *s, const struct rtask *t)
{
	return old_area(s, t) != NULL;
}

int vdso_check_threads(struct restore *s, const struct rtask *t)
{
	const VmaEntry *v = old_area(s, t);

	for (size_t i = t->leader_gone; v && i < t->threads.count; i++)
		if (is_inside(t, &t->threads.data[i], v))
			return error_set(s->e, -ENOTSUP, "thread %d of process %d was inside the vdso when it was saved, and this kernel's vdso differs; "
					 "restore on the kernel of the dump, or dump again", t->threads.data[i].tid, t->pid);
	return 0;
}

void vdso_release(struct restore *s)
{
	if (s->vdso_fd > 0)
		close(s->vdso_fd);
}
