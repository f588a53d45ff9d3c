/* See snippet.h. */
#include "engine/arch/x86_64/snippet.h"

#include <asm/unistd.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif
#define ERESTARTSYS 512
#define ERESTARTNOINTR 513
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

const unsigned char snippet_rest[SNIPPET_REST_SIZE] = {
	0xb8, __NR_munmap, 0, 0, 0, 0x0f, 0x05, /* mov $__NR_munmap, %eax; syscall */
	0xb8, __NR_pause,  0, 0, 0, 0x0f, 0x05, /* 1: mov $__NR_pause, %eax; syscall */
	0xeb, 0xf7,				/* jmp 1b */
};

static void emit(struct snippet *s, const void *bytes, size_t size)
{
	memcpy(s->code + s->size, bytes, size);
	s->size += size;
}

/* mov $imm64, %reg: leaves the flags alone. */
static void emit_mov(struct snippet *s, int reg, uint64_t value)
{
	unsigned char op[2] = { (unsigned char)(reg >= R8 ? 0x49 : 0x48), (unsigned char)(0xb8 + (reg & 7)) };

	emit(s, op, 2);
	emit(s, &value, 8);
}

static void emit_syscall(struct snippet *s, long nr)
{
	emit_mov(s, RAX, (uint64_t)nr);
	emit(s, "\x0f\x05", 2);
}

/* The kernel would restart it: -ERESTART… becomes the call again. */
static void restart_call(struct user_regs_struct *regs)
{
	if ((long long)regs->orig_rax < 0)
		return;
	switch (-(long long)regs->rax) {
	case ERESTART_RESTARTBLOCK:
		regs->rax = __NR_restart_syscall;
		regs->rip -= 2;
		break;
	case ERESTARTSYS:
	case ERESTARTNOINTR:
	case ERESTARTNOHAND:
		regs->rax = regs->orig_rax;
		regs->rip -= 2;
		break;
	default:
		break;
	}
	regs->orig_rax = (unsigned long long)-1;
}

static void emit_context(struct snippet *s, uint64_t address, const struct user_regs_struct *regs, const struct syscall_dispatch *dispatch)
{
	/* The flags and the stack before the mask: from there on signals are delivered, to handlers that push frames. System calls
	 * and mov leave the flags alone. */
	emit_mov(s, RSP, address + 8);
	emit(s, "\x9d", 1); /* popfq */
	emit_mov(s, RSP, regs->rsp);
	emit_mov(s, RDI, SIG_SETMASK);
	emit_mov(s, RSI, address + s->mask);
	emit_mov(s, RDX, 0);
	emit_mov(s, R10, 8);
	emit_syscall(s, __NR_rt_sigprocmask);
	if (dispatch->mode) {
		emit_mov(s, RDI, PR_SET_SYSCALL_USER_DISPATCH);
		emit_mov(s, RSI, dispatch->mode);
		emit_mov(s, RDX, dispatch->offset);
		emit_mov(s, R10, dispatch->len);
		emit_mov(s, R8, dispatch->selector);
		emit_syscall(s, __NR_prctl);
	}
	const unsigned long long values[16] = { regs->rax, regs->rcx, regs->rdx, regs->rbx, regs->rsp, regs->rbp, regs->rsi, regs->rdi,
						regs->r8,  regs->r9,  regs->r10, regs->r11, regs->r12, regs->r13, regs->r14, regs->r15 };
	for (int i = 0; i < 16; i++)
		emit_mov(s, i, values[i]);
	int32_t back = (int32_t)(16 - (long)(s->size + 6));
	emit(s, "\xff\x25", 2); /* jmp *rip_of_the_thread(%rip) */
	emit(s, &back, 4);
}

static struct user_regs_struct begin(struct snippet *s, const struct user_regs_struct *original, uint64_t mask)
{
	struct user_regs_struct regs = *original;

	restart_call(&regs);
	memset(s, 0, sizeof(*s));
	emit(s, &mask, 8);
	uint64_t flags = regs.eflags;
	emit(s, &flags, 8);
	uint64_t rip = regs.rip;
	emit(s, &rip, 8);
	return regs;
}

static void emit_mmap(struct snippet *s, uint64_t at, size_t size, int prot)
{
	emit_mov(s, RDI, at);
	emit_mov(s, RSI, size);
	emit_mov(s, RDX, (uint64_t)prot);
	emit_mov(s, R10, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE);
	emit_mov(s, R8, (uint64_t)-1);
	emit_mov(s, R9, 0);
	emit_syscall(s, __NR_mmap);
}

/* Gives where the thread goes on, or 0. */
static size_t emit_signal(struct snippet *s, const struct snippet_signal *signal)
{
	if (!signal->signal)
		return 0;
	emit_mov(s, RDI, (uint64_t)signal->pid);
	emit_mov(s, RSI, (uint64_t)signal->tid);
	emit_mov(s, RDX, (uint64_t)signal->signal);
	emit_syscall(s, __NR_tgkill);
	return s->size;
}

void snippet_build(struct snippet *s, uint64_t address, const struct user_regs_struct *original, uint64_t mask,
		   const struct syscall_dispatch *dispatch, uint64_t area, size_t area_size, size_t code_size,
		   const struct snippet_signal *signal)
{
	struct user_regs_struct regs = begin(s, original, mask);

	emit_mmap(s, area, code_size, PROT_READ | PROT_EXEC);
	emit_mmap(s, area + code_size, area_size - code_size, PROT_READ | PROT_WRITE);
	s->after_head = emit_signal(s, signal);
	s->tail = s->size;
	emit_mov(s, RDI, area);
	emit_mov(s, RSI, area_size);
	emit_syscall(s, __NR_munmap);
	s->after_munmap = emit_signal(s, signal);
	emit_context(s, address, &regs, dispatch);
}

void snippet_build_thread(struct snippet *s, uint64_t address, const struct user_regs_struct *original, uint64_t mask,
			  const struct syscall_dispatch *dispatch)
{
	struct user_regs_struct regs = begin(s, original, mask);

	s->tail = s->size;
	emit_context(s, address, &regs, dispatch);
}
