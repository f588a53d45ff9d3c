/*
 * Dump: freeze, ask, capture, memory, commit; to be read from engine_dump at the end upwards. A check (engine_check) takes the same way
 * without memory, and writes nothing.
 *
 * Nothing is changed in a target but through the agent's seat (tracee.h). What can't be saved is refused by whoever finds it.
 */
#include "engine/dump.h"

#include "base/log.h"
#include "base/workers.h"
#include "engine/arch/x86_64/processor.h"
#include "engine/cgroups.h"
#include "engine/cuda/cuda.h"
#include "engine/engine.h"
#include "engine/kernel.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/tcp.h"
#include "engine/memory/increment.h"
#include "engine/memory/live.h"
#include "engine/memory/shmem.h"
#include "engine/memory/sysv.h"
#include "engine/ns/mnt.h"
#include "engine/ns/ns.h"
#include "engine/ns/relay.h"
#include "engine/plan/births.h"
#include "engine/task/hidden.h"
#include "engine/task/insight.h"
#include "engine/task/state.h"
#include "engine/task/sysv_ipc.h"
#include "engine/watch.h"
#include "image/store/store.h"
#include "engine/task/clocks.h"
#include "inventory.pb-c.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>

#define STOP_TRIES 5
#define USUAL_DESCRIPTORS 250 /* of a small tree */

int dump_write_one(struct dump *d, const char *name, uint32_t magic, const ProtobufCMessage *m)
{
	struct image_file *file;
	int r = image_create(d->dir, name, magic, &file);

	if (!r) {
		r = image_write_message(file, m);
		int closed = image_close(file);
		r = r ? r : closed;
	}
	return r ? error_errno(d->e, r, "cannot write %s", name) : 0;
}

int dump_part(struct dump *d, int r)
{
	if (r >= 0 || r == -ENOMEM || !d->obstacles)
		return r;
	struct error *obstacle = VEC_PUSH(d->obstacles);
	if (!obstacle)
		return error_set(d->e, -ENOMEM, "out of memory");
	*obstacle = *d->e;
	*d->e = (struct error){};
	return 0;
}

struct kernel *dump_kernel(struct dump *d)
{
	if (!d->kernel_tried && kernel_open(&d->kernel))
		d->kernel = NULL;
	d->kernel_tried = true;
	return d->kernel;
}

static bool same(const struct task *a, const struct task *b, int what)
{
	const int seen = insight_same(a, b, what);

	return seen >= 0 ? seen : syscall(__NR_kcmp, a->proc, b->proc, what, 0, 0) == 0;
}

static int by_object(const void *a, const void *b, void *what)
{
	const struct task *x = *(struct task *const *)a, *y = *(struct task *const *)b;
	long order = syscall(__NR_kcmp, x->proc, y->proc, *(int *)what, 0, 0);

	return order == 1 ? -1 : order == 2;
}

static int by_seen_object(const void *a, const void *b, void *what)
{
	const uint64_t x = insight_object(*(struct task *const *)a, *(int *)what), y = insight_object(*(struct task *const *)b, *(int *)what);

	return x < y ? -1 : x > y;
}

/* Tasks that share something: all but one of them have it with their parent. */
static int check_shared(struct dump *d, int what, const char *name)
{
	_cleanup_free_ struct task **list = calloc(d->tasks.count, sizeof(*list));
	struct task *first = NULL;
	bool seen = true; /* of all: an order must be one */
	size_t count = 0;
	int r = list ? 0 : error_set(d->e, -ENOMEM, "out of memory");

	for (size_t i = 0; list && i < d->tasks.count; i++)
		if (d->tasks.data[i]->state != TASK_DEAD && !d->tasks.data[i]->refused)
			list[count++] = d->tasks.data[i];
	for (size_t i = 0; i < count; i++)
		seen &= insight_object(list[i], what) != 0;
	if (count)
		qsort_r(list, count, sizeof(*list), seen ? by_seen_object : by_object, &what);
	for (size_t i = 0; !r && i < count; i++) {
		struct task *t = list[i];
		if (!i || !same(list[i - 1], t, what))
			first = NULL;
		else
			t->shares_memory |= what == KCMP_VM;
		if (t->parent && t->parent->state != TASK_DEAD && same(t->parent, t, what))
			continue;
		if (first)
			r = dump_part(d, task_error(d, t, -ENOTSUP, "it shares its %s with process %d, which is not its parent; that is not saved", name,
						    first->pid));
		first = t;
	}
	return r;
}

