/* CUDA processes in a dump. See cuda.h. */
#include "base/log.h"
#include "engine/cuda/parts.h"
#include "engine/memory/live.h"

#include <fcntl.h>
#include <signal.h>
#include <time.h>

#define LOCK_TIMEOUT_MS 10000
#define ROUNDS_MAX 20
#define BEGINNING_NS 1000000
#define MAPS_MAX (256UL << 20)

/* ---- finding them ---- */

/* Has it loaded the driver's library, or mapped one of its devices? */
static bool may_use_cuda(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	return !read_file_at(AT_FDCWD, path, MAPS_MAX, &text, NULL) && (strstr(text, "/libcuda.so") || strstr(text, " /dev/nvidia"));
}

int cuda_list_tree(struct pids *tree, pid_t root)
{
	pid_t *slot = VEC_PUSH(&tree->list);

	if (!slot)
		return -ENOMEM;
	*slot = root;
	for (size_t i = 0; i < tree->list.count; i++) {
		struct proc_pids tids = {};
		proc_list_threads(tree->list.data[i], &tids);
		for (size_t k = 0; k < tids.count; k++) {
			struct proc_pids children = {};
			proc_list_children(tree->list.data[i], tids.data[k], &children);
			for (size_t c = 0; c < children.count; c++) {
				slot = VEC_PUSH(&tree->list);
				if (slot)
					*slot = children.data[c];
			}
			VEC_FREE(&children);
		}
		VEC_FREE(&tids);
	}
	return 0;
}

struct cuda_process *cuda_find(const struct dump *d, pid_t pid)
{
	if (d->cuda)
		VEC_FOREACH(&d->cuda->processes, p)
			if (p->pid == pid)
				return p;
	return NULL;
}

static int open_gpu(struct dump *d, pid_t pid)
{
	if (!d->cuda && !(d->cuda = calloc(1, sizeof(*d->cuda))))
		return error_set(d->e, -ENOMEM, "out of memory");
	if (d->cuda->gpu)
		return 0;
	log_info("Asking the GPU's driver of process %d", pid);
	int r = gpu_open(NULL, d->request->gpu_helper, &d->cuda->gpu, d->e);
	if (!r)
		r = gpu_ready(d->cuda->gpu, d->e);
	if (!r)
		r = gpu_machine_read(d->cuda->gpu, &d->cuda->machine, d->e);
	if (!r)
		d->cuda->own = d->cuda->machine->own && !d->request->gpu_staged;
	return r ? error_prefix(d->e, r, "process %d (%s) uses CUDA, and its GPU state can't be saved", pid, comm_of(pid, &(struct proc_stat){})) : 0;
}

static uint64_t memory_of(const struct gpu_machine *m, pid_t pid)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < m->n_users; i++)
		if (m->users[i].pid == (uint32_t)pid && m->users[i].used != UINT64_MAX)
			sum += m->users[i].used;
	return sum;
}

/* One that may be a CUDA process: asked of the driver, and added. 1: it is one. */
static int add_process(struct dump *d, pid_t pid)
{
	struct gpu_call call = { .op = GPU_STATE, .pid = pid };
	int r = open_gpu(d, pid);

	if (!r)
		r = gpu_run(d->cuda->gpu, &call, 1, cuda_deadline(d->request), d->e);
	if (r)
		return r;
	if (call.result == -ESRCH)
		return 0;
	if (call.result)
		return cuda_error(d, pid, call.result, "the GPU's driver can't say its state (%s)", call.why);
	if (call.value != GPU_RUNNING && call.value != GPU_CHECKPOINTED)
		return cuda_error(d, pid, -EBUSY, "its GPU state is %s already, by someone else; see cuda-checkpoint", gpu_state_name(call.value));
	struct cuda_process *p = VEC_PUSH(&d->cuda->processes);
	if (!p)
		return error_set(d->e, -ENOMEM, "out of memory");
	*p = (struct cuda_process){ .pid = pid, .before = call.value, .now = call.value, .memory = memory_of(d->cuda->machine, pid) };
	r = cuda_software_add(&d->cuda->software, pid);
	return r ? error_set(d->e, r, "out of memory") : 1;
}

