/*
 * What each thread has: registers, name, robust futex list, rseq area, alternate signal stack, tid address, parent-death
 * signal, personality, small switches, dispatch of system calls. General registers go through ptrace(2), the rest through the agent.
 */
#include "engine/constants.h"
#include "engine/arch/x86_64/fpu.h"
#include "engine/kinds/kind.h"
#include "engine/task/calls.h"
#include "engine/task/state.h"

#include <asm/prctl.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define XSAVE_ALIGN 64

/* Switches of prctl(2) and arch_prctl(2) that a thread has: how they are read, how they are set, what a new thread has. The images refer to
 * them by their place. */
static const struct {
	int get[2], set[3];
	int usual;
	bool value_last; /* set[] has one more argument in front of the value */
	bool by_address, arch;
} switches[THREAD_SWITCHES] = {
	{ { PR_MCE_KILL_GET, 0 }, { PR_MCE_KILL, PR_MCE_KILL_SET, 0 }, PR_MCE_KILL_DEFAULT, true, false, false },
	{ { PR_GET_IO_FLUSHER, 0 }, { PR_SET_IO_FLUSHER, 0, 0 }, 0, false, false, false },
	{ { PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS }, { PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0 }, 0, true, false, false },
	{ { PR_GET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH }, { PR_SET_SPECULATION_CTRL, PR_SPEC_INDIRECT_BRANCH, 0 }, 0, true, false, false },
	{ { PR_GET_TSC, 0 }, { PR_SET_TSC, 0, 0 }, PR_TSC_ENABLE, false, true, false },
	{ { ARCH_GET_CPUID, 0 }, { ARCH_SET_CPUID, 0, 0 }, 1, false, false, true },
};

struct switch_question threads_switch(size_t i)
{
	return (struct switch_question){ switches[i].arch ? __NR_arch_prctl : __NR_prctl, { (uint64_t)switches[i].get[0], (uint64_t)switches[i].get[1] }, switches[i].by_address };
}

/* The value that sets a switch to what was read; -1: there is nothing to set. */
static int value_to_set(size_t i, int value)
{
	if (value < 0 || value == switches[i].usual)
		return -1;
	if (switches[i].get[0] != PR_GET_SPECULATION_CTRL)
		return value;
	/* Without PR_SPEC_PRCTL it is not the thread's to say; what it said is one of the others. */
	if (!(value & PR_SPEC_PRCTL))
		return -1;
	return value & (PR_SPEC_DISABLE | PR_SPEC_FORCE_DISABLE | (1 << 4));
}

static void plan_switches(struct rthread *th)
{
	const ThreadCoreEntry *c = th->core->thread_core;

	for (size_t i = 0; i < c->n_switches && i < THREAD_SWITCHES; i++) {
		int value = value_to_set(i, c->switches[i]);
		if (value <= 0 && !(switches[i].usual && value == 0))
			continue;
		batch_what(&th->batch, "set prctl switch %d of thread %d", switches[i].set[0], th->tid);
		if (switches[i].arch)
			OP(&th->batch, __NR_arch_prctl, switches[i].set[0], value);
		else if (switches[i].value_last)
			OP(&th->batch, __NR_prctl, switches[i].set[0], switches[i].set[1], value);
		else
			OP(&th->batch, __NR_prctl, switches[i].set[0], value);
	}
}

static int capture_registers(struct dump *d, struct thread *th, struct pool *pool, CoreEntry *core)
{
	static unsigned char area[XSAVE_MAX];
	struct iovec io = { area, sizeof(area) };
	struct user_regs_struct regs = th->tracee.regs;
	ThreadInfoX86 *info = POOL_NEW(pool, ThreadInfoX86, thread_info_x86__init);
	UserX86XsaveEntry *xsave = POOL_NEW(pool, UserX86XsaveEntry, user_x86_xsave_entry__init);

	if (!info || !xsave || !(info->gpregs = POOL_NEW(pool, UserX86RegsEntry, user_x86_regs_entry__init)) ||
	    !(info->fpregs = POOL_NEW(pool, UserX86FpregsEntry, user_x86_fpregs_entry__init)))
		return error_set(d->e, -ENOMEM, "out of memory");
	int r = calls_capture(d, th, pool, core->thread_core, &regs);
	if (r)
		return r;
	regs_to_image(&regs, info->gpregs);
	info->clear_tid_addr = th->answers.tid_address;
	if (ptrace(PTRACE_GETREGSET, th->tid, NT_X86_XSTATE, &io) < 0)
		return task_errno(d, th->task, -errno, "cannot read the FPU state of thread %d", th->tid);
	r = fpu_to_image(area, io.iov_len, pool, info->fpregs, xsave);
	if (r == -ENOTSUP)
		return task_error(d, th->task, r, "its thread %d has something in registers of the processor that are not saved (tiles of AMX); try again", th->tid);
	if (r)
		return task_errno(d, th->task, r, "cannot save the FPU state of thread %d", th->tid);
	core->thread_info = info;
	return 0;
}