static bool has_other(const struct thread *th, const struct task *t, int what)
{
	const uint64_t its = what == KCMP_FS ? th->insight.fs : th->insight.files, leaders = insight_object(t, what);

	return its && leaders ? its != leaders : syscall(__NR_kcmp, t->proc, th->tid, what, 0, 0) > 0;
}

/* What a thread has of its own (unshare), it alone. */
static int find_own(struct dump *d, struct task *t, size_t i, bool *ret_any)
{
	struct thread *th = t->threads.data[i];

	th->own_files = has_other(th, t, KCMP_FILES);
	th->own_fs = has_other(th, t, KCMP_FS);
	*ret_any |= th->own_files || th->own_fs;
	for (size_t k = 1; (th->own_files || th->own_fs) && k < i; k++) {
		const struct thread *other = t->threads.data[k];
		bool fs = th->own_fs && other->own_fs && syscall(__NR_kcmp, th->tid, other->tid, KCMP_FS, 0, 0) == 0;
		bool files = th->own_files && other->own_files && syscall(__NR_kcmp, th->tid, other->tid, KCMP_FILES, 0, 0) == 0;
		if (fs || files)
			return task_error(d, t, -ENOTSUP, "its threads %d and %d share a %s that is not the process's, which is not saved", other->tid, th->tid,
					  fs ? "current directory" : "descriptor table");
	}
	return 0;
}

/* What tasks share. Threads have their leader's descriptor table and directories. */
static int find_shared(struct dump *d, struct task *t)
{
	struct task *p = t->parent;
	bool own = false;

	t->files_id = t->fs_id = t->sighand_id = t->id;
	for (size_t i = 1; i < t->threads.count; i++) {
		struct thread *th = t->threads.data[i];
		int r = find_own(d, t, i, &own);
		if (r)
			return r;
		/* Of its umask only the status tells. */
		r = th->own_fs && !th->status_read ? thread_read_status(th) : 0;
		if (r)
			return task_errno(d, t, r, "cannot read the status of its thread %d", th->tid);
	}
	if (!p || p->state == TASK_DEAD)
		return 0;
	t->may_share &= !p->vm_owner; /* whose pages are stored with another */
	bool files = same(p, t, KCMP_FILES), fs = same(p, t, KCMP_FS), vm = same(p, t, KCMP_VM);
	if ((files || fs || vm) && !t->may_share_tables)
		return task_error(d, t, -ENOTSUP, "it shares its %s with process %d (clone), and is of a session that this can't give it when it is restored",
				  vm ? "memory" : files ? "descriptor table" : "current directory", p->pid);
	if (vm && (p->leader_gone || t->leader_gone))
		return task_error(d, t, -ENOTSUP, "it shares its memory with process %d, and a main thread of them has ended, which is not saved", p->pid);
	if (vm)
		t->vm_owner = p->vm_owner ? p->vm_owner : p;
	if (files && own)
		return task_error(d, t, -ENOTSUP, "it shares its descriptor table with process %d, and a thread has a current directory or table of its own, which is not saved",
				  p->pid);
	t->sighand_id = vm && same(p, t, KCMP_SIGHAND) ? p->sighand_id : t->id;
	t->files_id = files ? p->files_id : t->id;
	t->fs_id = fs ? p->fs_id : t->id;
	return 0;
}