/* Adds those that are not known. Gives how many. */
static int find_processes(struct dump *d)
{
	struct pids tree = {};
	int found = 0, r = cuda_list_tree(&tree, d->request->pid);

	if (r)
		error_set(d->e, r, "out of memory");
	for (size_t i = 0; r >= 0 && i < tree.list.count; i++) {
		pid_t pid = tree.list.data[i];
		if (cuda_find(d, pid) || !may_use_cuda(pid))
			continue;
		r = add_process(d, pid);
		found += r > 0;
	}
	VEC_FREE(&tree.list);
	return r < 0 ? r : found;
}

/* ---- the calls ---- */

/* What a failure of the driver's means for this process. */
static int call_failed(struct dump *d, const struct gpu_call *call)
{
	const char *name = gpu_op_name(call->op);

	if (call->op == GPU_LOCK && call->result == -ETIMEDOUT)
		return cuda_error(d, call->pid, -ETIMEDOUT, "its work on the GPU did not end within %u ms; try again, or give more time with --gpu-timeout",
				  call->timeout_ms);
	if (call->result == -ENOTSUP)
		return cuda_error(d, call->pid, -ENOTSUP, "its GPU state can't be saved (%s: %s): managed memory, CUDA IPC or MPS, perhaps; let the program do without", name, call->why);
	if (call->result == -ENOMEM)
		return cuda_error(d, call->pid, -ENOMEM, "its GPU state can't be saved (%s: %s): too little memory, or a divided GPU (MIG)", name, call->why);
	return cuda_error(d, call->pid, call->result, "the GPU's driver failed to %s it: %s", name, call->why);
}

/* Where its device memory goes, or is. */
static void name_memory(struct gpu_call *call, const struct cuda_process *p)
{
	call->own = true;
	call->fd = p->image->fd;
	call->digests = call->op == GPU_CHECKPOINT ? p->image->digests : -1;
	call->in_memory = p->image->in_memory;
	if (call->op != GPU_RESTORE)
		return;
	call->n_regions = p->n_regions;
	if (p->n_regions)
		memcpy(call->regions, p->regions, p->n_regions * sizeof(*p->regions));
}

/* On which GPUs it is, as far as NVML tells. */
static void name_gpus(struct gpu_call *call, const struct gpu_machine *m)
{
	for (uint32_t i = 0; i < m->n_users && call->n_regions < GPU_DEVICES_MAX; i++)
		if (m->users[i].pid == (uint32_t)call->pid && m->users[i].device < m->n_devices)
			memcpy(call->regions[call->n_regions++].uuid, m->devices[m->users[i].device].uuid, GPU_UUID_MAX);
}

static bool note_regions(struct cuda_process *p, const struct gpu_call *call)
{
	free(TAKE_PTR(p->regions));
	p->n_regions = 0;
	if (!call->own || !call->n_regions)
		return true;
	p->regions = malloc(call->n_regions * sizeof(*p->regions));
	if (!p->regions)
		return false;
	memcpy(p->regions, call->regions, call->n_regions * sizeof(*p->regions));
	p->n_regions = call->n_regions;
	p->image->size = p->regions[p->n_regions - 1].offset + p->regions[p->n_regions - 1].size;
	return true;
}

/*
 * The same call for every process in one state, all at once; with `threads` the driver's threads run. Each that succeeded is noted.
 * Gives the first failure.
 */
static int call_all(struct dump *d, enum gpu_op op, enum gpu_state from, enum gpu_state to, bool threads)
{
	size_t n = d->cuda->processes.count, count = 0;
	_cleanup_free_ struct gpu_call *calls = calloc(n, sizeof(*calls));
	_cleanup_free_ struct cuda_process **of = calloc(n, sizeof(*of));
	_cleanup_free_ struct cuda_thread *running = calloc(n, sizeof(*running));
	size_t n_running = 0;
	int r = 0;

	if (!calls || !of || !running)
		return error_set(d->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&d->cuda->processes, p) {
		if (p->now != from || p->before != GPU_RUNNING || p->stalled)
			continue;
		uint32_t timeout = d->request->gpu_timeout_ms ? d->request->gpu_timeout_ms : LOCK_TIMEOUT_MS;
		of[count] = p;
		calls[count] = (struct gpu_call){ .op = op, .pid = p->pid, .timeout_ms = op == GPU_LOCK ? timeout : 0, .own = op == GPU_LOCK && d->cuda->own };
		if (p->image && (op == GPU_CHECKPOINT || op == GPU_RESTORE))
			name_memory(&calls[count], p);
		if (d->cuda->own && (op == GPU_LOCK || op == GPU_CHECKPOINT))
			name_gpus(&calls[count], d->cuda->machine);
		count++;
		if (threads)
			running[n_running++] = p->thread;
	}
	if (!count)
		return 0;
	r = cuda_call(d->cuda->gpu, calls, count, running, n_running, cuda_deadline(d->request), d->e);
	for (size_t i = 0, k = 0; i < count; i++) {
		if (threads)
			of[i]->thread = running[k++];
		of[i]->stalled = !calls[i].done;
		if (calls[i].done && !calls[i].result)
			of[i]->now = to;
		if (calls[i].done && !calls[i].result && op == GPU_CHECKPOINT && !note_regions(of[i], &calls[i]))
			r = error_set(d->e, -ENOMEM, "out of memory");
	}
	for (size_t i = 0; !r && i < count; i++)
		if (calls[i].result)
			r = call_failed(d, &calls[i]);
	return r;
}

