/*
 * What /proc tells of a process that stands still, and that anyone may read: its maps with the flags of each area (smaps, which walks all its pages),
 * namespaces, limits and the like. Most of the time of a dump of many small processes goes there, so the workers take part: the dump goes
 * through the tasks from the front, they come to meet it from the end.
 */
#include "base/workers.h"
#include "engine/constants.h"
#include "engine/memory/live.h"
#include "engine/task/insight.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define USER_CS_32 0x23
#define DESCRIPTORS_AHEAD 64
#define FDINFO_MAX (1UL << 20)
#define TASKS_EACH 8 /* that are worth another thread */
#define THREADS_MANY 64
#define DESCRIPTORS_MANY 1024

const char *const task_links[3] = { "cwd", "root", "exe" };
static const char *const namespaces[] = { "mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time", "time_for_children" };
#define OF_TIME 7 /* and further: any that all of the tree are in (task/clocks.h) */

static void read_namespace(const char *of, size_t which, char ret[64])
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%s/ns/%s", of, namespaces[which]);
	ssize_t n = readlink(path, ret, 63);
	ret[MAX(n, 0)] = '\0';
}

static const char *find_foreign_namespace(const struct dump *d, const char *pid)
{
	for (size_t i = 0; i < ARRAY_SIZE(namespaces); i++) {
		char theirs[64];
		if (!d->own_namespaces[i][0]) /* a kernel without them */
			continue;
		read_namespace(pid, i, theirs);
		if (theirs[0] && strcmp(theirs, d->own_namespaces[i]))
			return namespaces[i];
	}
	return NULL;
}

static int read_text(const struct task *t, const char *name, char **ret, size_t *ret_size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", t->proc, name);
	return read_small_at(AT_FDCWD, path, 1 << 16, ret, ret_size);
}

/* Gives 0, -errno, or 1 where the kernel is too old for it. */
static int open_task(struct task *t)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", t->proc);
	t->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/pagemap", t->proc);
	t->pagemap_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (t->pidfd < 0)
		t->pidfd = (int)syscall(__NR_pidfd_open, t->proc, t->leader_gone ? PIDFD_THREAD : 0);
	if (t->pidfd < 0 && t->leader_gone && errno == EINVAL)
		return 1;
	return t->mem_fd < 0 || t->pagemap_fd < 0 || t->pidfd < 0 ? -errno : 0;
}

/* prlimit(2) is quicker than the file, which may be read where that is not allowed. */
static int read_limits(struct task *t)
{
	for (int i = 0; i < 16; i++) {
		struct rlimit limit;
		if (prlimit(t->proc, (__rlimit_resource_t)i, NULL, &limit) < 0)
			return proc_read_limits(t->proc, t->view.limits);
		t->view.limits[i][0] = limit.rlim_cur;
		t->view.limits[i][1] = limit.rlim_max;
	}
	return 0;
}

static void read_links(struct task *t)
{
	for (size_t i = 0; i < ARRAY_SIZE(task_links); i++) {
		char path[64], target[PATH_MAX];
		struct stat st;
		t->view.links[i].is_parents = t->parent && insight_same_link(t, t->parent, i);
		if (t->view.links[i].is_parents)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/%s", t->proc, task_links[i]);
		ssize_t n = readlink(path, target, sizeof(target));
		if (n >= 0 && stat(path, &st) == 0)
			t->view.links[i] = (struct task_link){ strndup(target, (size_t)n), st.st_ino, false };
	}
}

static bool is_inherited(const struct task *t, size_t index, int fd)
{
	const int seen = insight_inherited(t, index);

	return seen >= 0 ? seen : syscall(__NR_kcmp, t->parent->proc, t->proc, KCMP_FILE, fd, fd) == 0;
}

