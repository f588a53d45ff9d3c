/*
 * What only a process itself can tell: one batch in its leader, one in each other thread, all running at the same time. Who has told all already,
 * in the kernel's own memory (insight.h), is not asked.
 */
#include "engine/constants.h"
#include "engine/kinds/uring.h"
#include "engine/memory/aio.h"
#include "engine/task/task.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define MEMBARRIER_GET_REGISTRATIONS (1 << 9) /* Linux 6.3 */
#define LEADER_OPS (13 + THREAD_OPS)
#define CREDS_OPS 8
#define THREAD_OPS (8 + THREAD_SWITCHES + CREDS_OPS + URINGS_MAX + URING_SLOTS_MAX + AGENT_RUN_EXTRA)
#define RESULTS (3 + THREAD_SWITCHES) /* operations of a thread whose result is the answer; they stand together */
#define TIMERS_AT_ONCE 64
#define TIMERS_MAX 100000
#define RINGS_MAX 64

struct thread_job {
	struct agent_batch head;
	struct agent_op ops[THREAD_OPS];
	struct thread_answers out;
	int minus_one;
};

/* What the leader writes, behind its operations. */
struct leader_out {
	struct task_answers task;
	struct thread_answers thread;
	int minus_one;
	uint64_t segment; /* the first of those of its own */
	struct itimerspec timer[];
};

static struct agent_op *op_add(struct agent_batch *b, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	struct agent_op *op = &agent_batch_ops(b)[b->count++];

	*op = (struct agent_op){ .nr = (int32_t)nr, .flags = AGENT_OP_MAY_FAIL, .arg = { a0, a1, a2, a3 } };
	return op;
}

/* Gives the first of the operations whose result is the answer. */
static struct agent_op *ask_thread(struct agent_batch *b, uint64_t out)
{
	op_add(b, __NR_sigaltstack, 0, out + offsetof(struct thread_answers, altstack), 0, 0);
	op_add(b, __NR_prctl, PR_GET_TID_ADDRESS, out + offsetof(struct thread_answers, tid_address), 0, 0);
	op_add(b, __NR_prctl, PR_GET_PDEATHSIG, out + offsetof(struct thread_answers, pdeath_sig), 0, 0);
	op_add(b, __NR_get_mempolicy, out + offsetof(struct thread_answers, mempolicy),
	       out + offsetof(struct thread_answers, mempolicy_nodes), sizeof(((struct thread_answers *)0)->mempolicy_nodes) * 8, 0);
	op_add(b, __NR_prctl, PR_GET_NAME, out + offsetof(struct thread_answers, comm), 0, 0);
	struct agent_op *first = op_add(b, __NR_prctl, PR_GET_SECUREBITS, 0, 0, 0);
	op_add(b, __NR_prctl, PR_GET_TIMERSLACK, 0, 0, 0);
	op_add(b, __NR_personality, 0xffffffff, 0, 0, 0);
	for (size_t i = 0; i < THREAD_SWITCHES; i++) {
		const struct switch_question q = threads_switch(i);
		op_add(b, q.call, q.args[0], q.by_address ? out + offsetof(struct thread_answers, switches) + i * sizeof(int32_t) : q.args[1], 0, 0);
	}
	return first;
}

/* What the status of a thread would tell: reading that takes longer than all the rest. */
static void ask_creds(struct agent_batch *b, uint64_t out)
{
	const uint64_t uid = out + offsetof(struct thread_answers, uid), gid = out + offsetof(struct thread_answers, gid);

	op_add(b, __NR_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0);
	op_add(b, __NR_prctl, PR_GET_SECCOMP, 0, 0, 0);
	op_add(b, __NR_setfsuid, (uint64_t)-1, 0, 0, 0); /* changes nothing */
	op_add(b, __NR_setfsgid, (uint64_t)-1, 0, 0, 0);
	op_add(b, __NR_getgroups, ARRAY_SIZE(((struct thread_answers *)0)->groups), out + offsetof(struct thread_answers, groups), 0, 0);
	op_add(b, __NR_getresuid, uid, uid + 4, uid + 8, 0);
	op_add(b, __NR_getresgid, gid, gid + 4, gid + 8, 0);
	op_add(b, AGENT_OP_CAPS, out + offsetof(struct thread_answers, caps), 0, 0, 0);
}