static bool is_off(const struct dump *d)
{
	return d->request->gpu == GPU_NEVER || (d->request->gpu == GPU_AUTO && !gpu_present());
}

static uint64_t resident(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	unsigned long long pages;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	return !read_small_at(AT_FDCWD, path, 256, &text, NULL) && sscanf(text, "%*u %llu", &pages) == 1 ? pages * PAGE_SIZE : 0;
}

/* Room for what is copied in the pause of a live dump: all that the processes have, as long as that leaves as much. */
static void reserve(struct dump *d)
{
	uint64_t size = 0;

	VEC_FOREACH(&d->cuda->processes, p) {
		if (p->now == GPU_RUNNING)
			size += resident(p->pid) + (d->cuda->own ? 0 : p->memory);
	}
	if (size < cuda_memory_available() / 2)
		live_reserve(d, size);
}

/* New ones, and those of a live dump that is made once more. */
static bool has_unlocked(const struct dump *d)
{
	if (d->cuda)
		VEC_FOREACH(&d->cuda->processes, p)
			if (p->now == GPU_RUNNING)
				return true;
	return false;
}

int cuda_lock(struct dump *d)
{
	if (is_off(d))
		return 0;
	for (int rounds = 0; rounds < ROUNDS_MAX; rounds++) {
		int r = find_processes(d);
		if (r < 0 || (!r && !has_unlocked(d)))
			return r;
		r = cuda_check_obstacles(d);
		if (!r && d->live)
			reserve(d);
		if (!r)
			r = call_all(d, GPU_LOCK, GPU_RUNNING, GPU_LOCKED, false);
		if (r)
			return r;
		log_info("Locked %zu CUDA processes", d->cuda->processes.count);
	}
	return error_set(d->e, -EAGAIN, "it keeps starting CUDA processes; try again");
}

int cuda_check(struct dump *d)
{
	if (is_off(d))
		return 0;
	int r = find_processes(d);

	return r <= 0 ? dump_part(d, r) : cuda_check_obstacles(d);
}

bool cuda_has(const struct dump *d, pid_t pid)
{
	return cuda_find(d, pid) != NULL;
}

bool cuda_used(const struct dump *d)
{
	return d->cuda && d->cuda->processes.count;
}

bool cuda_releases(const struct dump *d, pid_t pid)
{
	const struct cuda_process *p = cuda_find(d, pid);

	return d->obstacles && p && p->now == GPU_RUNNING;
}

/* ---- the tree is stopped ---- */

static struct thread *find_thread(struct dump *d, pid_t pid, pid_t tid, struct task **ret)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		for (size_t k = 0; d->tasks.data[i]->pid == pid && k < d->tasks.data[i]->threads.count; k++)
			if (d->tasks.data[i]->threads.data[k]->tid == tid) {
				*ret = d->tasks.data[i];
				return d->tasks.data[i]->threads.data[k];
			}
	return NULL;
}

/* Which of each process's threads is the driver's. */
static int find_restore_threads(struct dump *d)
{
	VEC_FOREACH(&d->cuda->processes, p) {
		struct gpu_call call = { .op = GPU_RESTORE_THREAD, .pid = p->pid };
		struct task *task;
		int r = gpu_run(d->cuda->gpu, &call, 1, cuda_deadline(d->request), d->e);
		if (r)
			return r;
		if (call.result)
			return call_failed(d, &call);
		struct thread *thread = find_thread(d, p->pid, (pid_t)call.value, &task);
		if (!thread)
			return cuda_error(d, p->pid, -EAGAIN, "the GPU driver's thread %u is not among its threads; try again", call.value);
		p->thread = (struct cuda_thread){ .pid = p->pid, .tid = thread->tid, .tracee = &thread->tracee };
	}
	d->cuda->threads_known = true;
	return 0;
}

