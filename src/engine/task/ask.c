/*
 * What only a process itself can tell: one batch in its leader, one in each other thread, all running at the same time.
 */
#include "engine/memory/aio.h"
#include "engine/task/task.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#ifndef PR_GET_MDWE
#define PR_GET_MDWE 66
#endif
#ifndef PR_GET_MEMORY_MERGE
#define PR_GET_MEMORY_MERGE 68
#endif
#define LEADER_OPS (96 + AGENT_RUN_EXTRA)
#define THREAD_OPS (8 + THREAD_SWITCHES + AGENT_RUN_EXTRA)
#define RESULTS (3 + THREAD_SWITCHES) /* operations of a thread whose result is the answer; they stand together */
#define TIMERS_MAX 64
#define RINGS_MAX 64

struct leader_job {
	struct agent_batch head;
	struct agent_op ops[LEADER_OPS + 2 * TIMERS_MAX + RINGS_MAX];
	struct {
		struct task_answers task;
		struct thread_answers thread;
		struct itimerspec timer[TIMERS_MAX];
	} out;
};

struct thread_job {
	struct agent_batch head;
	struct agent_op ops[THREAD_OPS];
	struct thread_answers out;
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
		uint64_t args[2];
		threads_switch(i, args);
		op_add(b, __NR_prctl, args[0], args[1], 0, 0);
	}
	return first;
}

static void take_thread_results(struct thread *th, const struct agent_op *first)
{
	th->answers.securebits = (int32_t)first[0].result;
	th->answers.timer_slack = (uint64_t)first[1].result;
	th->answers.personality = (uint32_t)first[2].result;
	for (size_t i = 0; i < THREAD_SWITCHES; i++)
		th->answers.switches[i] = (int32_t)first[RESULTS - THREAD_SWITCHES + i].result;
}

static int start_leader(struct dump *d, struct task *t, struct agent_run *run, struct leader_job *job, struct agent_op *ret[6])
{
	struct agent_batch *b = &job->head;
	size_t room;
	uint64_t out = agent_seat_place(run->seat, 0, &room) + offsetof(struct leader_job, out);

	for (int sig = 1; sig <= 64; sig++)
		op_add(b, __NR_rt_sigaction, (uint64_t)sig, 0, out + offsetof(struct task_answers, action[sig - 1]), 8);
	for (uint64_t which = 0; which < 3; which++)
		op_add(b, __NR_getitimer, which, out + offsetof(struct task_answers, itimer[which]), 0, 0);
	op_add(b, __NR_prctl, PR_GET_CHILD_SUBREAPER, out + offsetof(struct task_answers, subreaper), 0, 0);
	ret[0] = op_add(b, __NR_prctl, PR_GET_DUMPABLE, 0, 0, 0);
	ret[1] = op_add(b, __NR_prctl, PR_GET_THP_DISABLE, 0, 0, 0);
	ret[2] = op_add(b, __NR_brk, 0, 0, 0, 0);
	ret[4] = op_add(b, __NR_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0);
	ret[5] = op_add(b, __NR_prctl, PR_GET_MDWE, 0, 0, 0);
	ret[3] = ask_thread(b, out + sizeof(struct task_answers));
	for (size_t i = 0; i < t->timers.count; i++) {
		uint64_t id = (uint64_t)t->timers.data[i].id;
		op_add(b, __NR_timer_gettime, id, out + offsetof(typeof(job->out), timer[i]), 0, 0);
		op_add(b, __NR_timer_getoverrun, id, 0, 0, 0);
	}
	/* No events, at once: fails where it is no context. */
	for (size_t i = 0; i < t->rings.count; i++)
		op_add(b, __NR_io_getevents, t->rings.data[i].start, 0, 0, 0);
	return agent_run_start(run, d->e);
}

/* One of each a thread, in the order of t->threads. */
struct asking {
	struct leader_job leader;
	struct agent_op *results[6];
	struct agent_seat seat;
	struct agent_run *runs;
	struct thread_job *jobs;
	size_t started;
	bool unfinished; /* some thread is still in the area */
};

static int start_all(struct dump *d, struct task *t, struct asking *a)
{
	a->runs[0] = (struct agent_run){ .seat = &a->seat, .tracee = &t->threads.data[0]->tracee, .batch = &a->leader.head, .size = sizeof(a->leader) };
	int r = start_leader(d, t, &a->runs[0], &a->leader, a->results);
	for (size_t i = 1; !r && i < t->threads.count; i++) {
		struct thread_job *job = &a->jobs[i];
		size_t room;
		a->started = i;
		a->runs[i] = (struct agent_run){ .seat = &a->seat, .tracee = &t->threads.data[i]->tracee, .number = i, .batch = &job->head, .size = sizeof(*job) };
		ask_thread(&job->head, agent_seat_place(&a->seat, i, &room) + offsetof(struct thread_job, out));
		r = agent_run_start(&a->runs[i], d->e);
	}
	if (!r)
		a->started = t->threads.count;
	return r;
}