static int take_creds(struct thread *th, const struct agent_op *first)
{
	const struct thread_answers *a = &th->answers;
	struct proc_status *s = thread_make_status(th);

	if (!s)
		return -ENOMEM;
	for (size_t i = 0; i < CREDS_OPS; i++)
		if (first[i].result < 0) /* as for more groups than there is room for */
			return thread_read_status(th);
	s->no_new_privs = (uint64_t)first[0].result;
	s->seccomp = (uint64_t)first[1].result;
	memcpy(s->uid, a->uid, sizeof(a->uid));
	memcpy(s->gid, a->gid, sizeof(a->gid));
	s->uid[3] = (uint32_t)first[2].result;
	s->gid[3] = (uint32_t)first[3].result;
	s->n_groups = (size_t)first[4].result;
	memcpy(s->groups, a->groups, s->n_groups * sizeof(s->groups[0]));
	s->cap_eff = a->caps.effective;
	s->cap_prm = a->caps.permitted;
	s->cap_inh = a->caps.inheritable;
	s->cap_bnd = a->caps.bounding;
	s->cap_amb = a->caps.ambient;
	return 0;
}

static void take_thread_results(struct thread *th, const struct agent_op *first)
{
	th->answers.securebits = (int32_t)first[0].result;
	th->answers.timer_slack = (uint64_t)first[1].result;
	th->answers.personality = (uint32_t)first[2].result;
	for (size_t i = 0; i < THREAD_SWITCHES; i++) {
		const int32_t result = (int32_t)first[RESULTS - THREAD_SWITCHES + i].result;
		if (result || !threads_switch(i).by_address)
			th->answers.switches[i] = result;
	}
}

/* No eventfd: how that fails tells who submits, whether there is one already, and what is forbidden. Then the places of rings that the
 * thread has registered for itself. `minus_one`: the address of an int that is -1. */
static struct agent_op *ask_urings(const struct thread *th, struct agent_batch *b, uint64_t minus_one)
{
	struct agent_op *first = &agent_batch_ops(b)[b->count];
	const struct task *t = th->task;

	for (size_t i = 0; i < t->urings.count; i++)
		op_add(b, __NR_io_uring_register, (uint64_t)uring_number(t, th, i), IORING_REGISTER_EVENTFD, minus_one, 1);
	for (uint64_t i = 0; t->urings.count && i < URING_SLOTS_MAX; i++)
		op_add(b, __NR_io_uring_enter, i, 0, 0, IORING_ENTER_REGISTERED_RING);
	return first;
}

static void take_urings(struct task *t, struct thread *th, const struct agent_op *first)
{
	for (size_t i = 0; i < t->urings.count; i++)
		th->answers.uring[i] = uring_number(t, th, i) < 0 ? URING_LACKS : (int32_t)first[i].result;
	for (size_t i = 0; t->urings.count && i < URING_SLOTS_MAX; i++) {
		int64_t result = first[t->urings.count + i].result;
		th->answers.uring_slots |= (result >= 0 || result == -EBADFD ? 1U : 0) << i;
	}
}

static void ask_timers(const struct task *t, struct agent_batch *b, size_t first, size_t count, uint64_t out)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t id = (uint64_t)t->timers.data[first + i].id;
		op_add(b, __NR_timer_gettime, id, out + i * sizeof(struct itimerspec), 0, 0);
		op_add(b, __NR_timer_getoverrun, id, 0, 0, 0);
	}
}

/* `answers`: the operation that asked for the first. */
static void take_timers(struct task *t, size_t first, size_t count, const struct itimerspec *values, const struct agent_op *answers)
{
	for (size_t i = 0; i < count; i++) {
		t->timers.data[first + i].value = values[i];
		t->timers.data[first + i].overrun = answers[2 * i + 1].result;
	}
}

/* What a process and its threads are being asked. Each step is begun in all processes before it is waited for in any of them. */
struct asking {
	enum { ASKING_NOT, ASKING_TAKE, ASKING_RUN, ASKING_LEAVE } step; /* what was begun */
	int result;
	struct error why;
	size_t asked; /* threads, from the first on */
	struct agent_seat seat;
	struct agent_batch *leader;
	struct leader_out *out;
	struct agent_op *results[9];
	struct agent_run *runs; /* one of each a thread, in the order of t->threads */
	struct thread_job *jobs;
	size_t started;
	bool unfinished; /* some thread is still in the area */
};

static size_t first_timers(const struct task *t)
{
	return MIN(t->timers.count, (size_t)TIMERS_AT_ONCE);
}