/* What ran meanwhile has other registers now, and may have made threads, which nobody holds. */
static int look_again(struct dump *d, struct cuda_process *p)
{
	struct task *task = NULL;
	struct proc_pids tids = {};
	int r = cuda_thread_stop(&p->thread, d->e);

	if (!r && !find_thread(d, p->pid, p->thread.tid, &task))
		r = cuda_error(d, p->pid, -ESRCH, "its thread %d has gone", p->thread.tid);
	if (!r && (r = proc_list_threads(p->pid, &tids)))
		r = cuda_error(d, p->pid, r, "cannot list its threads");
	if (!r && tids.count != task->threads.count + task->leader_gone)
		r = cuda_error(d, p->pid, -EAGAIN, "the GPU's driver has changed its threads meanwhile; try again");
	VEC_FREE(&tids);
	return r;
}

/* A process that came between the last look and the stop. */
static bool has_newcomers(struct dump *d)
{
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		if (t->state != TASK_DEAD && !cuda_find(d, t->pid) && may_use_cuda(t->proc))
			return true;
	}
	return false;
}

/* A newcomer with the library that has not begun to use it is none. The driver is asked without the tree's help, since that is stopped. */
static int ask_newcomers(struct dump *d)
{
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		struct gpu_call call = { .op = GPU_RESTORE_THREAD, .pid = t->pid };
		char device[64];
		if (t->state == TASK_DEAD || cuda_find(d, t->pid) || !may_use_cuda(t->proc))
			continue;
		int r = open_gpu(d, t->pid);
		if (!r)
			r = gpu_run(d->cuda->gpu, &call, 1, cuda_deadline(d->request), d->e);
		if (r || !call.result)
			return r ? r : 1;
		if (cuda_holds_device(t->pid, "/dev/nvidia", device)) { /* it is just beginning */
			nanosleep(&(struct timespec){ 0, BEGINNING_NS }, NULL);
			return 1;
		}
	}
	return 0;
}

/* Those of an earlier pause have gone with what was dumped then. */
static int open_images(struct dump *d)
{
	int r = 0;

	VEC_FOREACH(&d->cuda->processes, p) {
		if (r || !d->cuda->own || p->now != GPU_LOCKED || p->before != GPU_RUNNING)
			continue;
		if (p->image)
			cuda_image_close(p->image);
		else if (!(p->image = calloc(1, sizeof(*p->image))))
			return error_set(d->e, -ENOMEM, "out of memory");
		r = cuda_image_open(d, p->image, p->pid);
	}
	return r;
}

/* The workers write them meanwhile. */
static int write_images(struct dump *d)
{
	int r = 0;

	VEC_FOREACH(&d->cuda->processes, p)
		if (!r && p->image)
			r = cuda_image_write(d, p->image);
	return r;
}

int cuda_checkpoint(struct dump *d)
{
	int r = !is_off(d) && has_newcomers(d) ? ask_newcomers(d) : 0;

	if (r || !d->cuda)
		return r;
	r = find_restore_threads(d);
	if (!r)
		r = open_images(d);
	if (!r)
		r = call_all(d, GPU_CHECKPOINT, GPU_LOCKED, GPU_CHECKPOINTED, true);
	if (!r)
		VEC_FOREACH(&d->cuda->processes, p)
			if (!r && p->thread.runs)
				r = look_again(d, p);
	if (!r)
		log_info("The GPU state of %zu processes is in %s", d->cuda->processes.count, d->cuda->own ? "files" : "their memory");
	return r || d->live ? r : write_images(d);
}

int cuda_images(struct dump *d)
{
	int r = 0;

	if (d->cuda && d->live)
		r = write_images(d);
	if (d->cuda)
		VEC_FOREACH(&d->cuda->processes, p) {
			int s = p->image ? cuda_image_finish(d, p->image) : 0;
			r = r ? r : s;
		}
	return r;
}

/* ---- the end ---- */

static bool has_stalled(const struct cuda_dump *c)
{
	VEC_FOREACH(&c->processes, p)
		if (p->stalled)
			return true;
	return false;
}