int threads_capture(struct dump *d, struct thread *th, struct pool *pool, CoreEntry *core)
{
	ThreadCoreEntry *c = core->thread_core;
	uint64_t head = 0;
	size_t head_size = 0;

	c->comm = th->answers.comm;
	c->sas = POOL_NEW(pool, ThreadSasEntry, thread_sas_entry__init);
	if (!c->sas)
		return error_set(d->e, -ENOMEM, "out of memory");
	if (th->insight.task) {
		c->futex_rla = th->insight.robust_list;
		c->futex_rla_len = sizeof(struct robust_list_head);
	} else if (syscall(__NR_get_robust_list, th->tid, &head, &head_size) == 0) {
		c->futex_rla = head;
		c->futex_rla_len = (uint32_t)head_size;
	}
	c->has_pdeath_sig = th->answers.pdeath_sig != 0;
	c->pdeath_sig = th->answers.pdeath_sig;
	c->sas->ss_sp = (uint64_t)th->answers.altstack.ss_sp;
	c->sas->ss_size = th->answers.altstack.ss_size;
	c->sas->ss_flags = (uint32_t)th->answers.altstack.ss_flags & ~(uint32_t)SS_ONSTACK;
	if (th->rseq.rseq_abi_pointer) {
		c->rseq_entry = POOL_NEW(pool, RseqEntry, rseq_entry__init);
		if (!c->rseq_entry)
			return error_set(d->e, -ENOMEM, "out of memory");
		c->rseq_entry->rseq_abi_pointer = th->rseq.rseq_abi_pointer;
		c->rseq_entry->rseq_abi_size = th->rseq.rseq_abi_size;
		c->rseq_entry->signature = th->rseq.signature;
	}
	if (th->tracee.dispatch.mode) {
		c->syscall_dispatch = POOL_NEW(pool, SyscallDispatchEntry, syscall_dispatch_entry__init);
		if (!c->syscall_dispatch)
			return error_set(d->e, -ENOMEM, "out of memory");
		c->syscall_dispatch->mode = (uint32_t)th->tracee.dispatch.mode;
		c->syscall_dispatch->selector = th->tracee.dispatch.selector;
		c->syscall_dispatch->offset = th->tracee.dispatch.offset;
		c->syscall_dispatch->len = th->tracee.dispatch.len;
	}
	c->switches = pool_copy(pool, th->answers.switches, sizeof(th->answers.switches));
	c->n_switches = c->switches ? THREAD_SWITCHES : 0;
	c->has_own_fs = c->own_fs = th->own_fs;
	c->has_own_files = c->own_files = th->own_files;
	c->has_personality = 1;
	c->personality = th->answers.personality;
	return capture_registers(d, th, pool, core);
}

static const char *name_of(const struct rtask *t, const struct rthread *th)
{
	const char *own = th->core->thread_core->comm;

	return own ? own : t->core->tc->comm;
}

void threads_plan_name(struct restore *s, const struct rtask *t, const struct rthread *th, struct batch *b)
{
	const char *name = name_of(t, th);

	OP(b, __NR_prctl, PR_SET_NAME, arena_place(&s->arena, name, strlen(name) + 1));
}