/* How many descriptors are asked about. */
static size_t first_descriptors(const struct task *t)
{
	return t->view.inherited && !t->view.fds_seen ? t->view.fds.count : 0;
}

static size_t count_leader_ops(const struct task *t)
{
	return LEADER_OPS + 2 * first_timers(t) + t->rings.count + first_descriptors(t);
}

static int start_leader(struct dump *d, struct task *t, struct asking *a)
{
	size_t ops = sizeof(struct agent_batch) + count_leader_ops(t) * sizeof(struct agent_op), room;
	size_t size = ops + sizeof(struct leader_out) + first_timers(t) * sizeof(struct itimerspec);
	struct agent_batch *b = a->leader = calloc(1, size);
	struct agent_run *run = &a->runs[0];

	if (!b)
		return error_set(d->e, -ENOMEM, "out of memory");
	*run = (struct agent_run){ .seat = &a->seat, .tracee = &t->threads.data[0]->tracee, .batch = b, .size = size, .more_calls = AGENT_SIGNALS - 1 };
	a->out = (struct leader_out *)((char *)b + ops);
	uint64_t out = agent_seat_place(run->seat, 0, &room) + ops;
	op_add(b, AGENT_OP_ACTIONS, out + offsetof(struct leader_out, task.action), 0, 0, 0);
	for (uint64_t which = 0; which < 3; which++)
		op_add(b, __NR_getitimer, which, out + offsetof(struct leader_out, task.itimer[which]), 0, 0);
	op_add(b, __NR_prctl, PR_GET_CHILD_SUBREAPER, out + offsetof(struct leader_out, task.subreaper), 0, 0);
	a->results[0] = op_add(b, __NR_prctl, PR_GET_DUMPABLE, 0, 0, 0);
	a->results[1] = op_add(b, __NR_prctl, PR_GET_THP_DISABLE, 0, 0, 0);
	a->results[2] = op_add(b, __NR_brk, 0, 0, 0, 0);
	a->results[4] = op_add(b, __NR_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0);
	a->results[5] = op_add(b, __NR_prctl, PR_GET_MDWE, 0, 0, 0);
	a->results[8] = op_add(b, __NR_modify_ldt, 0, out + offsetof(struct leader_out, segment), sizeof(a->out->segment), 0);
	a->results[7] = op_add(b, __NR_membarrier, MEMBARRIER_GET_REGISTRATIONS, 0, 0, 0);
	op_add(b, __NR_arch_prctl, ARCH_GET_XCOMP_PERM, out + offsetof(struct leader_out, task.xcomp), 0, 0);
	a->results[3] = ask_thread(b, out + offsetof(struct leader_out, thread));
	ask_timers(t, b, 0, first_timers(t), out + offsetof(struct leader_out, timer));
	/* No events, at once: fails where it is no context. */
	for (size_t i = 0; i < t->rings.count; i++)
		op_add(b, __NR_io_getevents, t->rings.data[i].start, 0, 0, 0);
	for (size_t i = 0; i < first_descriptors(t); i++)
		if (t->view.inherited[i])
			op_add(b, __NR_fcntl, (uint64_t)t->view.fds.data[i], F_GETFD, 0, 0);
	a->out->minus_one = -1;
	a->results[6] = ask_urings(t->threads.data[0], b, out + offsetof(struct leader_out, minus_one));
	return agent_run_start(run, d->e);
}

static int start_all(struct dump *d, struct task *t, struct asking *a)
{
	int r = start_leader(d, t, a);

	for (size_t i = 1; !r && i < a->asked; i++) {
		struct thread_job *job = &a->jobs[i];
		size_t room;
		a->started = i;
		a->runs[i] = (struct agent_run){ .seat = &a->seat, .tracee = &t->threads.data[i]->tracee, .number = i, .batch = &job->head, .size = sizeof(*job) };
		uint64_t out = agent_seat_place(&a->seat, i, &room) + offsetof(struct thread_job, out);
		ask_thread(&job->head, out);
		if (!t->threads.data[i]->status_read)
			ask_creds(&job->head, out);
		job->minus_one = -1;
		ask_urings(t->threads.data[i], &job->head, out - offsetof(struct thread_job, out) + offsetof(struct thread_job, minus_one));
		r = agent_run_start(&a->runs[i], d->e);
	}
	if (!r)
		a->started = a->asked;
	return r;
}