/* A helper that has died says nothing of where a process stands: a new one asks the driver. */
static int recover(struct dump *d)
{
	struct error ignored;
	int r;

	if (!gpu_collect(d->cuda->gpu, &ignored) && !gpu_has_died(d->cuda->gpu))
		return 0;
	log_warning("The GPU helper has died; another one goes on");
	gpu_close(TAKE_PTR(d->cuda->gpu));
	r = gpu_open(NULL, d->request->gpu_helper, &d->cuda->gpu, d->e);
	if (!r)
		r = gpu_ready(d->cuda->gpu, d->e);
	VEC_FOREACH(&d->cuda->processes, p) {
		struct gpu_call call = { .op = GPU_STATE, .pid = p->pid };
		if (r || p->before != GPU_RUNNING)
			continue;
		r = cuda_call(d->cuda->gpu, &call, 1, &p->thread, 1, cuda_deadline(d->request), d->e);
		if (!r && call.result)
			r = call_failed(d, &call);
		if (!r) {
			p->now = call.value;
			p->stalled = false;
		}
	}
	return r;
}

/* In the middle of an operation of a helper that has died: the driver knows of no way back. */
static int find_stranded(struct dump *d)
{
	VEC_FOREACH(&d->cuda->processes, p)
		if (p->before == GPU_RUNNING && !p->stalled && p->now != GPU_RUNNING && p->now != GPU_LOCKED && p->now != GPU_CHECKPOINTED)
			return cuda_error(d, p->pid, -EIO, "its GPU state is %s, in the hands of a helper that has died, and can't be put back", gpu_state_name(p->now));
	return 0;
}

int cuda_resume(struct dump *d)
{
	struct error why = {}, *outer = d->e;

	if (d->cuda && d->cuda->resumed)
		return error_set(d->e, d->cuda->resumed, "%s", d->cuda->why.text);
	if (!d->cuda || !d->cuda->threads_known) /* then none is more than locked, which cuda_finish ends */
		return 0;
	d->e = &why;
	int r = recover(d);
	if (!r)
		r = call_all(d, GPU_RESTORE, GPU_CHECKPOINTED, GPU_LOCKED, true);
	if (!r)
		r = call_all(d, GPU_UNLOCK, GPU_LOCKED, GPU_RUNNING, true);
	if (!r)
		r = find_stranded(d);
	/* They are let go with the others; a thread that runs can't be. */
	VEC_FOREACH(&d->cuda->processes, p) {
		struct error ignored;
		cuda_thread_stop(&p->thread, &ignored);
	}
	d->cuda->threads_known = false;
	d->e = outer;
	if (!r)
		log_info("%zu CUDA processes have their GPUs again", d->cuda->processes.count);
	d->cuda->resumed = r;
	if (r)
		error_set(&d->cuda->why, r, "the tree runs on, but not its work on the GPU: %s; see cuda-checkpoint --toggle --pid", why.text);
	return r ? error_set(d->e, r, "%s", d->cuda->why.text) : 0;
}

static void release_processes(struct cuda_dump *c)
{
	VEC_FOREACH(&c->processes, p) {
		if (p->image)
			cuda_image_close(p->image);
		free(p->image);
		free(p->regions);
	}
	c->processes.count = 0;
}

void cuda_forget(struct dump *d)
{
	struct error ignored;

	if (!d->cuda || !d->cuda->gpu)
		return;
	VEC_FOREACH(&d->cuda->processes, p) {
		struct gpu_call call = { .op = GPU_FORGET, .pid = p->pid };
		gpu_run(d->cuda->gpu, &call, 1, cuda_deadline(d->request), &ignored);
	}
	release_processes(d->cuda);
}

void cuda_finish(struct dump *d)
{
	struct error why = {}, *outer = d->e;

	if (!d->cuda)
		return;
	d->e = &why;
	if (d->cuda->gpu && call_all(d, GPU_UNLOCK, GPU_LOCKED, GPU_RUNNING, false))
		log_error("%s", why.text);
	d->e = outer;
	/* What hangs is undone by the helper, should it come back. */
	if (has_stalled(d->cuda))
		gpu_leave(d->cuda->gpu);
	else
		gpu_close(d->cuda->gpu);
	free(d->cuda->machine);
	release_processes(d->cuda);
	cuda_software_release(&d->cuda->software);
	VEC_FREE(&d->cuda->processes);
	free(TAKE_PTR(d->cuda));
}

