/* See fpu.h. Offsets of the extended states come from CPUID leaf 0xD, as ptrace's buffer has them. */
#include "engine/arch/x86_64/fpu.h"

#include <cpuid.h>

#define XSTATE_BV 512
#define XSTATE_END 576
#define MXCSR 24
#define MXCSR_INITIAL 0x1f80
#define MXCSR_MASK_USUAL 0xffbf /* where fxsave says 0 */
#define FPU_PLAIN 3ULL /* x87, SSE */
#define FPU_YMM (1ULL << 2)
#define FPU_KEYS 9
#define CPUID_OSXSAVE (1U << 27)

/* One row an extended state: its number and the image's array for it. */
struct component {
	int number;
	size_t element, n_offset, ptr_offset;
};
#define ROW(number, field, element) \
	{ number, element, offsetof(UserX86XsaveEntry, n_##field), offsetof(UserX86XsaveEntry, field) }
static const struct component components[] = {
	ROW(2, ymmh_space, 4), ROW(3, bndreg_state, 8), ROW(4, bndcsr_state, 8), ROW(5, opmask_reg, 8),
	ROW(6, zmm_upper, 8),  ROW(7, hi16_zmm, 8),	ROW(9, pkru, 4),
};

/* CPUID traps in a virtual machine, and is asked for each thread: what it says is kept. */
static void cpuid_xstate(unsigned int leaf, unsigned int *ret_a, unsigned int *ret_b)
{
	static struct {
		bool known;
		unsigned int a, b;
	} kept[10];
	unsigned int a = 0, b = 0, c, d;

	if (!kept[leaf].known) {
		if (!__get_cpuid_count(0xd, leaf, &a, &b, &c, &d))
			a = b = 0;
		kept[leaf].a = a;
		kept[leaf].b = b;
		kept[leaf].known = true;
	}
	*ret_a = kept[leaf].a;
	*ret_b = kept[leaf].b;
}

/* What the processor takes, and what new threads have of it; kept as well. */
struct processor_fpu {
	bool known;
	uint64_t states; /* XCR0; 0: there is no xsave */
	uint32_t mxcsr_mask, keys;
};

static const struct processor_fpu *processor_fpu(void)
{
	static struct processor_fpu kept;
	_Alignas(16) unsigned char legacy[512];
	unsigned int a, b, c = 0, d;

	if (kept.known)
		return &kept;
	asm volatile("fxsave64 %0" : "=m"(legacy));
	memcpy(&kept.mxcsr_mask, legacy + 28, sizeof(kept.mxcsr_mask));
	if (!kept.mxcsr_mask)
		kept.mxcsr_mask = MXCSR_MASK_USUAL;
	if (__get_cpuid(1, &a, &b, &c, &d) && c & CPUID_OSXSAVE) {
		asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
		kept.states = a | (uint64_t)d << 32;
	}
	if (kept.states >> FPU_KEYS & 1)
		asm volatile(".byte 0x0f, 0x01, 0xee" : "=a"(kept.keys), "=d"(d) : "c"(0)); /* rdpkru */
	kept.known = true;
	return &kept;
}

static uint64_t known_states(void)
{
	uint64_t known = FPU_PLAIN;

	for (size_t i = 0; i < ARRAY_SIZE(components); i++)
		known |= 1ULL << components[i].number;
	return known;
}

static bool component_place(int number, size_t *ret_offset, size_t *ret_size)
{
	unsigned int a, b;

	cpuid_xstate((unsigned int)number, &a, &b);
	*ret_size = a;
	*ret_offset = b;
	return a != 0;
}

int regs_to_image(const struct user_regs_struct *r, UserX86RegsEntry *i)
{
	*i = (UserX86RegsEntry){ .base = i->base, .r15 = r->r15, .r14 = r->r14, .r13 = r->r13, .r12 = r->r12, .bp = r->rbp,
				 .bx = r->rbx, .r11 = r->r11, .r10 = r->r10, .r9 = r->r9, .r8 = r->r8, .ax = r->rax,
				 .cx = r->rcx, .dx = r->rdx, .si = r->rsi, .di = r->rdi, .orig_ax = r->orig_rax,
				 .ip = r->rip, .cs = r->cs, .flags = r->eflags, .sp = r->rsp, .ss = r->ss,
				 .fs_base = r->fs_base, .gs_base = r->gs_base, .ds = r->ds, .es = r->es, .fs = r->fs,
				 .gs = r->gs };
	return 0;
}

void regs_from_image(const UserX86RegsEntry *i, struct user_regs_struct *r)
{
	*r = (struct user_regs_struct){ .r15 = i->r15, .r14 = i->r14, .r13 = i->r13, .r12 = i->r12, .rbp = i->bp, .rbx = i->bx,
					.r11 = i->r11, .r10 = i->r10, .r9 = i->r9, .r8 = i->r8, .rax = i->ax, .rcx = i->cx,
					.rdx = i->dx, .rsi = i->si, .rdi = i->di, .orig_rax = i->orig_ax, .rip = i->ip,
					.cs = i->cs, .eflags = i->flags, .rsp = i->sp, .ss = i->ss, .fs_base = i->fs_base,
					.gs_base = i->gs_base, .ds = i->ds, .es = i->es, .fs = i->fs, .gs = i->gs };
}

static int copy_words(struct pool *pool, const unsigned char *from, size_t bytes, size_t element, size_t *ret_n, void **ret)
{
	*ret = pool_copy(pool, from, bytes);
	if (!*ret)
		return -ENOMEM;
	*ret_n = bytes / element;
	return 0;
}

int fpu_to_image(const unsigned char *area, size_t size, struct pool *pool, UserX86FpregsEntry *f, UserX86XsaveEntry *x)
{
	const struct user_fpregs_struct *legacy = (const void *)area;
	int r;

	f->cwd = legacy->cwd;
	f->swd = legacy->swd;
	f->twd = legacy->ftw;
	f->fop = legacy->fop;
	f->rip = legacy->rip;
	f->rdp = legacy->rdp;
	f->mxcsr = legacy->mxcsr;
	f->mxcsr_mask = legacy->mxcr_mask;
	r = copy_words(pool, area + 32, 128, 4, &f->n_st_space, (void **)&f->st_space);
	if (!r)
		r = copy_words(pool, area + 160, 256, 4, &f->n_xmm_space, (void **)&f->xmm_space);
	if (!r)
		r = copy_words(pool, area + 416, 96, 4, &f->n_padding, (void **)&f->padding);
	if (r || size < 576)
		return r;
	memcpy(&x->xstate_bv, area + XSTATE_BV, 8);
	if (x->xstate_bv & ~known_states())
		return -ENOTSUP;
	for (size_t i = 0; !r && i < ARRAY_SIZE(components); i++) {
		const struct component *c = &components[i];
		size_t at, bytes;
		if (!component_place(c->number, &at, &bytes) || at + bytes > size)
			continue;
		r = copy_words(pool, area + at, bytes, c->element, (size_t *)((char *)x + c->n_offset),
			       (void **)((char *)x + c->ptr_offset));
	}
	f->xsave = x;
	return r;
}

int fpu_from_image(const UserX86FpregsEntry *f, unsigned char *area, size_t *ret_size)
{
	struct user_fpregs_struct *legacy = (void *)area;
	size_t size = XSTATE_END;

	if (f->n_st_space > 32 || f->n_xmm_space > 64)
		return -EBADMSG;
	memset(area, 0, XSAVE_MAX);
	legacy->cwd = (unsigned short)f->cwd;
	legacy->swd = (unsigned short)f->swd;
	legacy->ftw = (unsigned short)f->twd;
	legacy->fop = (unsigned short)f->fop;
	legacy->rip = f->rip;
	legacy->rdp = f->rdp;
	legacy->mxcsr = f->mxcsr;
	legacy->mxcr_mask = f->mxcsr_mask;
	if (f->n_st_space)
		memcpy(area + 32, f->st_space, f->n_st_space * 4);
	if (f->n_xmm_space)
		memcpy(area + 160, f->xmm_space, f->n_xmm_space * 4);
	uint64_t present = FPU_PLAIN;
	if (f->mxcsr & ~processor_fpu()->mxcsr_mask)
		return -EBADMSG;
	if (f->xsave) {
		present = f->xsave->xstate_bv;
		if (present & ~(known_states() & (processor_fpu()->states | FPU_PLAIN)))
			return -ENOTSUP;
		memcpy(area + XSTATE_BV, &present, 8);
		for (size_t i = 0; i < ARRAY_SIZE(components); i++) {
			const struct component *c = &components[i];
			size_t n = *(const size_t *)((const char *)f->xsave + c->n_offset);
			size_t at, bytes;
			if (!n)
				continue;
			if (!component_place(c->number, &at, &bytes)) {
				if (present & (1ULL << c->number))
					return -ENOTSUP;
				continue;
			}
			if (n * c->element != bytes || at + bytes > XSAVE_MAX)
				return -EBADMSG;
			memcpy(area + at, *(void *const *)((const char *)f->xsave + c->ptr_offset), bytes);
		}
	} else {
		memcpy(area + XSTATE_BV, &present, 8);
	}
	unsigned int a, b;
	cpuid_xstate(0, &a, &b);
	if (b > size && b <= XSAVE_MAX)
		size = b;
	*ret_size = size;
	return 0;
}

bool fpu_to_load(unsigned char *area, size_t *ret_size)
{
	const struct processor_fpu *p = processor_fpu();
	const uint32_t initial = MXCSR_INITIAL;
	uint32_t keys = 0;
	uint64_t present;
	size_t at, bytes, size = XSTATE_END;

	memcpy(&present, area + XSTATE_BV, sizeof(present));
	if (!p->states)
		return false;
	if (p->states >> FPU_KEYS & 1) {
		if (present >> FPU_KEYS & 1 && component_place(FPU_KEYS, &at, &bytes))
			memcpy(&keys, area + at, sizeof(keys));
		if (keys != p->keys)
			return false;
	}
	for (size_t i = 0; i < ARRAY_SIZE(components); i++)
		if (present >> components[i].number & 1 && component_place(components[i].number, &at, &bytes))
			size = MAX(size, at + bytes);
	/* The instruction takes it from there even where SSE is as it is at first. */
	if (!(present & (FPU_PLAIN & ~1ULL)) && !(present & FPU_YMM))
		memcpy(area + MXCSR, &initial, sizeof(initial));
	*ret_size = size;
	return true;
}