static void take_descriptor_flags(struct task *t, const struct agent_op *next)
{
	const size_t count = first_descriptors(t);

	if (!count)
		return;
	t->view.fd_flags = calloc(count, sizeof(int));
	for (size_t i = 0; t->view.fd_flags && i < count; i++)
		if (t->view.inherited[i])
			t->view.fd_flags[i] = (int)(next++)->result;
}

static int take_answers(struct dump *d, struct task *t, struct asking *a)
{
	t->answers = a->out->task;
	t->answers.dumpable = a->results[0]->result;
	t->answers.thp_disable = a->results[1]->result;
	t->answers.brk = a->results[2]->result;
	t->answers.memory_merge = a->results[4]->result;
	t->answers.mdwe = a->results[5]->result;
	t->answers.membarrier = a->results[7]->result;
	t->answers.segments = a->results[8]->result > 0;
	t->threads.data[0]->answers = a->out->thread;
	take_thread_results(t->threads.data[0], a->results[3]);
	take_urings(t, t->threads.data[0], a->results[6]);
	take_timers(t, 0, first_timers(t), a->out->timer, &a->results[3][RESULTS]);
	for (size_t i = 0; i < t->rings.count; i++)
		t->rings.data[i].alive = a->results[3][RESULTS + 2 * first_timers(t) + i].result == 0;
	take_descriptor_flags(t, &a->results[3][RESULTS + 2 * first_timers(t) + t->rings.count]);
	for (size_t i = 1; i < a->asked; i++) {
		t->threads.data[i]->answers = a->jobs[i].out;
		const struct agent_op *first = &agent_batch_ops(&a->jobs[i].head)[5];
		take_thread_results(t->threads.data[i], first);
		bool with_creds = !t->threads.data[i]->status_read;
		take_urings(t, t->threads.data[i], first + RESULTS + (with_creds ? CREDS_OPS : 0));
		int r = with_creds ? take_creds(t->threads.data[i], first + RESULTS) : 0;
		if (r)
			return task_errno(d, t, r, "cannot read the status of its thread %d", t->threads.data[i]->tid);
	}
	return 0;
}

static int list_timers(struct dump *d, struct task *t)
{
	const struct proc_timers *timers = &t->view.timers;

	if (t->view.timers_result)
		return task_errno(d, t, t->view.timers_result, "cannot list its POSIX timers");
	if (timers->count > TIMERS_MAX)
		return task_error(d, t, -ENOTSUP, "it has %zu POSIX timers, more than the %d that are supported", timers->count, TIMERS_MAX);
	/* The newest stands first; they are kept in the order in which they were made. */
	for (size_t i = timers->count; i-- > 0;) {
		struct posix_timer *timer = VEC_PUSH(&t->timers);
		if (!timer)
			return error_set(d->e, -ENOMEM, "out of memory");
		const struct proc_timer *from = &timers->data[i];
		*timer = (struct posix_timer){ .id = from->id, .signal = from->signal, .notify = from->notify, .tid = from->tid,
					       .sigev_value = from->sigev_value, .clock = from->clock };
	}
	return 0;
}

/* Whether what is mapped from now on is locked (mlockall(2)): nothing tells it but what became of the agent's own area. That has all
 * its pages, so where only missing ones tell of MCL_ONFAULT, the other areas do. */
static int ask_mlockall(struct dump *d, struct task *t, const struct agent_seat *seat)
{
	struct proc_maps maps = {};
	bool locked = false, on_fault = false;

	for (size_t i = 0; i < t->maps.count; i++) {
		const struct proc_vma *v = &t->maps.data[i];
		locked |= (v->vmflags & PROC_VMF_LO) != 0;
		on_fault |= v->prot && !(v->vmflags & PROC_VMF_LF) && vma_locks_on_fault(v);
	}
	if (!locked)
		return 0;
	int r = proc_read_smaps(t->proc, &maps);
	if (r)
		return task_errno(d, t, r, "cannot read its maps");
	for (size_t i = 0; i < maps.count; i++) {
		const struct proc_vma *v = &maps.data[i];
		if (v->start <= seat->area && v->end > seat->area && v->vmflags & PROC_VMF_LO)
			t->answers.mlockall = MCL_FUTURE | (v->vmflags & PROC_VMF_LF || on_fault ? MCL_ONFAULT : 0);
	}
	proc_maps_finish(&maps);
	return 0;
}