static void take_answers(struct task *t, struct asking *a)
{
	struct leader_job *l = &a->leader;

	t->answers = l->out.task;
	t->answers.dumpable = a->results[0]->result;
	t->answers.thp_disable = a->results[1]->result;
	t->answers.brk = a->results[2]->result;
	t->answers.memory_merge = a->results[4]->result;
	t->answers.mdwe = a->results[5]->result;
	t->threads.data[0]->answers = l->out.thread;
	take_thread_results(t->threads.data[0], a->results[3]);
	for (size_t i = 0; i < t->timers.count; i++) {
		t->timers.data[i].value = l->out.timer[i];
		t->timers.data[i].overrun = a->results[3][RESULTS + 2 * i + 1].result;
	}
	for (size_t i = 0; i < t->rings.count; i++)
		t->rings.data[i].alive = a->results[3][RESULTS + 2 * t->timers.count + i].result == 0;
	for (size_t i = 1; i < t->threads.count; i++) {
		t->threads.data[i]->answers = a->jobs[i].out;
		take_thread_results(t->threads.data[i], &agent_batch_ops(&a->jobs[i].head)[5]);
	}
}

static int list_timers(struct dump *d, struct task *t)
{
	struct proc_timers timers = {};
	int r = proc_read_timers(t->proc, &timers);

	if (r)
		return task_errno(d, t, r, "cannot list its POSIX timers");
	if (timers.count > TIMERS_MAX)
		r = task_error(d, t, -ENOTSUP, "it has %zu POSIX timers, more than the %d that are supported", timers.count, TIMERS_MAX);
	/* The newest stands first; they are kept in the order in which they were made. */
	for (size_t i = timers.count; !r && i-- > 0;) {
		struct posix_timer *timer = VEC_PUSH(&t->timers);
		if (!timer) {
			r = error_set(d->e, -ENOMEM, "out of memory");
			break;
		}
		const struct proc_timer *from = &timers.data[i];
		*timer = (struct posix_timer){ .id = from->id, .signal = from->signal, .notify = from->notify, .tid = from->tid,
					       .sigev_value = from->sigev_value, .clock = from->clock };
	}
	VEC_FREE(&timers);
	return r;
}

/* Whether what is mapped from now on is locked (mlockall(2)): nothing tells it but what became of the agent's own area. */
static int ask_mlockall(struct dump *d, struct task *t, const struct agent_seat *seat)
{
	struct proc_maps maps = {};
	bool locked = false;

	for (size_t i = 0; i < t->maps.count; i++)
		locked |= (t->maps.data[i].vmflags & PROC_VMF_LO) != 0;
	if (!locked)
		return 0;
	int r = proc_read_smaps(t->proc, &maps);
	if (r)
		return task_errno(d, t, r, "cannot read its maps");
	for (size_t i = 0; i < maps.count; i++) {
		const struct proc_vma *v = &maps.data[i];
		if (v->start <= seat->area && v->end > seat->area && v->vmflags & PROC_VMF_LO)
			t->answers.mlockall = MCL_FUTURE | (v->vmflags & PROC_VMF_LF ? MCL_ONFAULT : 0);
	}
	proc_maps_finish(&maps);
	return 0;
}

static int ask_in_seat(struct dump *d, struct task *t, struct asking *a)
{
	int r = start_all(d, t, a);

	/* Whatever was started must come to its end before the area goes. */
	for (size_t i = a->started; i-- > 0;) {
		struct error why = {};
		int s = agent_run_finish(&a->runs[i], &why);
		a->unfinished |= s != 0;
		if (s && !r) {
			*d->e = why;
			r = s;
		}
	}
	if (!r)
		take_answers(t, a);
	return r ? r : ask_mlockall(d, t, &a->seat);
}

int task_ask(struct dump *d, struct task *t)
{
	size_t size = agent_seat_size(t->threads.count - 1);
	uint64_t hole = maps_find_hole(&t->maps, size), slack = maps_find_slack(&t->maps, t->mem_fd);
	struct asking *a = calloc(1, sizeof(*a));
	int r = a ? 0 : error_set(d->e, -ENOMEM, "out of memory");

	if (!r && (!(a->runs = calloc(t->threads.count, sizeof(*a->runs))) || !(a->jobs = calloc(t->threads.count, sizeof(*a->jobs)))))
		r = error_set(d->e, -ENOMEM, "out of memory");
	if (!r && (!hole || !slack))
		r = task_error(d, t, -ENOTSUP, "no room for the agent (no vdso, or a full address space); boot without vdso=0");
	if (!r)
		r = list_timers(d, t);
	if (!r)
		r = aio_list(d, t);
	if (!r && t->rings.count > RINGS_MAX)
		r = task_error(d, t, -ENOTSUP, "it has %zu rings for asynchronous i/o, more than the %d that are supported", t->rings.count, RINGS_MAX);
	if (!r)
		r = agent_seat_take(&a->seat, &t->threads.data[0]->tracee, t->mem_fd, hole, t->threads.count - 1, slack, d->e);
	if (!r) {
		r = ask_in_seat(d, t, a);
		struct error left = {};
		/* With a thread inside, the area must stay: they leave it on their own once they are let go. */
		int s = a->unfinished ? 0 : agent_seat_leave(&a->seat, &left);
		if (s && !r) {
			*d->e = left;
			r = s;
		}
	}
	if (a) {
		free(a->runs);
		free(a->jobs);
	}
	free(a);
	return r ? error_prefix(d->e, r, "process %d (%s)", t->pid, t->stat.comm) : 0;
}
