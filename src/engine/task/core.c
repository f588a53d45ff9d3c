/*
 * core-TID.img: put together from the parts of state.h, one file a thread; that of the leader has the process's state too.
 * ids-PID.img: which kernel objects tasks share.
 */
#include "engine/ns/ns.h"
#include "engine/task/state.h"

#include <sys/wait.h>

static int core_write(struct dump *d, pid_t tid, CoreEntry *core)
{
	char name[32];

	snprintf(name, sizeof(name), "core-%d.img", tid);
	return dump_write_one(d, name, IMAGE_MAGIC_CORE, &core->base);
}

static TaskKobjIdsEntry *make_ids(const struct dump *d, struct task *t, struct pool *pool)
{
	TaskKobjIdsEntry *ids = POOL_NEW(pool, TaskKobjIdsEntry, task_kobj_ids_entry__init);

	if (ids) {
		ids->vm_id = t->vm_owner ? t->vm_owner->id : t->id;
		ids->sighand_id = t->sighand_id;
		ids->files_id = t->files_id;
		ids->fs_id = t->fs_id;
		ns_fill_ids(d, ids, false);
	}
	return ids;
}

static int capture_thread(struct dump *d, struct thread *th, struct pool *pool, CoreEntry *core)
{
	core->mtype = CORE_ENTRY__MARCH__X86_64;
	core->thread_core = POOL_NEW(pool, ThreadCoreEntry, thread_core_entry__init);
	if (!core->thread_core)
		return error_set(d->e, -ENOMEM, "out of memory");
	int r = threads_capture(d, th, pool, core);
	if (!r)
		r = creds_capture(d, th, pool, core->thread_core);
	if (!r)
		r = sched_capture(d, th, pool, core->thread_core);
	if (!r)
		r = signals_capture_thread(d, th, pool, core->thread_core);
	return r ? r : seccomp_capture(d, th, core->thread_core);
}

static int capture_process(struct dump *d, struct task *t, struct pool *pool, CoreEntry *core)
{
	TaskCoreEntry *tc = POOL_NEW(pool, TaskCoreEntry, task_core_entry__init);

	if (!tc || !(core->ids = make_ids(d, t, pool)))
		return error_set(d->e, -ENOMEM, "out of memory");
	core->tc = tc;
	tc->task_state = t->state;
	tc->has_stop_signal = t->stop_signal != 0;
	tc->stop_signal = (uint32_t)t->stop_signal;
	tc->has_exit_signal = t->parent && t->stat.exit_signal != SIGCHLD && t->stat.exit_signal >= 0;
	tc->exit_signal = (uint32_t)t->stat.exit_signal;
	tc->comm = t->stat.comm;
	int r = signals_capture_task(d, t, pool, tc);
	if (!r)
		r = signals_capture_shared(d, t, pool, tc);
	if (!r)
		r = timers_capture(d, t, pool, tc);
	if (!r)
		r = process_capture(d, t, pool, tc);
	if (!r)
		r = semaphores_check(d, t);
	char name[32];
	snprintf(name, sizeof(name), "ids-%d.img", t->pid);
	return r ? r : dump_write_one(d, name, IMAGE_MAGIC_IDS, &core->ids->base);
}

static int capture_zombie(struct dump *d, struct task *t)
{
	CoreEntry core = CORE_ENTRY__INIT;
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;

	/* It says so to its parent, and nothing but writing another would make it so again. */
	if (WCOREDUMP(t->exit_code))
		return task_error(d, t, -ENOTSUP, "it has ended (zombie) and left a core dump, which can't be had again; let its parent %d reap it first",
				  t->ppid);
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.tc = &tc;
	tc.task_state = TASK_DEAD;
	tc.exit_code = (uint32_t)t->exit_code;
	tc.has_exit_signal = t->stat.exit_signal != SIGCHLD && t->stat.exit_signal >= 0;
	tc.exit_signal = (uint32_t)t->stat.exit_signal;
	tc.comm = t->stat.comm;
	return core_write(d, t->pid, &core);
}

/* What a leader that has gone leaves: the process's state, and as much of a thread as the form wants. */
static int capture_gone_leader(struct dump *d, struct task *t)
{
	CoreEntry core = CORE_ENTRY__INIT;
	struct pool pool = {};
	int r = capture_thread(d, t->threads.data[0], &pool, &core);

	if (!r)
		r = capture_process(d, t, &pool, &core);
	if (!r) {
		ThreadCoreEntry *c = core.thread_core;
		c->comm = t->stat.comm;
		c->futex_rla = c->futex_rla_len = 0;
		c->rseq_entry = NULL;
		c->signals_p = NULL;
		c->syscall_dispatch = NULL;
		c->call = NULL;
		core.thread_info->clear_tid_addr = 0;
		core.tc->has_leader_exit_code = 1;
		core.tc->leader_exit_code = (uint32_t)t->exit_code;
		r = core_write(d, t->pid, &core);
	}
	pool_free(&pool);
	return r;
}

int core_capture(struct dump *d, struct task *t)
{
	int r = 0;

	if (t->state == TASK_DEAD)
		return capture_zombie(d, t);
	for (size_t i = 0; !r && i < t->threads.count; i++) {
		CoreEntry core = CORE_ENTRY__INIT;
		struct pool pool = {};
		r = capture_thread(d, t->threads.data[i], &pool, &core);
		if (!r && i == 0 && !t->leader_gone)
			r = capture_process(d, t, &pool, &core);
		if (!r)
			r = core_write(d, t->threads.data[i]->tid, &core);
		pool_free(&pool);
	}
	if (!r && t->leader_gone)
		r = capture_gone_leader(d, t);
	return r;
}