struct timers_job {
	struct agent_batch head;
	struct agent_op ops[2 * TIMERS_AT_ONCE + AGENT_RUN_EXTRA];
	struct itimerspec timer[TIMERS_AT_ONCE];
};

/* Those that were too many for the first batch. */
static int ask_more_timers(struct dump *d, struct task *t, struct asking *a, size_t first)
{
	_cleanup_free_ struct timers_job *job = calloc(1, sizeof(*job));
	size_t room, count = MIN(t->timers.count - first, (size_t)TIMERS_AT_ONCE);

	if (!job)
		return error_set(d->e, -ENOMEM, "out of memory");
	struct agent_run run = { &a->seat, &t->threads.data[0]->tracee, 0, &job->head, sizeof(*job), 0, 0 };
	ask_timers(t, &job->head, first, count, agent_seat_place(&a->seat, 0, &room) + offsetof(struct timers_job, timer));
	int r = agent_run_start(&run, d->e);
	if (!r && (r = agent_run_finish(&run, d->e)))
		a->unfinished = true;
	if (!r)
		take_timers(t, first, count, job->timer, agent_batch_ops(&job->head));
	return r;
}

#define GROUPS_ASKED 40

struct groups_job {
	struct agent_batch head;
	struct agent_op ops[GROUPS_ASKED + AGENT_RUN_EXTRA];
	uint32_t status[GROUPS_ASKED][10];
};

/* Groups of buffers of a ring that only one thread may ask about: those with the numbers that are in use. */
static int ask_groups(struct dump *d, struct task *t, struct asking *a, size_t ring, size_t thread)
{
	_cleanup_free_ struct groups_job *job = calloc(1, sizeof(*job));
	size_t room;
	uint64_t at = agent_seat_place(&a->seat, thread, &room) + offsetof(struct groups_job, status);

	if (!job)
		return error_set(d->e, -ENOMEM, "out of memory");
	const int fd = uring_number(t, t->threads.data[thread], ring);
	struct agent_run run = { &a->seat, &t->threads.data[thread]->tracee, thread, &job->head, sizeof(*job), 0, 0 };
	for (uint32_t i = 0; i < GROUPS_ASKED; i++) {
		job->status[i][0] = i;
		op_add(&job->head, __NR_io_uring_register, (uint64_t)fd, URING_PBUF_STATUS, at + i * sizeof(job->status[0]), 1);
	}
	int r = agent_run_start(&run, d->e);
	if (!r && (r = agent_run_finish(&run, d->e)))
		a->unfinished = true;
	/* Before Linux 6.8 it is no question at all, and the first fails like the others. */
	for (size_t i = 0; !r && i < GROUPS_ASKED; i++) {
		int64_t result = agent_batch_ops(&job->head)[i].result;
		bool known = agent_batch_ops(&job->head)[GROUPS_ASKED - 1].result != -EINVAL || agent_batch_ops(&job->head)[0].result != -EINVAL;
		t->uring_groups |= (result >= 0 || (result == -EINVAL && known) ? 1U : 0) << ring;
	}
	return r;
}

static int ask_all_groups(struct dump *d, struct task *t, struct asking *a)
{
	int r = 0;

	for (size_t k = 0; !r && k < t->urings.count; k++) {
		size_t refused = 0, without = 0, last = 0;
		for (size_t i = 0; i < t->threads.count; i++)
			if (t->threads.data[i]->answers.uring[k] == -EEXIST)
				refused++;
			else if (t->threads.data[i]->answers.uring[k] == URING_LACKS)
				without++;
			else
				last = i;
		if (refused + without + 1 == t->threads.count)
			r = ask_groups(d, t, a, k, last);
	}
	return r;
}

static int ask_more(struct dump *d, struct task *t, struct asking *a)
{
	int r = 0;

	for (size_t first = TIMERS_AT_ONCE; !r && first < t->timers.count; first += TIMERS_AT_ONCE)
		r = ask_more_timers(d, t, a, first);
	if (!r)
		r = ask_all_groups(d, t, a);
	return r ? r : ask_mlockall(d, t, &a->seat);
}

/* A failure of one process is told when it is its turn (task_answered). The first counts. */
static void note(struct asking *a, const struct error *e, int r)
{
	if (r && !a->result) {
		a->result = r;
		a->why = *e;
	}
}

