/*
 * The pages of an address space, from their file: cut into pieces that the threads of the process share out. Small neighbours are one
 * preadv(2). Where there is much, the leader has helpers: threads of the process to be, which end before it goes on.
 *
 * A helper needs an id that nobody else is to have: one is looked for from the highest downwards. Where it is not to be had after all,
 * the others do its part.
 *
 * Who reads a piece takes its checksum as well, where the manifest has one of just these bytes, so that the verification need not read them once more. It is
 * compared when all have been read (fill_verify), and before anything runs.
 */
#include "engine/agent/blob.h"
#include "engine/arch/x86_64/processor.h"
#include "engine/foreign.h"
#include "engine/memory/feed.h"
#include "engine/memory/lazy.h"
#include "engine/memory/parents.h"
#include "engine/memory/restore.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>

#define PIECE_SIZE IMAGE_BLOCK /* what the manifest has a checksum of */
#define RANGES_MAX 1024 /* IOV_MAX */
#define HELPER_SHARE (8UL << 20)
#define HELPERS_MAX 7
#define STACK_SIZE 2048UL
#define THREAD_FLAGS (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

struct cutter {
	struct agent_range *ranges;
	struct agent_piece *pieces;
	size_t n_ranges, n_pieces, room;
	uint64_t offset, wanted; /* in the file; bytes of the ranges */
	uint64_t from;		 /* where the image begins in the file */
	bool open; /* the last piece may take more */
};

static void add_range(struct cutter *c, uint64_t address, uint64_t size)
{
	struct agent_piece *last = c->open ? &c->pieces[c->n_pieces - 1] : NULL;

	if (!last || last->count == RANGES_MAX || (c->offset - c->from) % PIECE_SIZE == 0) {
		last = &c->pieces[c->n_pieces++];
		*last = (struct agent_piece){ .ranges = (uint64_t)&c->ranges[c->n_ranges], .offset = c->offset };
		c->open = true;
	}
	c->ranges[c->n_ranges++] = (struct agent_range){ address, size };
	last->count++;
	last->size += size;
	c->offset += size;
	c->wanted += size;
}

static bool is_stored(const PagemapEntry *p)
{
	return pages_place(p) == PAGES_HERE && p->nr_pages;
}

/* Those of [start, end) that do not come later. */
static void cut_span(const struct rtask *t, uint64_t start, uint64_t end, struct cutter *c, size_t *vma)
{
	for (uint64_t at = start, next; at < end; at = next) {
		const uint64_t room = PIECE_SIZE - (c->offset - c->from) % PIECE_SIZE;
		bool later;
		next = MIN(at + room, lazy_stretch(t, at, end, vma, &later));
		if (!later) {
			add_range(c, at, next - at);
			continue;
		}
		c->offset += next - at;
		c->open = false;
	}
}

static void cut_entry(const struct rtask *t, const PagemapEntry *p, struct cutter *c, size_t *vma)
{
	const uint64_t end = p->vaddr + (uint64_t)p->nr_pages * PAGE_SIZE;

	if (!pages_are_passed_over(p)) {
		cut_span(t, p->vaddr, end, c, vma);
		return;
	}
	c->offset += end - p->vaddr;
	c->open = false;
}

static int make_room(struct restore *s, struct rtask *t, struct cutter *c)
{
	c->ranges = arena_take(&s->arena, c->room * sizeof(*c->ranges));
	c->pieces = arena_take(&s->arena, c->room * sizeof(*c->pieces));
	if (!c->ranges || !c->pieces)
		return error_set(s->e, -ENOMEM, "the memory of process %d is in too many parts", t->pid);
	return 0;
}

static int cut(struct restore *s, struct rtask *t, struct cutter *c)
{
	for (size_t i = 0; i < t->pages.count; i++)
		if (is_stored(t->pages.data[i]))
			c->room += (uint64_t)t->pages.data[i]->nr_pages * PAGE_SIZE / PIECE_SIZE + 2;
	c->room += t->lazy ? 2 * t->mm->n_vmas : 0;
	int r = make_room(s, t, c);
	for (size_t i = 0, v = 0; !r && i < t->pages.count; i++)
		if (is_stored(t->pages.data[i]))
			cut_entry(t, t->pages.data[i], c, &v);
	return r;
}

/* The same for what a parent checkpoint has: a file with more in it than is wanted. */
static int cut_source(struct restore *s, struct rtask *t, const struct page_source *source, struct cutter *c)
{
	size_t vma = 0;

	VEC_FOREACH(&source->spans, x)
		c->room += x->size / PIECE_SIZE + 2;
	c->room += t->lazy ? 2 * t->mm->n_vmas : 0;
	int r = make_room(s, t, c);
	VEC_FOREACH(&source->spans, x) {
		if (r)
			break;
		c->open &= c->offset == source->offset + x->offset;
		c->offset = source->offset + x->offset;
		cut_span(t, x->address, x->address + x->size, c, &vma);
	}
	return r;
}

