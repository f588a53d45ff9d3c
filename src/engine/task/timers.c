/*
 * Interval timers (setitimer(2)) and POSIX timers (timer_create(2)). A POSIX timer must have its id again: with
 * PR_TIMER_CREATE_RESTORE_IDS (Linux 6.15) it is asked for; before, ids count up in each process, so those in between are
 * made and deleted.
 *
 * Left out, as the kernel shows them to nobody: that a POSIX timer was set to an absolute time (what is left of it goes on from where
 * it was), and expirations that are counted while its signal waits. What timer_getoverrun(2) gives for the last signal is 0 again.
 */
#include "engine/task/state.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/time.h>

#ifndef PR_TIMER_CREATE_RESTORE_IDS
#define PR_TIMER_CREATE_RESTORE_IDS 77
#define PR_TIMER_CREATE_RESTORE_IDS_OFF 0
#define PR_TIMER_CREATE_RESTORE_IDS_ON 1
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2
#endif
#define TIMER_ID_MAX 100000

/* Whether the timer's signal waits now and did not when the task was stopped. */
static bool rang_meanwhile(const struct task *t, const TaskCoreEntry *core)
{
	const SignalQueueEntry *queue = core->signals_s;

	for (size_t i = 0; queue && i < queue->n_signals; i++) {
		siginfo_t info;
		memcpy(&info, queue->signals[i]->siginfo.data, sizeof(info));
		if (info.si_signo == SIGALRM && info.si_code == SI_KERNEL)
			return !(t->threads.data[0]->status->shd_pnd & 1ULL << (SIGALRM - 1));
	}
	return false;
}

/* ITIMER_REAL starts anew when its signal is taken, and stands at zero until then: with zero it would not start at all. */
static struct itimerval real_timer(const struct task *t, const TaskCoreEntry *core)
{
	struct itimerval v = t->answers.itimer[ITIMER_REAL];

	if ((!v.it_value.tv_sec && !v.it_value.tv_usec) || rang_meanwhile(t, core))
		v.it_value = v.it_interval;
	return v;
}

int timers_capture(struct dump *d, struct task *t, struct pool *pool, TaskCoreEntry *core)
{
	TaskTimersEntry *timers = POOL_NEW(pool, TaskTimersEntry, task_timers_entry__init);
	ItimerEntry *it = pool_take(pool, 3 * sizeof(*it));
	PosixTimerEntry *posix = pool_take(pool, t->timers.count * sizeof(*posix));
	PosixTimerEntry **list = pool_take(pool, t->timers.count * sizeof(*list));

	if (!timers || !it || !posix || !list)
		return error_set(d->e, -ENOMEM, "out of memory");
	for (int i = 0; i < 3; i++) {
		const struct itimerval v = i == ITIMER_REAL ? real_timer(t, core) : t->answers.itimer[i];
		itimer_entry__init(&it[i]);
		it[i].isec = (uint64_t)v.it_interval.tv_sec;
		it[i].iusec = (uint64_t)v.it_interval.tv_usec;
		it[i].vsec = (uint64_t)v.it_value.tv_sec;
		it[i].vusec = (uint64_t)v.it_value.tv_usec;
	}
	timers->real = &it[0];
	timers->virt = &it[1];
	timers->prof = &it[2];
	for (size_t i = 0; i < t->timers.count; i++) {
		const struct posix_timer *from = &t->timers.data[i];
		PosixTimerEntry *p = list[i] = &posix[i];
		posix_timer_entry__init(p);
		p->it_id = (uint32_t)from->id;
		p->clock_id = (uint32_t)from->clock;
		p->si_signo = (uint32_t)from->signal;
		p->it_sigev_notify = (uint32_t)from->notify;
		p->sival_ptr = from->sigev_value;
		p->overrun = from->overrun > 0 ? (uint32_t)from->overrun : 0;
		p->isec = (uint64_t)from->value.it_interval.tv_sec;
		p->insec = (uint64_t)from->value.it_interval.tv_nsec;
		p->vsec = (uint64_t)from->value.it_value.tv_sec;
		p->vnsec = (uint64_t)from->value.it_value.tv_nsec;
		p->has_notify_thread_id = from->notify == SIGEV_THREAD_ID;
		p->notify_thread_id = from->tid;
	}
	timers->posix = list;
	timers->n_posix = t->timers.count;
	core->timers = timers;
	return 0;
}

static uint64_t place_sigevent(struct restore *s, const PosixTimerEntry *p)
{
	struct sigevent event = { .sigev_signo = (int)p->si_signo, .sigev_notify = (int)p->it_sigev_notify };

	event.sigev_value.sival_ptr = (void *)p->sival_ptr;
	if (p->has_notify_thread_id)
		event._sigev_un._tid = p->notify_thread_id;
	return arena_place(&s->arena, &event, sizeof(event));
}

static int plan_posix(struct restore *s, struct rtask *t, const TaskTimersEntry *timers)
{
	struct batch *b = &t->threads.data[0].batch;
	bool by_id = prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >= 0;
	uint32_t next = 0;
	int *slot = arena_take(&s->arena, sizeof(int));

	if (!slot)
		return error_set(s->e, -ENOMEM, "out of memory");
	if (timers->n_posix && by_id)
		OP(b, __NR_prctl, PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_ON);
	for (size_t i = 0; i < timers->n_posix; i++) {
		const PosixTimerEntry *p = timers->posix[i];
		struct itimerspec value = { { (time_t)p->isec, (long)p->insec }, { (time_t)p->vsec, (long)p->vnsec } };
		uint64_t event = place_sigevent(s, p);
		int *id = arena_take(&s->arena, sizeof(int));
		if (p->it_id > TIMER_ID_MAX || p->it_id < next || !id)
			return error_set(s->e, -EBADMSG, "POSIX timer %u of process %d can't be made", p->it_id, t->pid);
		batch_what(b, "make POSIX timer %u of process %d", p->it_id, t->pid);
		for (; !by_id && next < p->it_id; next++) {
			*slot = 0;
			OP(b, __NR_timer_create, p->clock_id, 0, (uint64_t)slot);
			OP(b, __NR_timer_delete, next);
		}
		*id = (int)p->it_id;
		OP(b, __NR_timer_create, p->clock_id, event, (uint64_t)id);
		next = p->it_id + 1;
		OP(b, __NR_timer_settime, p->it_id, 0, arena_place(&s->arena, &value, sizeof(value)), 0);
	}
	if (timers->n_posix && by_id)
		OP(b, __NR_prctl, PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_OFF);
	return 0;
}

int timers_plan(struct restore *s, struct rtask *t)
{
	const TaskTimersEntry *timers = t->core->tc->timers;
	struct batch *b = &t->threads.data[0].batch;

	if (!timers)
		return 0;
	const ItimerEntry *it[3] = { timers->real, timers->virt, timers->prof };
	for (uint64_t i = 0; i < 3; i++) {
		struct itimerval v = { { (time_t)it[i]->isec, (suseconds_t)it[i]->iusec },
				       { (time_t)it[i]->vsec, (suseconds_t)it[i]->vusec } };
		/* The real one is disarmed without an interval: it has run out at the moment of the dump. */
		if (i == ITIMER_REAL && !timerisset(&v.it_value))
			v.it_value = v.it_interval;
		if (!timerisset(&v.it_value))
			continue;
		batch_what(b, "arm interval timer %d of process %d", (int)i, t->pid);
		OP(b, __NR_setitimer, i, arena_place(&s->arena, &v, sizeof(v)), 0);
	}
	return plan_posix(s, t, timers);
}