static int prepare(struct dump *d, struct task *t)
{
	int r = list_timers(d, t);

	if (!r)
		r = aio_list(d, t);
	if (!r)
		r = uring_list(d, t);
	if (!r && t->rings.count > RINGS_MAX)
		r = task_error(d, t, -ENOTSUP, "it has %zu rings for asynchronous i/o, more than the %d that are supported", t->rings.count, RINGS_MAX);
	return r;
}

/* Rings are asked about in each thread. */
static size_t count_asked(const struct task *t)
{
	const bool rings = t->rings.count || t->urings.count;

	if (rings || !t->insight.threads_told)
		return t->threads.count;
	return t->insight.leader_told ? 0 : 1;
}

static int begin(struct dump *d, struct task *t, struct asking *a)
{
	int r = prepare(d, t);

	a->asked = r ? 0 : count_asked(t);
	if (!a->asked)
		return r;
	uint64_t hole = maps_find_hole(&t->maps, agent_seat_size(a->asked - 1)), slack = maps_find_slack(&t->maps, t->mem_fd);
	if (!(a->runs = calloc(a->asked, sizeof(*a->runs))) || !(a->jobs = calloc(a->asked, sizeof(*a->jobs))))
		r = error_set(d->e, -ENOMEM, "out of memory");
	if (!r && (!hole || !slack))
		r = task_error(d, t, -ENOTSUP, "no room for the agent (no vdso, or a full address space); boot without vdso=0");
	if (!r && a->asked > 1)
		r = task_prepare_threads(d, t);
	if (!r)
		r = agent_seat_take(&a->seat, &t->threads.data[0]->tracee, t->mem_fd, hole, a->asked - 1, slack, d->e);
	if (!r)
		a->step = ASKING_TAKE;
	return r;
}

int task_ask(struct dump *d, struct task *t)
{
	struct error e = {};
	struct dump own = *d;

	own.e = &e;
	t->asking = calloc(1, sizeof(*t->asking));
	if (!t->asking)
		return error_set(d->e, -ENOMEM, "out of memory");
	note(t->asking, &e, begin(&own, t, t->asking));
	return 0;
}

static void run(struct dump *d, struct task *t, struct asking *a)
{
	a->step = ASKING_NOT;
	int r = agent_seat_taken(&a->seat, d->e);
	note(a, d->e, r);
	if (r)
		return;
	a->step = ASKING_RUN;
	note(a, d->e, start_all(d, t, a));
}

/* Whatever was started must come to its end before the area goes. */
static void collect(struct dump *d, struct task *t, struct asking *a)
{
	a->step = ASKING_NOT;
	for (size_t i = a->started; i-- > 0;) {
		int r = agent_run_finish(&a->runs[i], d->e);
		a->unfinished |= r != 0;
		note(a, d->e, r);
	}
	if (!a->result) {
		int r = take_answers(d, t, a);
		note(a, d->e, r ? r : ask_more(d, t, a));
	}
	/* With a thread inside, the area must stay: they leave it on their own once they are let go. */
	if (a->unfinished)
		return;
	int r = agent_seat_leave(&a->seat, d->e);
	note(a, d->e, r);
	a->step = r ? ASKING_NOT : ASKING_LEAVE;
}

static void leave(struct dump *d, struct asking *a)
{
	a->step = ASKING_NOT;
	note(a, d->e, agent_seat_left(&a->seat, d->e));
}

void tree_ask(struct dump *d)
{
	struct error e = {};
	struct dump own = *d;

	own.e = &e;
	for (int step = ASKING_TAKE; step <= ASKING_LEAVE; step++)
		for (size_t i = 0; i < d->tasks.count; i++) {
			struct task *t = d->tasks.data[i];
			struct asking *a = t->asking;
			if (!a || (int)a->step != step)
				continue;
			if (step == ASKING_TAKE)
				run(&own, t, a);
			else if (step == ASKING_RUN)
				collect(&own, t, a);
			else
				leave(&own, a);
		}
}

int task_answered(struct dump *d, struct task *t)
{
	struct asking *a = t->asking;
	int r = a->result;

	if (r)
		*d->e = a->why;
	task_ask_free(t);
	return r ? error_prefix(d->e, r, "process %d (%s)", t->pid, t->stat.comm) : 0;
}

void task_ask_free(struct task *t)
{
	struct asking *a = t->asking;

	if (a) {
		free(a->leader);
		free(a->runs);
		free(a->jobs);
	}
	free(a);
	t->asking = NULL;
}