/* 0: there is none. */
static pid_t choose_id(struct restore *s)
{
	_cleanup_free_ char *text = NULL;

	if (!s->next_helper) {
		if (read_file_at(AT_FDCWD, "/proc/sys/kernel/pid_max", 32, &text, NULL))
			return 0;
		s->next_helper = (pid_t)strtol(text, NULL, 10);
	}
	while (--s->next_helper > 300) /* RESERVED_PIDS of the kernel */
		if (kill(s->next_helper, 0) < 0 && errno == ESRCH && !restore_has_id(s, s->next_helper))
			return s->next_helper;
	return 0;
}

static size_t helpers_wanted(uint64_t size)
{
	cpu_set_t set;
	size_t processors = sched_getaffinity(0, sizeof(set), &set) == 0 ? (size_t)CPU_COUNT(&set) : 1;

	return MIN(MIN(processors - 1, HELPERS_MAX), size / HELPER_SHARE);
}

/* At a multiple of AGENT_DIGEST_ALIGN. */
static void *take_aligned(struct restore *s, size_t size)
{
	void *at = arena_take(&s->arena, size + AGENT_DIGEST_ALIGN);

	return at ? (void *)ALIGN_UP((uint64_t)at, AGENT_DIGEST_ALIGN) : NULL;
}

/* The code that computes checksums, once. 0: there is no room. */
static uint64_t digest_code(struct restore *s)
{
	const bool wide = processor_has_avx2();
	const size_t size = wide ? digest_avx2_blob_size : digest_blob_size;
	void *code = s->digest ? NULL : take_aligned(s, size);

	if (code) {
		memcpy(code, wide ? digest_avx2_blob : digest_blob, size);
		s->digest = (uint64_t)code;
	}
	return s->digest;
}

/* Of each piece that is a block of the manifest. */
static int plan_digests(struct restore *s, struct rtask *t, const struct cutter *c, struct agent_fill *fill)
{
	const uint64_t size = image_raw_size(t->stored);
	unsigned char *digests = arena_take(&s->arena, c->n_pieces * AGENT_DIGEST_SIZE);

	fill->digest = digest_code(s);
	if (!fill->digest || !digests)
		return error_set(s->e, -ENOMEM, "the memory of process %d is in too many parts", t->pid);
	for (size_t i = 0; i < c->n_pieces; i++) {
		struct agent_piece *p = &c->pieces[i];
		const uint64_t at = p->offset - c->from;
		if (at % IMAGE_BLOCK == 0 && (p->size == IMAGE_BLOCK || at + p->size == size))
			p->digest = (uint64_t)(digests + i * AGENT_DIGEST_SIZE);
	}
	return 0;
}

static int plan_fill(struct restore *s, struct batch *b, struct agent_fill *fill, int fd)
{
	void *state = fill->digest ? take_aligned(s, AGENT_DIGEST_STATE) : NULL;

	if (fill->digest && !state)
		return error_set(s->e, -ENOMEM, "out of memory");
	OP(b, AGENT_OP_FILL, (uint64_t)fill, fd, (uint64_t)state);
	return 0;
}

static int plan_helper(struct restore *s, struct rtask *t, struct agent_fill *fill, int fd, uint32_t *id)
{
	struct clone_args args = { .flags = THREAD_FLAGS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID, .parent_tid = (uint64_t)id,
				   .child_tid = (uint64_t)id, .set_tid_size = 1 };
	pid_t tid = choose_id(s);
	struct batch own = {};
	int r = tid ? plan_fill(s, &own, fill, fd) : 0;

	if (!tid || r)
		return r;
	OP(&own, AGENT_OP_EXIT);
	char *stack = arena_take(&s->arena, STACK_SIZE);
	args.set_tid = arena_place(&s->arena, &tid, sizeof(tid));
	r = batch_finish(&own, &s->arena, (uint64_t)s->status);
	if (!r && stack && args.set_tid)
		OP_MAY_FAIL(&t->threads.data[0].batch, AGENT_OP_FORK, arena_place(&s->arena, &args, sizeof(args)), sizeof(args),
			    (uint64_t)own.final, (uint64_t)stack + STACK_SIZE);
	batch_free(&own);
	return r || !stack || !args.set_tid ? error_set(s->e, -ENOMEM, "out of memory") : 0;
}

static int plan_time(struct restore *s, struct rtask *t, struct timespec **ret)
{
	*ret = arena_take(&s->arena, sizeof(**ret));
	if (!*ret)
		return error_set(s->e, -ENOMEM, "out of memory");
	OP(&t->threads.data[0].batch, __NR_clock_gettime, CLOCK_MONOTONIC, (uint64_t)*ret);
	return 0;
}

