/* See rest.h. */
#include "engine/plan/rest.h"

#include "engine/memory/vdso.h"
#include "engine/memory/vma.h"

#include <fcntl.h>
#include <sys/ptrace.h>

static int write_own(uint64_t address, const void *data)
{
	_cleanup_close_ int fd = open("/proc/self/mem", O_RDWR | O_CLOEXEC);

	return fd >= 0 && pwrite(fd, data, SNIPPET_REST_SIZE, (off_t)address) == SNIPPET_REST_SIZE ? 0 : -EIO;
}

void rest_place(struct restore *s)
{
	if (s->ns.seed) /* its memory is not ours */
		return;
	_cleanup_close_ int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	uint64_t slack = fd < 0 ? 0 : maps_find_slack(&s->self, fd), before = 0;

	if (!slack || pread(fd, s->rest.saved, sizeof(s->rest.saved), (off_t)slack) != sizeof(s->rest.saved) ||
	    write_own(slack, snippet_rest))
		return;
	for (size_t i = 0; i < s->self.count; i++) {
		const struct proc_vma *v = &s->self.data[i];
		if (slack >= v->start && slack < v->end)
			s->rest.offset = before + (slack - v->start);
		if (vma_status(v) & (VMA_VDSO | VMA_VVAR))
			before += v->end - v->start;
	}
	s->rest.own = slack;
}

void rest_remove(struct restore *s)
{
	if (s->rest.own)
		write_own(s->rest.own, s->rest.saved);
	s->rest.own = 0;
}

static uint64_t place_of(const struct restore *s, const struct rtask *t)
{
	for (size_t i = 0; i < t->mm->n_vmas && s->rest.offset; i++)
		if (t->mm->vmas[i]->status & (VMA_VDSO | VMA_VVAR))
			return t->mm->vmas[i]->start + s->rest.offset;
	return 0;
}

bool rest_plan(struct restore *s, struct rtask *t)
{
	uint64_t place = place_of(s, t);

	/* Seccomp may not allow the calls, others may be in the arena; an old vdso stands there as plain memory. */
	if (!place || s->seccomp || t->threads.count > 1 || t->vm_owner || t->vm_shared || vdso_is_old(s, t))
		return false;
	OP(&t->threads.data[0].batch, AGENT_OP_REST, place, (uint64_t)s->arena.start, s->arena.size);
	return t->rests = true;
}

int rest_wait(struct restore *s, struct rtask *t)
{
	struct tracee *tracee = &t->threads.data[0].tracee;
	uint64_t place = place_of(s, t);

	for (;;) {
		int r = tracee_wait_parked(tracee, s->e);
		if (r)
			return r;
		errno = 0;
		uint64_t at = (uint64_t)ptrace(PTRACE_PEEKUSER, tracee->tid, offsetof(struct user_regs_struct, rip), 0);
		if (errno)
			return error_errno(s->e, -errno, "cannot read the registers of thread %d", tracee->tid);
		if (at >= place + SNIPPET_REST_LOOP && at < place + SNIPPET_REST_SIZE)
			return 0;
		/* Not quite there yet. */
		r = tracee_pass_call(tracee);
		if (r)
			return error_errno(s->e, r, "cannot continue thread %d", tracee->tid);
	}
}

int rest_clean(struct restore *s, struct rtask *t)
{
	uint64_t place = place_of(s, t);

	for (size_t i = 0; place && i < SNIPPET_REST_SIZE / sizeof(long); i++)
		if (ptrace(PTRACE_POKEDATA, t->threads.data[t->leader_gone].tid, place + i * sizeof(long), s->rest.saved[i]) < 0)
			return error_errno(s->e, -errno, "cannot clean the vdso of process %d", t->pid);
	return 0;
}
