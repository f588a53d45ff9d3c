/*
 * The agent: an interpreter of system calls, see batch.h. Freestanding and position independent; compiled to
 * general registers only, so that a target's floating point state is never touched by it.
 */
#include "batch.h"

#include <asm/unistd.h>

#define CAPS_VERSION 0x20080522 /* capget(2) */
#define PR_CAPBSET_READ 23
#define PR_CAP_AMBIENT 47
#define PR_CAP_AMBIENT_IS_SET 1
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define EINTR 4
#define EIO 5
#define MADV_POPULATE_WRITE 23
#define STEP (256UL << 10)
#define POPULATE_MIN (16UL << 10)
#define INSIDE_NS 5000000L
#define LEAVING_NS 500000000L /* longer than a thread that can run waits for a processor, on a busy machine too */
#define NEVER_PARKED 0x7fffffff
#define FUTEX_OWNER_DIED 0x40000000
#define LOOK_NS 50000000L
#define PKRU (1U << 9)

static inline long call(long nr, long a, long b, long c, long d, long e, long f)
{
	long r;
	register long r10 asm("r10") = d;
	register long r8 asm("r8") = e;
	register long r9 asm("r9") = f;

	asm volatile("syscall"
		     : "=a"(r)
		     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return r;
}

void agent_run(struct agent_batch *batch);

/* clone3 returns twice; the child has a stack of its own and must not return through this frame. */
static long spawn(const struct agent_op *op)
{
	long r;

	asm volatile("syscall\n\t"
		     "test %%rax, %%rax\n\t"
		     "jnz 1f\n\t"
		     "mov %[batch], %%rdi\n\t"
		     "mov %[stack], %%rsp\n\t"
		     "xor %%ebp, %%ebp\n\t"
		     "call agent_run\n\t"
		     "ud2\n"
		     "1:"
		     : "=a"(r)
		     : "a"((long)__NR_clone3), "D"(op->arg[0]), "S"(op->arg[1]), [batch] "r"(op->arg[2]),
		       [stack] "r"(op->arg[3])
		     : "rcx", "r11", "memory");
	return r;
}

static void notify(struct agent_status *status)
{
	__atomic_add_fetch(&status->change, 1, __ATOMIC_SEQ_CST);
	call(__NR_futex, (long)&status->change, FUTEX_WAKE, 0x7fffffff, 0, 0, 0);
}

static void wait_for(uint32_t *word, uint32_t least)
{
	uint32_t now;

	while ((now = __atomic_load_n(word, __ATOMIC_SEQ_CST)) < least)
		call(__NR_futex, (long)word, FUTEX_WAIT, now, 0, 0, 0);
}

/* For as long as the coordinator lives: nobody else would end this process, which may not have a tracer, nor a living parent. */
static void wait_owned(const struct agent_status *status, uint32_t *word, uint32_t least)
{
	const uint32_t *owner = status ? (const uint32_t *)status->owner : 0;
	const long look[2] = { 0, LOOK_NS };
	uint32_t now;

	while ((now = __atomic_load_n(word, __ATOMIC_SEQ_CST)) < least) {
		if (owner && __atomic_load_n(owner, __ATOMIC_SEQ_CST) & FUTEX_OWNER_DIED)
			call(__NR_exit_group, 1, 0, 0, 0, 0, 0);
		call(__NR_futex, (long)word, FUTEX_WAIT, now, owner ? (long)look : 0, 0, 0);
	}
}

static void count_in(struct agent_status *status)
{
	if (__atomic_add_fetch(&status->parked, 1, __ATOMIC_SEQ_CST) >= status->threads)
		notify(status);
}

static _Noreturn void rest(struct agent_status *status, const uint64_t *arg)
{
	count_in(status);
	asm volatile("jmp *%[code]" : : [code] "r"(arg[0]), "D"(arg[1]), "S"(arg[2]) : "memory");
	__builtin_unreachable();
}

static _Noreturn void park(struct agent_status *status)
{
	count_in(status);
	for (;;)
		wait_for(&status->go, NEVER_PARKED);
}

static void populate(uint64_t address, uint64_t size)
{
	if (size >= POPULATE_MIN)
		call(__NR_madvise, (long)address, (long)size, MADV_POPULATE_WRITE, 0, 0, 0);
}

/* What reads a piece: `digest` is NULL where none is wanted. */
struct reading {
	int fd;
	agent_digest_call *digest;
	void *state;
};

static void note(const struct reading *r, uint64_t address, uint64_t size)
{
	if (r->digest)
		r->digest(r->state, (const void *)address, size, 0);
}

/* In steps whose pages are made at once and not by a fault each (Linux 5.14; they are the same without), and are still in the
 * processor's cache when they are filled, and when their checksum is taken. */
static long read_range(const struct reading *r, uint64_t address, uint64_t size, uint64_t offset)
{
	uint64_t done = 0, made = 0;

	while (done < size) {
		uint64_t step = size - done < STEP ? size - done : STEP;
		if (done >= made) {
			populate(address + done, step);
			made = done + step;
		}
		long n = call(__NR_pread64, r->fd, (long)(address + done), (long)step, (long)(offset + done), 0, 0);
		if (n == -EINTR)
			continue;
		if (n <= 0)
			return n ? n : -EIO;
		note(r, address + done, (uint64_t)n);
		done += (uint64_t)n;
	}
	return 0;
}

/* Small ones, by one call. Not 0: some of it, or nothing, was read. */
static int read_ranges(const struct reading *r, const struct agent_range *ranges, uint64_t count, uint64_t size, uint64_t offset)
{
	for (uint64_t i = 0; i < count; i++)
		populate(ranges[i].address, ranges[i].size);
	if (call(__NR_preadv, r->fd, (long)ranges, (long)count, (long)offset, 0, 0) != (long)size)
		return 1;
	for (uint64_t i = 0; i < count; i++)
		note(r, ranges[i].address, ranges[i].size);
	return 0;
}

static long read_piece(const struct reading *reading, const struct agent_piece *piece)
{
	const struct agent_range *ranges = (const struct agent_range *)piece->ranges;
	uint64_t offset = piece->offset, next;
	long r = 0;

	for (uint64_t i = 0; !r && i < piece->count; i = next) {
		uint64_t size = ranges[i].size;
		for (next = i + 1; next < piece->count && size + ranges[next].size <= STEP; next++)
			size += ranges[next].size;
		if (next == i + 1 || read_ranges(reading, &ranges[i], next - i, size, offset)) {
			size = ranges[i].size;
			next = i + 1;
			r = read_range(reading, ranges[i].address, size, offset);
		}
		offset += size;
	}
	return r;
}

static void fill(struct agent_fill *f, int fd, void *state)
{
	const struct agent_piece *pieces = (const struct agent_piece *)f->pieces;
	struct reading reading = { .fd = fd, .state = state };
	uint32_t i;

	while ((i = __atomic_fetch_add(&f->next, 1, __ATOMIC_SEQ_CST)) < f->count) {
		reading.digest = pieces[i].digest ? (agent_digest_call *)f->digest : 0;
		if (reading.digest)
			reading.digest(state, 0, 0, 0);
		long r = read_piece(&reading, &pieces[i]);
		if (r)
			__atomic_store_n(&f->error, r, __ATOMIC_SEQ_CST);
		else if (reading.digest)
			reading.digest(state, 0, 0, (unsigned char *)pieces[i].digest);
	}
}

/* The kernel clears an id when its thread ends (CLONE_CHILD_CLEARTID). */
static void wait_for_end(uint32_t *ids, uint64_t count)
{
	uint32_t now;

	for (uint64_t i = 0; i < count; i++)
		while ((now = __atomic_load_n(&ids[i], __ATOMIC_SEQ_CST)))
			call(__NR_futex, (long)&ids[i], FUTEX_WAIT, now, 0, 0, 0);
}

static long read_caps(struct agent_caps *to)
{
	uint32_t head[2] = { CAPS_VERSION, 0 }, sets[2][3];
	long r = call(__NR_capget, (long)head, (long)sets, 0, 0, 0, 0);

	to->effective = sets[0][0] | (uint64_t)sets[1][0] << 32;
	to->permitted = sets[0][1] | (uint64_t)sets[1][1] << 32;
	to->inheritable = sets[0][2] | (uint64_t)sets[1][2] << 32;
	to->bounding = to->ambient = 0;
	for (long cap = 0; cap < 64; cap++) {
		long has = call(__NR_prctl, PR_CAPBSET_READ, cap, 0, 0, 0, 0);
		if (has < 0)
			break;
		to->bounding |= (uint64_t)has << cap;
		/* What is ambient is inheritable too. */
		if (to->inheritable >> cap & 1 && call(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0, 0) > 0)
			to->ambient |= 1UL << cap;
	}
	return r;
}

static long run_op(struct agent_batch *batch, struct agent_op *op)
{
	uint64_t arg[6];

	for (int i = 0; i < 6; i++)
		arg[i] = op->flags & (1u << i) ? (uint64_t)agent_batch_ops(batch)[op->arg[i]].result : op->arg[i];
	switch (op->nr) {
	case AGENT_OP_FORK:
		return spawn(op);
	case AGENT_OP_PARK:
		park((struct agent_status *)batch->status);
	case AGENT_OP_REST:
		rest((struct agent_status *)batch->status, arg);
	case AGENT_OP_AWAIT:
		wait_owned((const struct agent_status *)batch->status, (uint32_t *)arg[0], (uint32_t)arg[1]);
		return 0;
	case AGENT_OP_FILL:
		fill((struct agent_fill *)arg[0], (int)arg[1], (void *)arg[2]);
		return 0;
	case AGENT_OP_FILLED:
		wait_for_end((uint32_t *)arg[1], arg[2]);
		return __atomic_load_n(&((struct agent_fill *)arg[0])->error, __ATOMIC_SEQ_CST);
	case AGENT_OP_FPU:
		asm volatile("xrstor64 (%0)" : : "r"(arg[0]), "a"(~PKRU), "d"(~0U) : "memory");
		return 0;
	case AGENT_OP_EXIT:
		call(__NR_exit, 0, 0, 0, 0, 0, 0);
		return 0;
	case AGENT_OP_ARRIVE:
		if (__atomic_add_fetch((uint32_t *)arg[0], 1, __ATOMIC_SEQ_CST) >= (uint32_t)arg[1])
			call(__NR_futex, (long)arg[0], FUTEX_WAKE, 0x7fffffff, 0, 0, 0);
		return 0;
	case AGENT_OP_ZERO:
		for (volatile char *p = (char *)arg[0], *end = p + arg[1]; p < end; p++)
			*p = 0;
		return 0;
	case AGENT_OP_LOAD:
		return (long)*(volatile uint64_t *)arg[0];
	case AGENT_OP_STORE:
		*(volatile uint32_t *)arg[0] = (uint32_t)arg[1];
		return 0;
	case AGENT_OP_ADD:
		__atomic_add_fetch((uint32_t *)(arg[0] + arg[2]), (uint32_t)arg[1], __ATOMIC_SEQ_CST);
		return 0;
	case AGENT_OP_REPEAT: /* counts in its own result */
		return op->result + 1;
	case AGENT_OP_ACTIONS:
		for (long sig = 1; sig <= AGENT_SIGNALS; sig++)
			call(__NR_rt_sigaction, sig, 0, (long)arg[0] + (sig - 1) * 32, 8, 0, 0);
		return 0;
	case AGENT_OP_CAPS:
		return read_caps((struct agent_caps *)arg[0]);
	default:
		return call(op->nr, (long)arg[0], (long)arg[1], (long)arg[2], (long)arg[3], (long)arg[4], (long)arg[5]);
	}
}

static int op_failed(const struct agent_op *op)
{
	if (op->flags & AGENT_OP_MAY_FAIL)
		return 0;
	if (op->flags & AGENT_OP_EXPECT)
		return op->result != op->expect;
	return op->result < 0 && op->result > -4096;
}

static void fail(struct agent_batch *batch, uint32_t index)
{
	struct agent_status *status = (struct agent_status *)batch->status;

	batch->failed = (int32_t)index;
	if (!status)
		return;
	if (!__atomic_exchange_n(&status->failed, 1, __ATOMIC_SEQ_CST))
		status->failed_batch = (uint64_t)batch;
	notify(status);
	for (;;)
		wait_owned(status, &status->go, NEVER_PARKED);
}

/* A futex wait: it leaves the thread's restart block alone, which a sleep would not. */
static void pause_for(long ns)
{
	long time[2] = { 0, ns };
	uint32_t word = 0;

	call(__NR_futex, (long)&word, FUTEX_WAIT, 0, (long)time, 0, 0);
}

static int someone_inside(const struct agent_linger *linger)
{
	for (uint32_t i = 0; i < linger->threads; i++) {
		const struct agent_batch *b = (const void *)(linger->slots + (uint64_t)linger->slot_size * i);
		if (__atomic_load_n(&b->inside, __ATOMIC_SEQ_CST))
			return 1;
	}
	return 0;
}

/* Only when the coordinator is gone: threads leave the area on their own, the leader after all of them. */
static void leave(struct agent_batch *batch)
{
	const struct agent_linger *linger = (const struct agent_linger *)batch->linger;

	if (batch->number) {
		call(__NR_sched_yield, 0, 0, 0, 0, 0, 0); /* a fresh time slice for the few instructions that follow */
		__atomic_store_n(&batch->inside, 0, __ATOMIC_SEQ_CST);
		return;
	}
	if (!linger->threads)
		return;
	/* One that has said that it leaves may still have its last instructions to go, and one that was sent in may not have begun:
	 * both wait for a processor only. */
	do {
		while (someone_inside(linger))
			pause_for(INSIDE_NS);
		pause_for(LEAVING_NS);
	} while (someone_inside(linger));
}

/* Runs the batch. Returns to entry.S on dump; on restore the last operation parks and never returns. */
void agent_run(struct agent_batch *batch)
{
	if (batch->linger && batch->number)
		__atomic_store_n(&batch->inside, 1, __ATOMIC_SEQ_CST);
	batch->failed = -1;
	for (uint32_t i = 0; i < batch->count; i++) {
		struct agent_op *op = &agent_batch_ops(batch)[i];

		op->result = run_op(batch, op);
		batch->done = i + 1;
		if (op_failed(op)) {
			fail(batch, i);
			break;
		}
		if (op->nr == AGENT_OP_REPEAT && (uint64_t)op->result < op->arg[1])
			i -= (uint32_t)op->arg[0] + 1;
	}
	if (batch->linger)
		leave(batch);
}