/* All pieces of one file, which is the task's own (`own`) or a parent checkpoint's. */
static int plan_pieces(struct restore *s, struct rtask *t, const struct cutter *c, int fd, bool own)
{
	struct batch *b = &t->threads.data[0].batch;
	const size_t helpers = helpers_wanted(c->wanted);
	struct agent_fill *fill = arena_take(&s->arena, sizeof(*fill));
	uint32_t *ids = arena_take(&s->arena, (helpers + 1) * sizeof(*ids));
	struct filling *filling = VEC_PUSH(&s->fillings);
	int r = 0;

	if (!fill || !ids || !filling)
		return error_set(s->e, -ENOMEM, "out of memory");
	*filling = (struct filling){ fill, c->wanted, c->from, own ? t->pages_name : NULL };
	s->pages_total += c->wanted;
	*fill = (struct agent_fill){ .count = (uint32_t)c->n_pieces, .pieces = (uint64_t)c->pieces };
	if (own && t->digests)
		r = plan_digests(s, t, c, fill);
	batch_what(b, "read the memory of process %d", t->pid);
	for (size_t i = 0; !r && i < helpers; i++)
		r = plan_helper(s, t, fill, fd, &ids[i]);
	if (!r)
		r = plan_fill(s, b, fill, fd);
	OP(b, AGENT_OP_FILLED, (uint64_t)fill, (uint64_t)ids, helpers);
	return r;
}

static int hold_pages(struct restore *s, struct rtask *t, struct image_raw *stored, uint64_t *ret_offset)
{
	int fd = fcntl(image_raw_fd(stored, ret_offset), F_DUPFD_CLOEXEC, 0);

	fd = fd < 0 ? -errno : restore_hold(s, fd);
	return fd < 0 ? error_errno(s->e, fd, "cannot hold the pages of process %d", t->pid) : fd;
}

static int plan_reading(struct restore *s, struct rtask *t)
{
	struct cutter c = {};

	t->pages_fd = hold_pages(s, t, t->stored, &c.offset);
	if (t->pages_fd < 0)
		return t->pages_fd;
	const uint64_t from = t->pages_offset = c.from = c.offset;
	int r = cut(s, t, &c);
	/* In an archive another file follows. */
	if (!r && c.offset - from > image_raw_size(t->stored))
		r = error_set(s->e, -EBADMSG, "cannot read the memory of process %d: the image has too few pages", t->pid);
	if (!r && c.n_pieces)
		r = plan_pieces(s, t, &c, t->pages_fd, true);
	image_raw_close(TAKE_PTR(t->stored));
	return r;
}

static int plan_source(struct restore *s, struct rtask *t, struct page_source *source)
{
	struct cutter c = {};

	source->fd = hold_pages(s, t, source->stored, &source->offset);
	if (source->fd < 0)
		return source->fd;
	c.from = c.offset = source->offset;
	int r = cut_source(s, t, source, &c);
	return r || !c.n_pieces ? r : plan_pieces(s, t, &c, source->fd, false);
}

int fill_plan(struct restore *s, struct rtask *t)
{
	struct memory_times *times = NULL;
	uint64_t offset;

	if (s->request->profile && !(times = VEC_PUSH(&s->memory_times)))
		return error_set(s->e, -ENOMEM, "out of memory");
	int r = times ? plan_time(s, t, &times->from) : 0;
	if (!r)
		r = image_raw_fd(t->stored, &offset) < 0 ? feed_plan(s, t) : plan_reading(s, t);
	VEC_FOREACH(&t->sources, source)
		if (!r)
			r = image_raw_fd(source->stored, &offset) < 0 ? feed_plan_source(s, t, source) : plan_source(s, t, source);
	return r || !times ? r : plan_time(s, t, &times->to);
}

/* Pages that parent checkpoints have are left to the verification's own threads: of these files only parts are read here. */
void fill_expect(struct restore *s)
{
	uint64_t offset;

	for (size_t i = 0; i < s->tasks.count; i++) {
		struct rtask *t = s->tasks.data[i];
		if (t->stored && t->pages_name && !t->lazy && image_raw_fd(t->stored, &offset) >= 0)
			t->digests = image_verification_expect(s->verification, t->pages_name);
	}
}

void fill_verify(struct restore *s)
{
	VEC_FOREACH(&s->fillings, f) {
		const struct agent_piece *pieces = (const struct agent_piece *)f->fill->pieces;
		for (size_t i = 0; i < f->fill->count; i++)
			if (pieces[i].digest)
				image_verification_note(s->verification, f->name, (pieces[i].offset - f->offset) / IMAGE_BLOCK,
							(const unsigned char *)pieces[i].digest);
	}
}