static void read_descriptors(struct task *t)
{
	struct task_view *v = &t->view;

	v->fds_result = v->fds_seen ? 0 : proc_list_fds(t->proc, &v->fds);
	if (v->fds_result || v->fds.count > DESCRIPTORS_AHEAD)
		return;
	v->inherited = calloc(v->fds.count + 1, sizeof(*v->inherited));
	v->fdinfos = calloc(v->fds.count + 1, sizeof(*v->fdinfos));
	for (size_t i = 0; v->inherited && v->fdinfos && i < v->fds.count; i++) {
		char path[64], *text;
		size_t size;
		int fd = v->fds.data[i];
		v->inherited[i] = t->parent && t->parent->state != TASK_DEAD && is_inherited(t, i, fd);
		if (v->inherited[i])
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", t->proc, fd);
		if (!read_small_at(AT_FDCWD, path, FDINFO_MAX, &text, &size))
			v->fdinfos[i] = realloc(text, size + 1); /* smaller: it stays */
	}
}

static bool take(bool *taken)
{
	return !__atomic_exchange_n(taken, true, __ATOMIC_RELAXED);
}

/* What is needed before its threads can be looked at. */
static void look_first(struct task *t)
{
	struct task_view *v = &t->view;

	v->open_result = open_task(t);
	v->status_result = thread_read_status(t->threads.data[0]);
	__atomic_store_n(&v->first.done, true, __ATOMIC_RELEASE);
}

static void look_at_rest(const struct dump *d, struct task *t)
{
	struct task_view *v = &t->view;
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", t->proc);
	v->foreign_namespace = v->namespaces_seen ? NULL : find_foreign_namespace(d, pid);
	v->maps_result = live_read_maps(d, t);
	v->timers_result = v->timers_seen ? 0 : proc_read_timers(t->proc, &v->timers);
	v->limits_result = v->limits_seen ? 0 : read_limits(t);
	read_descriptors(t);
	read_links(t);
	if (!v->auxv)
		v->auxv_result = read_text(t, "auxv", &v->auxv, &v->auxv_size);
	if (!v->coredump_filter && read_text(t, "coredump_filter", &v->coredump_filter, NULL))
		v->coredump_filter = NULL;
	if (!v->oom_score_adj && read_text(t, "oom_score_adj", &v->oom_score_adj, NULL))
		v->oom_score_adj = NULL;
	__atomic_store_n(&v->rest.done, true, __ATOMIC_RELEASE);
}

static void look_if_free(const struct dump *d, struct task *t)
{
	if (take(&t->view.first.taken))
		look_first(t);
	if (take(&t->view.rest.taken))
		look_at_rest(d, t);
}

static void look_from_the_end(void *argument)
{
	struct dump *d = argument;

	for (size_t i = d->tasks.count; i-- > 0;) {
		struct task *t = d->tasks.data[i];
		if (t->state != TASK_DEAD && !t->refused)
			look_if_free(d, t);
	}
}

static void look_at_ourselves(struct dump *d)
{
	const bool known = d->own_namespaces[0][0];

	char root[16];

	snprintf(root, sizeof(root), "%d", d->request->pid);
	for (size_t i = 0; !known && i < ARRAY_SIZE(namespaces); i++)
		read_namespace(i < OF_TIME && !d->ns_own ? "self" : root, i < OF_TIME ? i : OF_TIME, d->own_namespaces[i]);
}

struct early_look {
	const struct dump *d;
	struct task *t;
};

static void look_early(void *argument)
{
	struct early_look *l = argument;

	look_if_free(l->d, l->t);
	free(l);
}

void task_look_early(struct dump *d, struct task *t)
{
	/* A GPU's driver is about to change what a process has. */
	struct early_look *l = d->workers && !d->cuda && t->threads.count >= THREADS_MANY ? malloc(sizeof(*l)) : NULL;

	if (!l)
		return;
	insight_look(d, t);
	look_at_ourselves(d);
	descriptors_reserve(DESCRIPTORS_MANY + t->threads.count);
	*l = (struct early_look){ d, t };
	workers_submit_large(d->workers, look_early, l);
}

void tree_look(struct dump *d)
{
	size_t helpers = d->workers ? MIN(d->tasks.count / TASKS_EACH, (size_t)WORKERS_MAX) : 0;

	look_at_ourselves(d);
	for (size_t i = 0; i < d->tasks.count; i++)
		insight_look(d, d->tasks.data[i]);
	for (size_t i = 0; i < helpers; i++)
		workers_submit_large(d->workers, look_from_the_end, d);
}