int threads_plan_state(struct restore *s, struct rtask *t, struct rthread *th)
{
	const ThreadCoreEntry *c = th->core->thread_core;
	struct batch *b = &th->batch;
	const uint32_t personality = c->has_personality ? c->personality : t->core->tc->personality;
	const bool is_leader = th == &t->threads.data[0];

	plan_switches(th);
	batch_what(b, "set the state of thread %d", th->tid);
	if (personality != s->own.personality)
		OP(b, __NR_personality, personality);
	if (is_leader ? t->threads.count == 1 : strcmp(name_of(t, th), name_of(t, &t->threads.data[0])))
		threads_plan_name(s, t, th, b);
	if (c->futex_rla)
		OP(b, __NR_set_robust_list, c->futex_rla, c->futex_rla_len);
	/* A thread is born without one. */
	if (c->sas && (is_leader || !(c->sas->ss_flags & SS_DISABLE))) {
		stack_t alt = { .ss_sp = (void *)c->sas->ss_sp, .ss_flags = (int)c->sas->ss_flags & ~SS_ONSTACK, .ss_size = c->sas->ss_size };
		OP(b, __NR_sigaltstack, arena_place(&s->arena, &alt, sizeof(alt)), 0);
	}
	if (is_leader) /* others are born with it */
		OP(b, __NR_set_tid_address, th->core->thread_info->clear_tid_addr);
	int r = files_plan_thread(s, t, th);
	if (r)
		return r;
	if (c->rseq_entry)
		OP(b, __NR_rseq, c->rseq_entry->rseq_abi_pointer, c->rseq_entry->rseq_abi_size, 0, c->rseq_entry->signature);
	return 0;
}

static int lay_out_fpu(struct restore *s, const struct rthread *th, unsigned char area[XSAVE_MAX], size_t *ret_size)
{
	int r = fpu_from_image(th->core->thread_info->fpregs, area, ret_size);

	if (r == -ENOTSUP)
		return error_set(s->e, r, "thread %d uses registers that this processor lacks", th->tid);
	return r ? error_errno(s->e, r, "the FPU state of thread %d is damaged", th->tid) : 0;
}

int threads_plan_fpu(struct restore *s, struct rthread *th)
{
	_Alignas(64) unsigned char area[XSAVE_MAX];
	size_t size;
	int r = lay_out_fpu(s, th, area, &size);

	th->fpu_left = !r && !fpu_to_load(area, &size);
	if (r || th->fpu_left)
		return r;
	char *to = arena_take(&s->arena, size + XSAVE_ALIGN);
	if (!to)
		return error_set(s->e, -ENOMEM, "out of memory");
	to = (char *)ALIGN_UP((uint64_t)to, XSAVE_ALIGN);
	memcpy(to, area, size);
	batch_what(&th->batch, "load the FPU state of thread %d", th->tid);
	OP(&th->batch, AGENT_OP_FPU, (uint64_t)to);
	return 0;
}

static int set_fpu(struct restore *s, struct rthread *th)
{
	unsigned char area[XSAVE_MAX];
	struct iovec io = { area, 0 };
	int r = lay_out_fpu(s, th, area, &io.iov_len);

	if (!r && ptrace(PTRACE_SETREGSET, th->tid, NT_X86_XSTATE, &io) < 0)
		r = error_errno(s->e, -errno, "cannot set the FPU state of thread %d", th->tid);
	return r;
}

int threads_set_registers(struct restore *s, struct rthread *th)
{
	int r = th->fpu_left ? set_fpu(s, th) : 0;

	if (r)
		return r;
	regs_from_image(th->core->thread_info->gpregs, &th->tracee.regs);
	calls_note(th);
	th->tracee.sigmask = th->core->thread_core->has_blk_sigset ? th->core->thread_core->blk_sigset :
				    th->core->tc		   ? th->core->tc->blk_sigset :
								     0;
	return 0;
}

int threads_set_dispatch(struct restore *s, struct rthread *th)
{
	const SyscallDispatchEntry *c = th->core->thread_core->syscall_dispatch;

	if (!c)
		return 0;
	struct syscall_dispatch dispatch = { c->mode, c->selector, c->offset, c->len };
	int r = tracee_set_dispatch(&th->tracee, &dispatch);
	return r ? error_errno(s->e, r, "cannot set the dispatch of system calls of thread %d (Linux 6.4)", th->tid) : 0;
}
