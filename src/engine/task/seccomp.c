/*
 * seccomp(2): the filters of each thread, read with PTRACE_SECCOMP_GET_FILTER (Linux 4.4, needs CAP_SYS_ADMIN). They stand in seccomp.img as CRIU
 * has them: a thread names its oldest, and `prev` leads from each to the next newer one. Threads with the same filters share a chain.
 *
 * On restore they are installed while a tracer with PTRACE_O_SUSPEND_SECCOMP keeps them from taking effect, before the
 * credentials, which may not allow it. Where all threads of a process have the same ones, the leader installs them for all, so that
 * they are one and the same to SECCOMP_FILTER_FLAG_TSYNC.
 */
#include "engine/task/state.h"
#include "seccomp.pb-c.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

#define FILTERS_MAX 1024

struct seccomp_table {
	SeccompEntry entry;
	VEC(SeccompFilter *) filters;
};

static int find_or_add(struct seccomp_table *table, const struct sock_filter *code, size_t bytes, int prev, uint32_t flags)
{
	for (size_t i = 0; i < table->filters.count; i++) {
		SeccompFilter *f = table->filters.data[i];
		if (f->filter.len == bytes && !memcmp(f->filter.data, code, bytes) && (f->has_prev ? (int)f->prev : -1) == prev &&
		    f->flags == flags)
			return (int)i;
	}
	SeccompFilter **slot = VEC_PUSH(&table->filters), *f = slot ? calloc(1, sizeof(*f)) : NULL;
	if (!f)
		return -ENOMEM;
	*slot = f;
	seccomp_filter__init(f);
	f->filter.data = malloc(bytes);
	if (!f->filter.data)
		return -ENOMEM;
	memcpy(f->filter.data, code, bytes);
	f->filter.len = bytes;
	f->has_prev = prev >= 0;
	f->prev = prev >= 0 ? (uint32_t)prev : 0;
	f->has_flags = flags != 0;
	f->flags = flags;
	return (int)table->filters.count - 1;
}