/*
 * A thread inside a restartable sequence (rseq(2)) goes on at the sequence's abort handler, as the kernel would have it
 * after any preemption: once the agent has run in it the kernel no longer knows that it was in one.
 */
static void leave_sequence(struct task *t, struct thread *thread, uint64_t at)
{
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} sequence;

	if (!at)
		return;
	if (pread(t->mem_fd, &sequence, sizeof(sequence), (off_t)at) != sizeof(sequence))
		return;
	if (thread->tracee.regs.rip - sequence.start < sequence.length)
		thread->tracee.regs.rip = sequence.abort;
}

/*
 * What must be known before a thread can run the agent: the signal that stops it without an effect on it, and that seccomp does not end it. One
 * of several threads tells the rest of its status through the agent, if seccomp is put aside and there is such a signal.
 */
static int prepare_thread(struct dump *d, struct thread *th)
{
	const struct proc_status *process = th->task->threads.data[0]->status;
	bool first = th == th->task->threads.data[0];
	struct tracee *tracee = &th->tracee;
	int options = PTRACE_O_TRACESYSGOOD | PTRACE_O_SUSPEND_SECCOMP, r = 0;

	/* Of its own signals that are pending, those without an effect do not matter. */
	tracee->quiet_signal = agent_quiet_signal(process->sig_cgt, process->sig_ign, tracee->sigmask, process->sig_pnd | process->shd_pnd);
	if (!first && !th->task->leader_gone && tracee->quiet_signal && ptrace(PTRACE_SETOPTIONS, th->tid, 0, options) == 0)
		return 0;
	if (!first && (r = thread_read_status(th)))
		return task_errno(d, th->task, r, "cannot read the status of its thread %d", th->tid);
	if (th->status->seccomp && th->task->leader_gone)
		return task_error(d, th->task, -ENOTSUP, "its main thread has ended and others run on under seccomp, which has no way to be saved");
	if (th->status->seccomp && ptrace(PTRACE_SETOPTIONS, th->tid, 0, options) < 0)
		return task_errno(d, th->task, -errno, "cannot put its seccomp filter aside");
	return 0;
}

int task_prepare_threads(struct dump *d, struct task *t)
{
	int r = 0;

	for (size_t i = 1; !r && i < t->threads.count; i++)
		r = prepare_thread(d, t->threads.data[i]);
	return r;
}

/* Before Linux 5.13, or without CONFIG_RSEQ, there are none. */
static int read_rseq(struct thread *th)
{
	if (th->insight.rseq_seen || ptrace(PTRACE_GET_RSEQ_CONFIGURATION, th->tid, sizeof(th->rseq), &th->rseq) >= 0)
		return 0;
	return errno == EIO || errno == EINVAL ? 0 : -errno;
}

#define SEQUENCES_AT_ONCE 256

static uint64_t read_sequence(const struct task *t, uint64_t at)
{
	uint64_t word;

	return pread(t->mem_fd, &word, sizeof(word), (off_t)at) == sizeof(word) ? word : 0;
}

/*
 * Where each of these threads says that it is inside a sequence, 0: in none. In one call, but for the first, whose page the process may share with
 * the one that it was forked from: it would get its own copy.
 */
static void read_sequences(const struct dump *d, const struct task *t, size_t first, size_t count, uint64_t words[SEQUENCES_AT_ONCE])
{
	struct iovec ours[SEQUENCES_AT_ONCE], its[SEQUENCES_AT_ONCE];
	size_t n = 0;

	memset(words, 0, count * sizeof(*words));
	for (size_t i = 0; i < count; i++) {
		const uint64_t area = t->threads.data[first + i]->rseq.rseq_abi_pointer;
		const bool singly = !(first + i) || d->request->track; /* memory/pins.h */
		if (area && singly)
			words[i] = read_sequence(t, area + 8);
		if (!area || singly)
			continue;
		ours[n] = (struct iovec){ &words[i], sizeof(words[i]) };
		its[n++] = (struct iovec){ (void *)(area + 8), sizeof(words[i]) };
	}
	if (!n || process_vm_readv(t->proc, ours, n, its, n, 0) == (ssize_t)(n * sizeof(*words)))
		return;
	for (size_t i = 0; i < n; i++) /* one of them has no memory there */
		*(uint64_t *)ours[i].iov_base = read_sequence(t, (uint64_t)its[i].iov_base);
}