/* The session or group of the root's that belongs to someone outside the tree. */
static pid_t external_session(struct dump *d)
{
	const struct task *root = d->tasks.data[0];

	return root->sid != root->pid ? root->sid : 0;
}

/* A tree whose sessions and groups restore could not rebuild is refused now. */
static int check_births(struct dump *d)
{
	_cleanup_free_ struct birth_task *list = calloc(d->tasks.count, sizeof(*list));
	struct births births = {};

	if (!list)
		return error_set(d->e, -ENOMEM, "out of memory");
	for (size_t i = 0; i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		list[i] = (struct birth_task){ .pid = t->pid, .pgid = t->pgid, .sid = t->sid, .parent = -1 };
		for (size_t k = 0; k < i; k++)
			if (d->tasks.data[k] == t->parent)
				list[i].parent = (int)k;
	}
	int r = births_plan(&births, list, d->tasks.count, external_session(d), d->e);
	for (size_t i = 0; !r && i < d->tasks.count; i++) {
		d->tasks.data[i]->may_share = !d->request->portable && births_from_parent(&births, list, i);
		d->tasks.data[i]->may_share_tables = births_by_parent(&births, list, i);
	}
	births_free(&births);
	return r;
}

static int write_tree(struct dump *d)
{
	struct image_file *file;
	int r = image_create(d->dir, "pstree.img", IMAGE_MAGIC_PSTREE, &file);

	for (size_t i = 0; !r && i < d->tasks.count; i++) {
		const struct task *t = d->tasks.data[i];
		PstreeEntry entry = PSTREE_ENTRY__INIT;
		size_t n = MAX(t->threads.count + t->leader_gone, 1UL);
		_cleanup_free_ uint32_t *tids = calloc(n, sizeof(*tids));
		if (!tids) {
			r = -ENOMEM;
			break;
		}
		tids[0] = (uint32_t)t->pid;
		for (size_t k = 0; k < t->threads.count; k++)
			tids[k + t->leader_gone] = (uint32_t)t->threads.data[k]->tid;
		entry.pid = (uint32_t)t->pid;
		entry.ppid = t->parent ? (uint32_t)t->parent->pid : 0;
		entry.pgid = (uint32_t)t->pgid;
		entry.sid = (uint32_t)t->sid;
		entry.threads = tids;
		entry.n_threads = n;
		r = image_write_message(file, &entry.base);
		if (r)
			image_close(file);
	}
	if (!r)
		r = image_close(file);
	return r ? error_errno(d->e, r, "cannot write pstree.img") : 0;
}

#define CRIU_NFTABLES 2 /* network_lock_method */

static int write_inventory(struct dump *d)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	FermataClocksEntry clocks;
	uint32_t processor[PROCESSOR_WORDS];
	char boot[BOOT_ID_SIZE];

	clocks_capture(d, &clocks, boot);
	inventory.clocks = d->request->pre_dump ? NULL : &clocks;
	processor_read(processor);
	inventory.n_processor = PROCESSOR_WORDS;
	inventory.processor = processor;
	inventory.img_version = 2;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = 1;
	ns_fill_ids(d, &ids, true);
	inventory.root_ids = &ids;
	inventory.has_tcp_close = inventory.tcp_close = d->request->tcp_close;
	if (d->tcp && d->request->network_lock == NETWORK_LOCK_NFTABLES) {
		if (getrandom(&d->network_lock_id, sizeof(d->network_lock_id), 0) < 0)
			return error_errno(d->e, -errno, "cannot get random bytes");
		inventory.has_network_lock_method = inventory.has_network_lock = 1;
		inventory.network_lock_method = CRIU_NFTABLES;
		inventory.network_lock = d->network_lock_id;
	}
	inventory.has_pre_dump_mode = d->request->pre_dump;
	int r = cuda_entry(d, &inventory.fermata_gpu);
	if (r)
		return error_set(d->e, r, "out of memory");
	r = dump_write_one(d, "inventory.img", IMAGE_MAGIC_INVENTORY, &inventory.base);
	cuda_entry_free(inventory.fermata_gpu);
	return r;
}