/* Who is asked would not be found again. */
static bool asks_others(const struct sock_filter *code, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (code[i].code == (BPF_RET | BPF_K) && (code[i].k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF)
			return true;
	return false;
}

int seccomp_capture(struct dump *d, struct thread *th, ThreadCoreEntry *core)
{
	static struct sock_filter code[BPF_MAXINSNS];
	const uint64_t mode = thread_status(th)->seccomp;
	int count = 0, last = -1;

	core->has_seccomp_mode = mode != 0;
	core->seccomp_mode = (SeccompMode)mode;
	if (mode != SECCOMP_MODE_FILTER)
		return 0;
	if (!d->seccomp)
		d->seccomp = calloc(1, sizeof(*d->seccomp));
	if (!d->seccomp)
		return error_set(d->e, -ENOMEM, "out of memory");
	while (count < FILTERS_MAX && ptrace(PTRACE_SECCOMP_GET_FILTER, th->tid, count, NULL) > 0)
		count++;
	if (!count)
		return task_errno(d, th->task, -errno, "cannot read its seccomp filters (needs CAP_SYS_ADMIN)");
	for (int i = count - 1; i >= 0; i--) { /* 0 is the oldest, whatever ptrace(2) says */
		struct __ptrace_seccomp_metadata meta = { .filter_off = (uint64_t)i };
		long n = ptrace(PTRACE_SECCOMP_GET_FILTER, th->tid, i, code);
		if (n <= 0)
			return task_errno(d, th->task, -errno, "cannot read its seccomp filters");
		if (asks_others(code, (size_t)n))
			return task_error(d, th->task, -ENOTSUP, "its thread %d has a seccomp filter that asks another process (SECCOMP_RET_USER_NOTIF), which is not "
					  "saved; start it without", th->tid);
		if (ptrace(PTRACE_SECCOMP_GET_METADATA, th->tid, sizeof(meta), &meta) < 0)
			meta.flags = 0;
		last = find_or_add(d->seccomp, code, (size_t)n * sizeof(*code), last, (uint32_t)meta.flags);
		if (last < 0)
			return error_set(d->e, last, "out of memory");
	}
	core->has_seccomp_filter = 1;
	core->seccomp_filter = (uint32_t)last;
	return 0;
}

int seccomp_finish(struct dump *d, bool success)
{
	struct seccomp_table *table = d->seccomp;
	int r = 0;

	if (!table)
		return 0;
	seccomp_entry__init(&table->entry);
	table->entry.seccomp_filters = table->filters.data;
	table->entry.n_seccomp_filters = table->filters.count;
	if (success)
		r = dump_write_one(d, "seccomp.img", IMAGE_MAGIC_SECCOMP, &table->entry.base);
	for (size_t i = 0; i < table->filters.count; i++) {
		free(table->filters.data[i]->filter.data);
		free(table->filters.data[i]);
	}
	VEC_FREE(&table->filters);
	free(table);
	d->seccomp = NULL;
	return r;
}

int seccomp_load(struct restore *s)
{
	for (size_t i = 0; i < s->tasks.count; i++)
		for (size_t k = 0; k < s->tasks.data[i]->threads.count && !s->tasks.data[i]->dead; k++)
			s->seccomp |= s->tasks.data[i]->threads.data[k].core->thread_core->seccomp_mode != 0;
	struct image_file *file;
	int r = s->seccomp ? image_open(s->dir, "seccomp.img", IMAGE_MAGIC_SECCOMP, &file) : -ENOENT;
	if (r == -ENOENT)
		return 0; /* strict mode alone has none */
	if (!r) {
		r = image_read_message(file, &seccomp_entry__descriptor, (ProtobufCMessage **)&s->seccomp_image);
		image_close(file);
		r = r == 1 ? 0 : r ? r : -EBADMSG;
	}
	return r ? error_errno(s->e, r, "cannot read seccomp.img") : 0;
}

static int plan_chain(struct restore *s, struct rthread *th, uint32_t last, uint32_t flags)
{
	const SeccompEntry *image = s->seccomp_image;
	uint32_t chain[FILTERS_MAX], depth = 0;

	for (uint32_t i = last;;) {
		if (!image || i >= image->n_seccomp_filters || depth == FILTERS_MAX || image->seccomp_filters[i]->filter.len % 8)
			return error_set(s->e, -EBADMSG, "seccomp.img lacks a filter of thread %d, or is damaged", th->tid);
		chain[depth++] = i;
		if (!image->seccomp_filters[i]->has_prev)
			break;
		i = image->seccomp_filters[i]->prev;
	}
	for (uint32_t i = 0; i < depth; i++) {
		const SeccompFilter *f = image->seccomp_filters[chain[i]];
		struct sock_fprog program = { (unsigned short)(f->filter.len / 8),
					      (void *)arena_place(&s->arena, f->filter.data, f->filter.len) };
		OP(&th->batch, __NR_seccomp, SECCOMP_SET_MODE_FILTER, flags | (f->flags & SECCOMP_FILTER_FLAG_LOG),
		   arena_place(&s->arena, &program, sizeof(program)));
	}
	return 0;
}

static bool same_for_all(const struct rtask *t)
{
	const ThreadCoreEntry *first = t->threads.data[0].core->thread_core;

	for (size_t i = 1; i < t->threads.count; i++) {
		const ThreadCoreEntry *c = t->threads.data[i].core->thread_core;
		if (c->seccomp_mode != first->seccomp_mode || c->seccomp_filter != first->seccomp_filter)
			return false;
	}
	return true;
}

int seccomp_plan(struct restore *s, struct rtask *t, struct rthread *th)
{
	const ThreadCoreEntry *c = th->core->thread_core;

	if (c->seccomp_mode != SECCOMP_MODE__filter)
		return 0;
	bool for_all = same_for_all(t);
	batch_what(&th->batch, "install the seccomp filters of thread %d", th->tid);
	if (!for_all || th->tid == t->pid)
		return plan_chain(s, th, c->seccomp_filter, for_all ? SECCOMP_FILTER_FLAG_TSYNC : 0);
	return 0;
}

int seccomp_plan_strict(struct restore *s, struct rthread *th)
{
	if (th->core->thread_core->seccomp_mode == SECCOMP_MODE__strict) {
		batch_what(&th->batch, "enter strict seccomp mode in thread %d", th->tid);
		OP(&th->batch, __NR_prctl, PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	}
	return 0;
}

void seccomp_release(struct restore *s)
{
	if (s->seccomp_image)
		seccomp_entry__free_unpacked(s->seccomp_image, NULL);
}