static int leave_sequences(struct dump *d, struct task *t)
{
	uint64_t words[SEQUENCES_AT_ONCE];
	int r = 0;

	for (size_t i = 0; !r && i < t->threads.count; i++) {
		r = read_rseq(t->threads.data[i]);
		if (r)
			return task_errno(d, t, r, "cannot read the rseq area of its thread %d", t->threads.data[i]->tid);
	}
	for (size_t i = 0; i < t->threads.count; i++) {
		if (i % SEQUENCES_AT_ONCE == 0)
			read_sequences(d, t, i, MIN(t->threads.count - i, (size_t)SEQUENCES_AT_ONCE), words);
		leave_sequence(t, t->threads.data[i], words[i % SEQUENCES_AT_ONCE]);
	}
	return 0;
}

/* What only the tracer can read and set. */
static int read_threads(struct dump *d, struct task *t)
{
	int r = leave_sequences(d, t);

	for (size_t i = 0; !r && i < t->threads.count; i++) {
		struct thread *thread = t->threads.data[i];
		if (thread->tracee.regs.cs == USER_CS_32)
			return task_error(d, t, -ENOTSUP, "it is a 32-bit program, which is not supported; run a 64-bit build of it");
		if (thread->tracee.stop_signal != t->threads.data[0]->tracee.stop_signal)
			return task_error(d, t, -EAGAIN, "it is being stopped by a signal at this moment; try again");
		if (thread->insight.no_dispatch)
			continue;
		r = tracee_get_dispatch(&thread->tracee, &thread->tracee.dispatch);
		if (r == DISPATCH_UNTOLD)
			r = i ? 0 : dispatch_refuse_untold(d, t);
		else if (r)
			r = task_errno(d, t, r, "cannot read the dispatch of system calls of its thread %d", thread->tid);
	}
	r = r ? r : prepare_thread(d, t->threads.data[0]);
	if (r)
		return r;
	t->threads.data[0]->tracee.alone = t->threads.count == 1;
	if (t->threads.data[0]->tracee.stop_signal) {
		t->state = TASK_STOPPED;
		t->stop_signal = t->threads.data[0]->tracee.stop_signal;
	}
	return 0;
}

/* `briefly`: of the rest, only its maps. */
static int look(struct dump *d, struct task *t, bool briefly)
{
	struct task_view *v = &t->view;
	int r;

	if (take(&v->first.taken))
		look_first(t);
	else if (!__atomic_load_n(&v->first.done, __ATOMIC_ACQUIRE))
		workers_wait(d->workers);
	if (v->open_result > 0)
		r = task_error(d, t, -ENOTSUP, "its main thread has ended and others run on, which can't be saved before Linux 6.9");
	else if (v->open_result || v->status_result)
		r = task_errno(d, t, v->open_result ? v->open_result : v->status_result, "cannot open its memory and its status");
	else
		r = read_threads(d, t);
	if (take(&v->rest.taken)) {
		if (briefly)
			v->maps_result = live_read_maps(d, t);
		else
			look_at_rest(d, t);
	} else if (!__atomic_load_n(&v->rest.done, __ATOMIC_ACQUIRE)) {
		workers_wait(d->workers);
	}
	return !r && v->maps_result ? task_errno(d, t, v->maps_result, "cannot read its maps") : r;
}

int task_look(struct dump *d, struct task *t)
{
	return look(d, t, false);
}

int task_look_briefly(struct dump *d, struct task *t)
{
	return look(d, t, true);
}

void task_view_free(struct task *t)
{
	for (size_t i = 0; t->view.fdinfos && i < t->view.fds.count; i++)
		free(t->view.fdinfos[i]);
	free(t->view.fdinfos);
	free(t->view.inherited);
	free(t->view.fd_flags);
	for (size_t i = 0; i < ARRAY_SIZE(t->view.links); i++)
		free(t->view.links[i].target);
	VEC_FREE(&t->view.fds);
	VEC_FREE(&t->view.timers);
	free(t->view.auxv);
	free(t->view.coredump_filter);
	free(t->view.oom_score_adj);
}