/* Where it is, and whether it can be examined: then it is asked what only it can tell. */
static int examine_task(struct dump *d, struct task *t)
{
	if (t->state == TASK_DEAD)
		return 0;
	int r = task_look(d, t);
	if (!r && d->obstacles)
		increment_look(t);
	if (!r)
		r = increment_open(d, t);
	if (!r)
		r = live_hold(d, t);
	if (!r)
		r = dump_part(d, find_shared(d, t));
	/* Behind other namespaces names mean other things: nothing more can be said of it. */
	if (!r && t->view.foreign_namespace)
		r = task_error(d, t, -ENOTSUP, "it is in a %s namespace of its own, which is not saved yet; start it outside of a container",
			       t->view.foreign_namespace);
	return r || t->shares_memory ? r : task_ask(d, t);
}

static int examine_all(struct dump *d)
{
	int r = 0;

	for (size_t i = 0; !r && i < d->tasks.count; i++) {
		struct task *t = d->tasks.data[i];
		t->id = (uint32_t)i + 1;
		int s = t->refused ? 0 : examine_task(d, t);
		t->refused |= s != 0;
		r = dump_part(d, s);
	}
	tree_ask(d);
	/* There is room for one agent in an address space. */
	for (size_t i = 0; !r && i < d->tasks.count; i++)
		if (d->tasks.data[i]->shares_memory && !d->tasks.data[i]->refused && !(r = task_ask(d, d->tasks.data[i])))
			tree_ask(d);
	return r;
}

/* Everything of one task but its pages. */
static int capture_task(struct dump *d, struct task *t)
{
	if (t->state == TASK_DEAD)
		return core_capture(d, t);
	int asked = task_answered(d, t);
	int r = dump_part(d, asked);
	if (!r && !asked)
		r = dump_part(d, hidden_check(d, t));
	if (!r)
		r = dump_part(d, files_capture(d, t));
	/* It goes to whom the end of a thread is told: in the restored tree that is the leader's, which ends once more. */
	for (size_t i = 0; !r && i < t->threads.count; i++)
		if (t->parent && t->parent->leader_gone && t->threads.data[i]->answers.pdeath_sig)
			r = dump_part(d, task_error(d, t, -ENOTSUP,
						    "it has a parent-death signal, and its parent's main thread has ended, which is not saved"));
	if (!r && !t->vm_owner)
		r = dump_part(d, mm_capture(d, t));
	/* A worker copies them while its threads are captured. */
	if (!r && !d->obstacles && !t->vm_owner)
		r = pages_capture(d, t);
	return !r && !asked ? dump_part(d, core_capture(d, t)) : r;
}

size_t dump_descriptors(const struct dump *d)
{
	size_t threads = 0;

	for (size_t i = 0; i < d->tasks.count; i++)
		threads += d->tasks.data[i]->threads.count;
	return 64 + threads + 10 * d->tasks.count;
}

static void enter(struct dump *d, enum stage stage)
{
	if (d->watch)
		watch_enter(d->watch, stage);
}

static int capture_all(struct dump *d)
{
	descriptors_reserve(dump_descriptors(d));
	tree_look(d);
	int r = image_create(d->dir, "files.img", IMAGE_MAGIC_FILES, &d->files);

	if (r)
		return error_errno(d->e, r, "cannot create files.img");
	enter(d, STAGE_DISCOVER);
	r = d->request->cgroups ? cgroups_capture(d) : 0;
	if (!r)
		r = mounts_capture(d);
	if (!r)
		r = check_shared(d, KCMP_VM, "memory");
	if (!r)
		r = check_shared(d, KCMP_FILES, "descriptor table");
	if (!r)
		r = check_shared(d, KCMP_FS, "current directory");
	if (!r)
		r = examine_all(d);
	enter(d, STAGE_CAPTURE);
	for (size_t i = 0; !r && i < d->tasks.count; i++)
		if (!d->tasks.data[i]->refused)
			r = dump_part(d, capture_task(d, d->tasks.data[i]));
	r = live_paused(d, r);
	enter(d, STAGE_MEMORY);
	int s = pages_finish(d);
	r = r ? r : s;
	enter(d, STAGE_WRITE);
	s = files_finish(d, !r);
	r = r ? r : s;
	s = shmem_finish(d, !r);
	r = r ? r : s;
	s = sysv_finish(d, !r);
	r = r ? r : s;
	s = r ? 0 : sysv_ipc_capture(d);
	r = r ? r : s;
	s = r ? 0 : ns_collect(d);
	r = r ? r : s;
	s = seccomp_finish(d, !r);
	r = r ? r : s;
	s = shmem_pages_finish(d);
	r = r ? r : s;
	s = image_close(d->files);
	return r ? r : s ? error_errno(d->e, s, "cannot write files.img") : 0;
}

static int tell(struct dump *d, const char *moment)
{
	const struct request_hook *hook = &d->request->hook;

	return hook->call ? hook->call(hook->data, moment, d->request->pid, d->e) : 0;
}

/* With CUDA processes that come while the tree is being stopped, once more. */
static int stop_tree(struct dump *d)
{
	for (int tries = 0; tries < STOP_TRIES; tries++) {
		int r = cuda_lock(d);
		if (!r)
			r = tree_freeze(d);
		if (!r)
			r = cuda_checkpoint(d);
		if (r <= 0)
			return r;
		tree_thaw(d);
	}
	return error_set(d->e, -EAGAIN, "it keeps starting CUDA processes; try again");
}

static int open_in_store(struct dump *d)
{
	const char *path = d->request->images_dir;

	if (d->request->packing.key && d->request->live)
		return error_set(d->e, -EINVAL, "a live dump keeps memory in a file meanwhile, which would not be encrypted as the store is; leave --live away");
	int r = image_store_create(path, &d->request->packing, &d->dir);
	if (r == -EEXIST)
		return error_set(d->e, r, "%s is there already; choose another name, or remove it with fermata store rm", path);
	if (r == -ENOTDIR)
		return error_set(d->e, r, "the directory of %s holds something that is no store; choose another, which is empty or is not there yet", path);
	if (r == -EINVAL)
		return error_set(d->e, r, "%s is no place in a store: store:DIR/NAME, where a name does not begin with a dot, and no --streams", path);
	return r ? store_error(d->e, r, "make", path) : 0;
}

static int open_directory(struct dump *d)
{
	if (store_is_path(d->request->images_dir))
		return open_in_store(d);

	const char *path = d->request->images_dir;
	const struct packing *packing = &d->request->packing;
	const bool archive = packing->kind != PACKING_NONE || packing->streams;

	if (archive && d->request->portable)
		return error_set(d->e, -EINVAL, "CRIU reads no archives: --portable goes to a directory, without --compression and --streams");
	if (d->request->portable && (d->request->parent || d->request->track || d->request->pre_dump))
		return error_set(d->e, -EINVAL, "a dump that CRIU can restore stands alone: --portable goes without parents and --track-mem");
	int r = archive ? image_archive_create(path, packing, &d->dir) : image_dir_create(path, &d->dir);

	if (r == -EEXIST && archive)
		return error_set(d->e, r, "%s is there already; choose another name or remove it", path);
	if (r == -ENOENT && archive)
		return error_set(d->e, r, "there is no directory to make %s in; make it first", path);
	if (r && archive)
		return error_errno(d->e, r, "cannot make %s", path);
	if (r == -EEXIST)
		return error_set(d->e, r, "%s already holds a checkpoint; choose another directory", path);
	if (r == -ENOENT)
		return error_set(d->e, r, "there is no directory %s; make it first", path);
	if (r == -EOPNOTSUPP || r == -EISDIR)
		return error_set(d->e, r, "the directory %s is on a file system without O_TMPFILE; choose one on ext4, xfs, btrfs or tmpfs", path);
	return r ? error_errno(d->e, r, "cannot use the directory %s", path) : 0;
}

static double ms_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) * 1e3 + (double)(now.tv_nsec - start->tv_nsec) / 1e6;
}

/* What looking for something of a process comes to that has been killed meanwhile: nothing was found, or it could not be read. */
static bool is_of_a_death(int r)
{
	return !r || r == -ESRCH || r == -EIO || r == -EFAULT || r == -ENOENT;
}

/* All that is done while the tree stands still. */
static int dump_stopped(struct dump *d)
{
	enter(d, STAGE_FREEZE);
	if (d->live && !cuda_used(d))
		workers_pace(d->workers, PACE_URGENT);
	watch_frozen(d->watch);
	clock_gettime(CLOCK_MONOTONIC, &d->stopped);
	int r = stop_tree(d);

	if (!r && !d->live && !cuda_used(d) && live_has_unknown_calls(d)) {
		r = live_look_at_calls(d);
		clock_gettime(CLOCK_MONOTONIC, &d->stopped);
		if (!r)
			r = stop_tree(d);
	}
	enter(d, STAGE_DISCOVER);
	live_give_calls(d);
	if (d->live) /* files go on changing before the commit */
		image_dir_read_at_once(d->dir);
	if (!r)
		r = check_births(d);
	const bool stands = !r;
	if (!r)
		r = capture_all(d);
	if (!r)
		r = write_tree(d);
	if (!r)
		r = write_inventory(d);
	return stands && is_of_a_death(r) && tree_check_whole(d) ? -ESRCH : r;
}

/* Memory alone, for a later dump to be built upon. */
static int pre_dump(struct dump *d)
{
	int r = live_pre_dump(d);

	if (r == 1)
		return error_set(d->e, -ENOSYS, "this kernel can't tell what a process writes (userfaultfd with asynchronous write protection, Linux 6.7): "
				 "a pre-dump would be of no use; leave it out");
	return r ? r : write_inventory(d);
}

/* The pause of a live dump is over: the tree goes on while the checkpoint is finished. 1: it must be stopped once more. */
static int dump_go_on(struct dump *d)
{
	if (!d->live)
		return cuda_images(d);
	tcp_release(d);
	struct error why = {}, *outer = d->e;
	d->e = &why; /* a checkpoint without its GPU stands: who ends the dump says so (let_gpus_go_on) */
	cuda_resume(d);
	d->e = outer;
	tree_let_go(d);
	watch_thawed(d->watch);
	log_info("It stood still for %.2f ms", ms_since(&d->stopped));
	int r = live_settle(d);
	return r ? r : cuda_images(d);
}

static int dump_again(struct dump *d)
{
	live_slowly(d);
	tree_thaw(d);
	workers_wait(d->workers);
	image_dir_free(TAKE_PTR(d->dir));
	d->next_file_id = d->next_pages_id = 0;
	d->tuns.count = 0;
	int r = open_directory(d);
	if (r)
		return r;
	image_dir_set_workers(d->dir, d->workers);
	r = dump_stopped(d);
	return r ? r : dump_go_on(d);
}

/* A script at "post-dump" may want to see the tree stopped: then only who asks for it gets a live dump. */
static bool wants_live(const struct request *r)
{
	const bool secret = store_is_path(r->images_dir) && r->packing.key; /* what is kept meanwhile would not be */

	return r->leave_running && !r->leave_stopped && !r->no_live && !r->portable && !secret && (r->live || !r->hook.call);
}

/* What is needed from outside is there; then within the tree's namespaces, which only who has one thread can enter. */
static int prepare(struct dump *d)
{
	dump_kernel(d);
	int r = ns_enter(d);

	if (r)
		return r;
	d->workers = workers_new();
	if (!d->workers)
		return error_set(d->e, -ENOMEM, "out of memory");
	image_dir_set_workers(d->dir, d->workers);
	r = hidden_prepare(d);
	return r ? r : insight_prepare(d);
}

static int dump_run(struct dump *d)
{
	int r = tell(d, "pre-dump");

	if (!r)
		r = prepare(d);
	if (!r && d->request->pre_dump) {
		enter(d, STAGE_MEMORY);
		r = pre_dump(d);
	} else if (!r && wants_live(d->request)) {
		enter(d, STAGE_MEMORY);
		r = live_begin(d);
	}
	if (!r && !d->request->pre_dump)
		r = dump_stopped(d);
	if (!r && !d->request->pre_dump)
		r = dump_go_on(d);
	if (r == 1)
		r = dump_again(d);
	enter(d, STAGE_COMMIT);
	if (!r)
		increment_name(d);
	if (!r && (r = image_dir_commit(d->dir)))
		r = error_errno(d->e, r, "cannot finish the checkpoint in %s", d->request->images_dir);
	if (!r && (r = tell(d, "post-dump")))
		image_dir_withdraw(d->dir);
	return r;
}

static int check_run(struct dump *d)
{
	int r = cuda_check(d);

	if (!r)
		r = ns_enter(d);
	if (!r)
		r = tree_freeze(d);
	if (!r)
		r = dump_part(d, check_births(d));
	return r ? r : capture_all(d);
}

/* Some descriptors for each image and each task: up to what we may have. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* A dump that was written stands, even when its tree has lost its GPU. `r`: what became of it. */
static int let_gpus_go_on(struct dump *d, int r)
{
	struct error why = {}, *outer = d->e;

	d->e = &why;
	int g = cuda_resume(d);
	d->e = outer;
	if (g && r)
		log_error("%s", why.text);
	else if (g)
		r = error_set(d->e, g, "the checkpoint is written, but %s", why.text);
	return r;
}

static void count_bytes(void *data, uint64_t *ret_done, uint64_t *ret_total)
{
	const struct dump *d = data;

	*ret_done = *ret_total = 0;
	if (d->dir)
		image_dir_progress(d->dir, ret_done, ret_total);
	*ret_done += __atomic_load_n(&d->live_done, __ATOMIC_RELAXED);
	*ret_total += __atomic_load_n(&d->live_total, __ATOMIC_RELAXED);
}

static void fill_profile(struct dump *d)
{
	struct profile *p = d->watch->profile;
	const struct dump_counts *c = d->counts;

	p->pages_scanned = c->pages_scanned;
	p->pages_written = c->pages_written;
	p->pages_previous = c->pages_previous;
	p->shared_written = c->shared_written;
	p->memory_ns = c->memory_to > c->memory_from ? c->memory_to - c->memory_from : 0;
	p->bytes = d->dir ? image_dir_written(d->dir) : 0;
}

static int dump_traced(const struct request *request, struct relay *relay, uint32_t ns_own, struct error *e)
{
	struct watch watch;
	struct dump_counts counts = {};
	struct dump d = { .request = request, .e = e, .relay = relay, .ns_own = ns_own, .watch = &watch, .counts = &counts };
	char comm[70] = "";

	raise_descriptor_limit();
	descriptors_reserve(USUAL_DESCRIPTORS);
	watch_begin(&watch, request, STAGE_PREPARE, count_bytes, &d);
	int r = open_directory(&d);
	if (!r)
		r = increment_begin(&d);
	if (!r)
		r = dump_run(&d);
	if (d.live)
		tcp_release(&d);
	if (d.live && !cuda_used(&d)) /* whose threads are still needed, where it has failed */
		tree_let_go(&d);
	live_end(&d);
	VEC_FREE(&d.calls);
	VEC_FREE(&d.tuns);
	workers_free(TAKE_PTR(d.workers));
	enter(&d, STAGE_RESUME);
	bool ends = !request->leave_running && !request->leave_stopped;
	if (!r && ends && (r = tcp_end_tree(&d)))
		image_dir_withdraw(d.dir);
	if (d.tasks.count && d.tasks.data[0]->stat.comm[0])
		snprintf(comm, sizeof(comm), " (%s)", d.tasks.data[0]->stat.comm);
	if (!r && ends) {
		cuda_forget(&d);
		if (ns_is_own(&d, CLONE_NEWPID)) {
			watch_end(&watch);
			fill_profile(&d);
			log_info("Dumping finished successfully");
			relay_end_tree(relay, 0, e);
		}
		tree_kill(&d);
	} else {
		r = let_gpus_go_on(&d, r);
	}
	if (!r && request->leave_stopped)
		for (size_t i = 0; i < d.tasks.count; i++)
			kill(d.tasks.data[i]->pid, SIGSTOP);
	tcp_release(&d);
	tree_thaw(&d);
	increment_end(&d, !r);
	cuda_finish(&d);
	mounts_release(&d);
	insight_release(&d);
	hidden_release(&d);
	kernel_close(d.kernel);
	watch_end(&watch);
	fill_profile(&d);
	image_dir_free(d.dir);
	if (r)
		return error_prefix(e, r, "cannot dump process %d%s", request->pid, comm);
	log_info("Dumping finished successfully");
	return 0;
}

static int dump_apart(struct relay *relay, struct obstacles *obstacles, void *data, struct error *e)
{
	return dump_traced(&relay->request, relay, *(const uint32_t *)data, e);
}

int engine_dump(const struct request *request, struct error *e)
{
	uint32_t ns_own = ns_find(request->pid);
	_cleanup_close_ int root = ns_own ? (int)syscall(__NR_pidfd_open, request->pid, 0) : -1;
	struct relay_job job = { .run = dump_apart, .data = &ns_own, .root = root };
	struct tracing tracing;

	tracing_begin(&tracing);
	int r = ns_own ? relay_run(request, &job, NULL, e) : dump_traced(request, NULL, 0, e);
	tracing_end(&tracing);
	return r;
}

static int check_traced(const struct request *request, struct relay *relay, uint32_t ns_own, struct obstacles *obstacles, struct error *e)
{
	struct dump d = { .request = request, .e = e, .relay = relay, .ns_own = ns_own, .obstacles = obstacles };

	raise_descriptor_limit();
	int r = image_dir_create_nowhere(&d.dir);
	if (r)
		return error_errno(e, r, "cannot check process %d", request->pid);
	r = check_run(&d);
	VEC_FREE(&d.tuns);
	tcp_release(&d);
	tree_thaw(&d);
	cuda_finish(&d);
	mounts_release(&d);
	insight_release(&d);
	hidden_release(&d);
	kernel_close(d.kernel);
	image_dir_free(d.dir);
	return r ? error_prefix(e, r, "cannot check process %d", request->pid) : 0;
}

static int check_apart(struct relay *relay, struct obstacles *obstacles, void *data, struct error *e)
{
	return check_traced(&relay->request, relay, *(const uint32_t *)data, obstacles, e);
}

int engine_check(const struct request *request, struct obstacles *ret, struct error *e)
{
	uint32_t ns_own = ns_find(request->pid);
	struct relay_job job = { .run = check_apart, .data = &ns_own, .obstacles = ret, .root = -1 };
	struct tracing tracing;

	tracing_begin(&tracing);
	int r = ns_own ? relay_run(request, &job, NULL, e) : check_traced(request, NULL, 0, ret, e);
	tracing_end(&tracing);
	return r;
}
