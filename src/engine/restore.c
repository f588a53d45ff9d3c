/*
 * Restore: open and verify, plan, build, switch; to be read from engine_restore at the end upwards.
 *
 * The plan is one batch of system calls (agent/batch.h) in an arena that the coordinator shares with the newborn task at
 * the same address. The task runs it: clears its address space, maps what was mapped, reads the pages, takes its
 * descriptors; then parks. The coordinator gives it its registers by ptrace and lets it go.
 */
#include "base/log.h"
#include "engine/agent/blob.h"
#include "engine/arch/x86_64/fpu.h"
#include "engine/engine.h"
#include "engine/tracee.h"
#include "engine/vma.h"
#include "fdinfo.pb-c.h"
#include "fs.pb-c.h"
#include "image/image.h"
#include "inventory.pb-c.h"
#include "mm.pb-c.h"
#include "pagemap.pb-c.h"
#include "proc/proc.h"
#include "pstree.pb-c.h"

#include <asm/unistd.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define TASK_END 0x7ffffffff000ULL
#define ARENA_STACK (4 * PAGE_SIZE)
#define VDSO_ROOM (64 * PAGE_SIZE)
#define FD_MAX 15000

struct file {
	uint32_t id;
	int fd; /* where the coordinator holds it */
};

struct restore {
	const struct request *request;
	struct error *e;
	struct image_dir *dir;
	PstreeEntry *tree;
	CoreEntry *core;
	MmEntry *mm;
	FsEntry *fs;
	VEC(FileEntry *) files;
	VEC(FdinfoEntry *) fds;
	VEC(PagemapEntry *) pages;
	VEC(struct file) open;
	int fd_base, tty;
	struct proc_maps self;
	char *arena;
	size_t arena_size, data_used;
	struct agent_status *status;
	struct agent_batch *batch;
	char *data;
	char what[128]; /* of the operation being planned */
	VEC(char *) names; /* what each operation is for, by index */
	pid_t pid;
};

/* ---- images ---- */

static int load_one(struct restore *s, const char *name, uint32_t magic, const ProtobufCMessageDescriptor *type, void *ret)
{
	struct image_file *file;
	int r = image_open(s->dir, name, magic, &file);

	if (r)
		return error_errno(s->e, r, "cannot read %s", name);
	r = image_read_message(file, type, ret);
	image_close(file);
	return r == 1 ? 0 : error_set(s->e, r ? r : -EBADMSG, "%s is truncated or damaged", name);
}

#define LOAD_ALL(s, name, magic, head, type, list) \
	({ \
		struct image_file *file_; \
		ProtobufCMessage *m_ = NULL; \
		int r_ = image_open((s)->dir, name, magic, &file_); \
		if (!r_) { \
			const ProtobufCMessageDescriptor *head_ = head; \
			if (head_ && (r_ = image_read_message(file_, head_, &m_)) == 1) \
				protobuf_c_message_free_unpacked(m_, NULL); \
			while ((r_ = image_read_message(file_, type, &m_)) == 1) { \
				typeof((list)->data) slot_ = VEC_PUSH(list); \
				if (!slot_) \
					break; \
				*slot_ = (void *)m_; \
			} \
			image_close(file_); \
		} \
		r_ ? error_errno((s)->e, r_ > 0 ? -ENOMEM : r_, "cannot read %s", name) : 0; \
	})

static int restore_load(struct restore *s)
{
	InventoryEntry *inventory;
	char name[32];
	int r = image_dir_verify(s->dir, s->e);

	if (r < 0)
		return r;
	r = load_one(s, "inventory.img", IMAGE_MAGIC_INVENTORY, &inventory_entry__descriptor, &inventory);
	if (r)
		return r;
	inventory_entry__free_unpacked(inventory, NULL);
	r = load_one(s, "pstree.img", IMAGE_MAGIC_PSTREE, &pstree_entry__descriptor, &s->tree);
	if (r)
		return r;
	if (s->tree->n_threads > 1)
		return error_set(s->e, -ENOTSUP, "the checkpoint has threads, which are not restored yet");
	snprintf(name, sizeof(name), "core-%u.img", s->tree->pid);
	r = load_one(s, name, IMAGE_MAGIC_CORE, &core_entry__descriptor, &s->core);
	if (r)
		return r;
	if (!s->core->thread_info || !s->core->tc || !s->core->thread_core || !s->core->ids || !s->core->tc->timers ||
	    !s->core->thread_core->creds || !s->core->thread_core->sas || !s->core->tc->rlimits)
		return error_set(s->e, -EBADMSG, "%s lacks a part", name);
	snprintf(name, sizeof(name), "mm-%u.img", s->tree->pid);
	r = load_one(s, name, IMAGE_MAGIC_MM, &mm_entry__descriptor, &s->mm);
	if (r)
		return r;
	snprintf(name, sizeof(name), "fs-%u.img", s->tree->pid);
	r = load_one(s, name, IMAGE_MAGIC_FS, &fs_entry__descriptor, &s->fs);
	if (!r)
		r = LOAD_ALL(s, "files.img", IMAGE_MAGIC_FILES, NULL, &file_entry__descriptor, &s->files);
	snprintf(name, sizeof(name), "fdinfo-%u.img", s->core->ids->files_id);
	if (!r)
		r = LOAD_ALL(s, name, IMAGE_MAGIC_FDINFO, NULL, &fdinfo_entry__descriptor, &s->fds);
	snprintf(name, sizeof(name), "pagemap-%u.img", s->tree->pid);
	if (!r)
		r = LOAD_ALL(s, name, IMAGE_MAGIC_PAGEMAP, &pagemap_head__descriptor, &pagemap_entry__descriptor, &s->pages);
	return r;
}

/* ---- files: opened once, above the target's own numbers ---- */

static int hold(struct restore *s, int fd)
{
	int high = fcntl(fd, F_DUPFD_CLOEXEC, s->fd_base);
	int r = high < 0 ? -errno : high;

	close(fd);
	return r;
}

static int open_regular(struct restore *s, const RegFileEntry *reg)
{
	struct stat st;
	int fd;

	if (reg->has_mode && S_ISCHR(reg->mode) && !strncmp(reg->name, "/dev/pts/", 9)) {
		if (s->tty < 0)
			return error_set(s->e, -ENOTTY, "it had a terminal (%s): restore it from a terminal, with --shell-job", reg->name);
		fd = dup(s->tty);
	} else {
		fd = open(reg->name, (int)(reg->flags & ~(uint32_t)(O_CREAT | O_EXCL | O_TRUNC)) | O_CLOEXEC | O_NOCTTY);
		if (fd < 0)
			return error_errno(s->e, -errno, "cannot open %s", reg->name);
		if (fstat(fd, &st) == 0 && reg->has_size && S_ISREG(st.st_mode) && (uint64_t)st.st_size != reg->size &&
		    !(reg->flags & (O_WRONLY | O_RDWR))) {
			close(fd);
			return error_set(s->e, -ESTALE, "%s changed since the dump (%lld bytes, then %llu)", reg->name,
					 (long long)st.st_size, (unsigned long long)reg->size);
		}
		if (reg->pos && lseek(fd, (off_t)reg->pos, SEEK_SET) < 0 && S_ISREG(st.st_mode)) {
			close(fd);
			return error_errno(s->e, -errno, "cannot seek in %s", reg->name);
		}
	}
	fd = hold(s, fd);
	return fd < 0 ? error_errno(s->e, fd, "cannot hold %s", reg->name) : fd;
}

/* The descriptor for a file of the images, opened when first asked for. */
static int file_fd(struct restore *s, uint32_t id)
{
	VEC_FOREACH(&s->open, f)
		if (f->id == id)
			return f->fd;
	for (size_t i = 0; i < s->files.count; i++) {
		FileEntry *entry = s->files.data[i];
		if (entry->id != id)
			continue;
		if (!entry->reg)
			return error_set(s->e, -ENOTSUP, "file %u is of type %d, which is not restored yet", id, entry->type);
		int fd = open_regular(s, entry->reg);
		struct file *f = fd < 0 ? NULL : VEC_PUSH(&s->open);
		if (f)
			*f = (struct file){ id, fd };
		return fd;
	}
	return error_set(s->e, -EBADMSG, "files.img lacks file %u", id);
}

/* ---- the plan ---- */

static struct agent_op *plan(struct restore *s, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
			     uint64_t a5)
{
	struct agent_op *op = &s->batch->ops[s->batch->count++];

	*op = (struct agent_op){ .nr = (int32_t)nr, .arg = { a0, a1, a2, a3, a4, a5 } };
	char **name = VEC_PUSH(&s->names);
	if (name)
		*name = strdup(s->what);
	return op;
}
#define PLAN3(nr, a, b, c) plan(s, nr, (uint64_t)(a), (uint64_t)(b), (uint64_t)(c), 0, 0, 0)
#define WHAT(...) snprintf(s->what, sizeof(s->what), __VA_ARGS__)

/* Puts data into the arena; the address is the same in the task. */
static uint64_t place(struct restore *s, const void *data, size_t size)
{
	char *at = s->data + s->data_used;

	s->data_used += ALIGN_UP(size, 16);
	memcpy(at, data, size);
	return (uint64_t)at;
}

static bool is_vdso(const VmaEntry *v)
{
	return v->status & (VMA_VDSO | VMA_VVAR);
}

/* The coordinator's vdso becomes the task's: out of the way first, then everything else is cleared, then to its place. */
static int plan_clear(struct restore *s)
{
	uint64_t room = (uint64_t)s->arena + s->arena_size, at = room;
	uint64_t first = 0, size_ours = 0, size_theirs = 0, where = 0;

	for (size_t i = 0; i < s->self.count; i++) {
		const struct proc_vma *v = &s->self.data[i];
		if (!(vma_status(v) & (VMA_VDSO | VMA_VVAR)))
			continue;
		WHAT("move the vdso");
		plan(s, __NR_mremap, v->start, v->end - v->start, v->end - v->start, MREMAP_MAYMOVE | MREMAP_FIXED, at, 0);
		first = first ? first : v->start;
		at += v->end - v->start;
	}
	size_ours = at - room;
	for (size_t i = 0; i < s->mm->n_vmas; i++)
		if (is_vdso(s->mm->vmas[i])) {
			where = where ? where : s->mm->vmas[i]->start;
			size_theirs += s->mm->vmas[i]->end - s->mm->vmas[i]->start;
		}
	if (size_ours != size_theirs || size_ours > VDSO_ROOM)
		return error_set(s->e, -ENOTSUP, "the vdso of this kernel differs from the one at the dump, which is not restored yet");
	WHAT("clear the address space");
	PLAN3(__NR_munmap, 0, (uint64_t)s->arena, 0);
	PLAN3(__NR_munmap, room + VDSO_ROOM, TASK_END - room - VDSO_ROOM, 0);
	at = room;
	for (size_t i = 0; i < s->self.count; i++) {
		const struct proc_vma *v = &s->self.data[i];
		if (!(vma_status(v) & (VMA_VDSO | VMA_VVAR)))
			continue;
		WHAT("place the vdso");
		plan(s, __NR_mremap, at, v->end - v->start, v->end - v->start, MREMAP_MAYMOVE | MREMAP_FIXED, where, 0);
		at += v->end - v->start;
		where += v->end - v->start;
	}
	return 0;
}

static int plan_memory(struct restore *s)
{
	int pages = image_open_raw(s->dir, "pages-1.img");
	uint64_t offset = 0;

	pages = pages < 0 ? pages : hold(s, pages);
	if (pages < 0)
		return error_errno(s->e, pages, "cannot open pages-1.img");
	for (size_t i = 0; i < s->mm->n_vmas; i++) {
		const VmaEntry *v = s->mm->vmas[i];
		int fd = -1;
		if (is_vdso(v))
			continue;
		if (v->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED) && (fd = file_fd(s, (uint32_t)v->shmid)) < 0)
			return fd;
		WHAT("map memory at %lx", (unsigned long)v->start);
		uint64_t prot = v->status & VMA_FILE_SHARED ? v->prot : v->prot | PROT_READ | PROT_WRITE;
		plan(s, __NR_mmap, v->start, v->end - v->start, prot, v->flags | MAP_FIXED_NOREPLACE, (uint64_t)fd, v->pgoff);
	}
	for (size_t i = 0; i < s->pages.count; i++) {
		const PagemapEntry *p = s->pages.data[i];
		uint64_t size = (uint64_t)p->nr_pages * PAGE_SIZE;
		WHAT("read memory at %lx", (unsigned long)p->vaddr);
		struct agent_op *op = plan(s, AGENT_OP_READ, (uint64_t)pages, p->vaddr, size, offset, 0, 0);
		op->flags = AGENT_OP_EXPECT;
		op->expect = (int64_t)size;
		offset += size;
	}
	for (size_t i = 0; i < s->mm->n_vmas; i++) {
		const VmaEntry *v = s->mm->vmas[i];
		if (is_vdso(v) || v->status & VMA_FILE_SHARED || (v->prot & 3) == 3)
			continue;
		WHAT("protect memory at %lx", (unsigned long)v->start);
		PLAN3(__NR_mprotect, v->start, v->end - v->start, v->prot);
	}
	return 0;
}

static int plan_mm(struct restore *s)
{
	const MmEntry *m = s->mm;
	int exe = file_fd(s, m->exe_file_id);

	if (exe < 0)
		return exe;
	struct prctl_mm_map map = { .start_code = m->mm_start_code, .end_code = m->mm_end_code, .start_data = m->mm_start_data,
				    .end_data = m->mm_end_data, .start_brk = m->mm_start_brk, .brk = m->mm_brk,
				    .start_stack = m->mm_start_stack, .arg_start = m->mm_arg_start, .arg_end = m->mm_arg_end,
				    .env_start = m->mm_env_start, .env_end = m->mm_env_end, .exe_fd = (uint32_t)exe };
	map.auxv = (void *)place(s, m->mm_saved_auxv, m->n_mm_saved_auxv * 8);
	map.auxv_size = (uint32_t)(m->n_mm_saved_auxv * 8);
	WHAT("set the mm fields");
	plan(s, __NR_prctl, PR_SET_MM, PR_SET_MM_MAP, place(s, &map, sizeof(map)), sizeof(map), 0, 0);
	if (m->thp_disabled)
		plan(s, __NR_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0, 0);
	return 0;
}

static int plan_files(struct restore *s)
{
	WHAT("take its descriptors");
	PLAN3(__NR_close_range, 0, s->fd_base - 1, 0);
	for (size_t i = 0; i < s->fds.count; i++) {
		const FdinfoEntry *f = s->fds.data[i];
		int fd = file_fd(s, f->id);
		if (fd < 0)
			return fd;
		WHAT("take descriptor %u", f->fd);
		PLAN3(__NR_dup3, fd, f->fd, f->flags & FD_CLOEXEC ? O_CLOEXEC : 0);
	}
	int cwd = file_fd(s, s->fs->cwd_id), root = file_fd(s, s->fs->root_id);
	if (cwd < 0 || root < 0)
		return cwd < 0 ? cwd : root;
	WHAT("change to its root and working directory");
	PLAN3(__NR_fchdir, root, 0, 0);
	PLAN3(__NR_chroot, place(s, ".", 2), 0, 0);
	PLAN3(__NR_fchdir, cwd, 0, 0);
	PLAN3(__NR_umask, s->fs->umask, 0, 0);
	return 0;
}

static void plan_signals(struct restore *s)
{
	const TaskCoreEntry *tc = s->core->tc;
	const ItimerEntry *timers[3] = { tc->timers->real, tc->timers->virt, tc->timers->prof };

	for (size_t i = 0, sig = 1; i < tc->n_sigactions && sig <= 64; i++, sig++) {
		const SaEntry *a = tc->sigactions[i];
		while (sig == SIGKILL || sig == SIGSTOP)
			sig++;
		uint64_t action[4] = { a->sigaction, a->flags, a->restorer, a->mask };
		WHAT("set the action of signal %zu", sig);
		plan(s, __NR_rt_sigaction, sig, place(s, action, sizeof(action)), 0, 8, 0, 0);
	}
	for (uint64_t i = 0; i < 3; i++) {
		struct itimerval v = { { (time_t)timers[i]->isec, (suseconds_t)timers[i]->iusec },
				       { (time_t)timers[i]->vsec, (suseconds_t)timers[i]->vusec } };
		WHAT("arm interval timer %d", (int)i);
		PLAN3(__NR_setitimer, i, place(s, &v, sizeof(v)), 0);
	}
}

static void plan_creds(struct restore *s)
{
	const CredsEntry *c = s->core->thread_core->creds;
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct caps[2] = {};

	for (size_t i = 0; i < 2 && i < c->n_cap_eff && i < c->n_cap_prm && i < c->n_cap_inh; i++)
		caps[i] = (struct __user_cap_data_struct){ c->cap_eff[i], c->cap_prm[i], c->cap_inh[i] };
	for (uint64_t cap = 0; cap <= CAP_LAST_CAP && c->n_cap_bnd == 2; cap++)
		if (!(c->cap_bnd[cap / 32] & (1u << cap % 32))) {
			WHAT("drop capability %d", (int)cap);
			PLAN3(__NR_prctl, PR_CAPBSET_DROP, cap, 0)->flags = AGENT_OP_MAY_FAIL;
		}
	WHAT("set its credentials");
	PLAN3(__NR_setgroups, c->n_groups, place(s, c->groups, c->n_groups * 4), 0);
	PLAN3(__NR_prctl, PR_SET_KEEPCAPS, 1, 0);
	PLAN3(__NR_setresgid, c->gid, c->egid, c->sgid);
	PLAN3(__NR_setresuid, c->uid, c->euid, c->suid);
	PLAN3(__NR_prctl, PR_SET_KEEPCAPS, 0, 0);
	/* A change of uid cleared what is effective; securebits need CAP_SETPCAP, where the task has it at all. */
	struct __user_cap_data_struct full[2] = { caps[0], caps[1] };
	full[0].effective = full[0].permitted;
	full[1].effective = full[1].permitted;
	PLAN3(__NR_capset, place(s, &head, sizeof(head)), place(s, full, sizeof(full)), 0);
	if (c->secbits)
		PLAN3(__NR_prctl, PR_SET_SECUREBITS, c->secbits, 0);
	PLAN3(__NR_setfsgid, c->fsgid, 0, 0);
	PLAN3(__NR_setfsuid, c->fsuid, 0, 0);
	PLAN3(__NR_capset, place(s, &head, sizeof(head)), place(s, caps, sizeof(caps)), 0);
	if (c->no_new_privs)
		plan(s, __NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0);
	PLAN3(__NR_prctl, PR_SET_DUMPABLE, s->mm->dumpable == 1, 0)->flags = AGENT_OP_MAY_FAIL;
}

static void plan_process(struct restore *s)
{
	const TaskCoreEntry *tc = s->core->tc;
	const ThreadCoreEntry *t = s->core->thread_core;
	stack_t alt = { .ss_sp = (void *)t->sas->ss_sp, .ss_flags = (int)t->sas->ss_flags & ~SS_ONSTACK, .ss_size = t->sas->ss_size };

	for (uint64_t i = 0; i < tc->rlimits->n_rlimits && i < 16; i++) {
		uint64_t limit[2] = { tc->rlimits->rlimits[i]->cur, tc->rlimits->rlimits[i]->max };
		WHAT("set limit %d", (int)i);
		plan(s, __NR_prlimit64, 0, i, place(s, limit, 16), 0, 0, 0);
	}
	plan_creds(s);
	WHAT("set its name");
	PLAN3(__NR_prctl, PR_SET_NAME, place(s, tc->comm, strlen(tc->comm) + 1), 0);
	WHAT("set its thread state");
	if (tc->child_subreaper)
		PLAN3(__NR_prctl, PR_SET_CHILD_SUBREAPER, 1, 0);
	if (t->pdeath_sig)
		PLAN3(__NR_prctl, PR_SET_PDEATHSIG, t->pdeath_sig, 0);
	if (t->futex_rla)
		PLAN3(__NR_set_robust_list, t->futex_rla, t->futex_rla_len, 0);
	PLAN3(__NR_sigaltstack, place(s, &alt, sizeof(alt)), 0, 0);
	PLAN3(__NR_set_tid_address, s->core->thread_info->clear_tid_addr, 0, 0);
	if (t->rseq_entry)
		plan(s, __NR_rseq, t->rseq_entry->rseq_abi_pointer, t->rseq_entry->rseq_abi_size, 0, t->rseq_entry->signature, 0, 0);
	WHAT("close what is left");
	PLAN3(__NR_close_range, s->fd_base, ~0U, 0);
	WHAT("wait for its registers");
	PLAN3(AGENT_OP_PARK, 0, 0, 0);
}

/* An address range that is free here and in the target, shared with the task to be. */
static int make_arena(struct restore *s)
{
	size_t ops = 512 + s->mm->n_vmas * 2 + s->pages.count + s->fds.count;
	size_t code = ALIGN_UP(agent_blob_size, PAGE_SIZE), batch = ALIGN_UP(sizeof(struct agent_batch) + ops * sizeof(struct agent_op), PAGE_SIZE);
	struct proc_maps both = {};

	s->arena_size = code + PAGE_SIZE + batch + (64UL << 10) + ALIGN_UP(s->mm->n_mm_saved_auxv * 8, PAGE_SIZE) + ARENA_STACK;
	for (size_t i = 0; i < s->mm->n_vmas; i++) {
		struct proc_vma *v = VEC_PUSH(&both);
		if (v)
			*v = (struct proc_vma){ .start = s->mm->vmas[i]->start, .end = s->mm->vmas[i]->end };
	}
	for (size_t i = 0; i < s->self.count; i++) {
		struct proc_vma *v = VEC_PUSH(&both);
		if (v)
			*v = (struct proc_vma){ .start = s->self.data[i].start, .end = s->self.data[i].end };
	}
	maps_sort(&both);
	uint64_t at = maps_find_hole(&both, s->arena_size + VDSO_ROOM);
	VEC_FREE(&both);
	s->arena = mmap((void *)at, s->arena_size, PROT_READ | PROT_WRITE | PROT_EXEC,
			MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (!at || s->arena == MAP_FAILED)
		return error_errno(s->e, at ? -errno : -ENOMEM, "no room for the agent");
	memcpy(s->arena, agent_blob, agent_blob_size);
	s->status = (void *)(s->arena + code);
	s->batch = (void *)(s->arena + code + PAGE_SIZE);
	s->batch->status = (uint64_t)s->status;
	s->data = s->arena + code + PAGE_SIZE + batch;
	return 0;
}

static int restore_plan(struct restore *s)
{
	pid_t pid = (pid_t)s->tree->pid;
	int r = proc_read_maps(getpid(), &s->self);

	if (r)
		return error_errno(s->e, r, "cannot read the maps");
	s->fd_base = 64;
	for (size_t i = 0; i < s->fds.count; i++)
		s->fd_base = MAX(s->fd_base, (int)MIN(s->fds.data[i]->fd, (uint32_t)FD_MAX) + 1);
	for (size_t i = 0; i < s->self.count; i++)
		if (s->self.data[i].name && !strcmp(s->self.data[i].name, "[heap]"))
			s->self.data[i].end += 256UL << 20;
	r = make_arena(s);
	if (r)
		return r;
	if (__rseq_size) {
		WHAT("leave the old rseq area");
		plan(s, __NR_rseq, (uint64_t)__builtin_thread_pointer() + (uint64_t)__rseq_offset, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG, 0, 0);
	}
	WHAT("take its session and group");
	if ((pid_t)s->tree->sid == pid)
		PLAN3(__NR_setsid, 0, 0, 0);
	else if ((pid_t)s->tree->pgid == pid)
		PLAN3(__NR_setpgid, 0, 0, 0);
	r = plan_clear(s);
	if (!r)
		r = plan_memory(s);
	if (!r)
		r = plan_mm(s);
	if (!r)
		r = plan_files(s);
	if (r)
		return r;
	plan_signals(s);
	plan_process(s);
	return 0;
}

/* ---- build ---- */

static _Noreturn void become_task(const struct restore *s)
{
	asm volatile("mov %[stack], %%rsp\n\t"
		     "xor %%ebp, %%ebp\n\t"
		     "jmp *%[entry]"
		     :
		     : "D"(s->batch), [stack] "r"(s->arena + s->arena_size), [entry] "r"(s->arena)
		     : "memory");
	__builtin_unreachable();
}

static int restore_build(struct restore *s)
{
	pid_t pid = (pid_t)s->tree->pid;
	struct clone_args args = { .exit_signal = SIGCHLD, .set_tid = (uint64_t)&pid, .set_tid_size = 1 };
	long child = syscall(__NR_clone3, &args, sizeof(args));

	if (child == 0)
		become_task(s);
	if (child < 0 && errno == EEXIST)
		return error_set(s->e, -EEXIST, "pid %d is taken by another process (or its group or session is); end that first", pid);
	if (child < 0)
		return error_errno(s->e, -errno, "cannot create process %d", pid);
	s->pid = (pid_t)child;
	while (!__atomic_load_n(&s->status->parked, __ATOMIC_SEQ_CST)) {
		struct timespec look = { 0, 20000000 };
		uint32_t change = __atomic_load_n(&s->status->change, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&s->status->failed, __ATOMIC_SEQ_CST)) {
			const struct agent_op *op = &s->batch->ops[s->batch->failed];
			int r = op->result < 0 && op->result > -4096 ? (int)op->result : -EIO;
			return error_errno(s->e, r, "cannot %s", s->names.data[s->batch->failed]);
		}
		int status;
		if (waitpid(s->pid, &status, WNOHANG) > 0) {
			s->pid = 0;
			return error_set(s->e, -ECHILD, "the new process died (status %x) while it was built, after operation %u", status, s->batch->done);
		}
		if (!s->status->parked)
			syscall(__NR_futex, &s->status->change, FUTEX_WAIT, change, &look, NULL, 0);
	}
	return 0;
}

/* ---- switch ---- */

static int restore_switch(struct restore *s)
{
	static unsigned char area[XSAVE_MAX];
	struct proc_maps maps = {};
	struct tracee t;
	struct agent_seat seat;
	size_t size;
	int r = tracee_seize(&t, s->pid, s->pid, s->e);

	if (!r && !(r = tracee_interrupt(&t)))
		r = tracee_wait_stop(&t, s->e);
	if (!r)
		r = fpu_from_image(s->core->thread_info->fpregs, area, &size);
	struct iovec io = { area, size };
	if (!r && ptrace(PTRACE_SETREGSET, t.tid, NT_X86_XSTATE, &io) < 0)
		r = -errno;
	if (!r)
		r = proc_read_maps(s->pid, &maps);
	uint64_t slack = r ? 0 : maps_find_slack(&maps, s->pid);
	proc_maps_finish(&maps);
	if (r || !slack)
		return error_errno(s->e, r ? r : -ENOTSUP, "cannot set the registers of process %d", s->pid);
	regs_from_image(s->core->thread_info->gpregs, &t.regs);
	t.sigmask = s->core->thread_core->blk_sigset;
	r = agent_seat_adopt(&seat, &t, (uint64_t)s->arena, s->arena_size, slack, s->e);
	if (!r)
		r = agent_seat_leave(&seat, s->e);
	if (!r && s->tty >= 0 && s->tree->pgid == s->tree->pid) {
		signal(SIGTTOU, SIG_IGN);
		tcsetpgrp(s->tty, (pid_t)s->tree->pgid);
		signal(SIGTTOU, SIG_DFL);
	}
	if (!r && s->request->leave_stopped)
		kill(s->pid, SIGSTOP);
	if (!r)
		tracee_detach(&t);
	return r;
}

static void restore_finish(struct restore *s)
{
	VEC_FOREACH(&s->open, f)
		close(f->fd);
	for (size_t i = 0; i < s->names.count; i++)
		free(s->names.data[i]);
	VEC_FREE(&s->names);
	VEC_FREE(&s->open);
	if (s->arena && s->arena != MAP_FAILED)
		munmap(s->arena, s->arena_size);
	proc_maps_finish(&s->self);
	image_dir_free(s->dir);
}

int engine_restore(const struct request *request, pid_t *ret_pid, struct error *e)
{
	struct restore s = { .request = request, .e = e, .tty = -1 };
	int r = image_dir_open(request->images_dir, &s.dir);

	if (r)
		return error_errno(e, r, "cannot open the directory %s", request->images_dir);
	for (int fd = 0; fd < 3 && request->shell_job && s.tty < 0; fd++)
		s.tty = isatty(fd) ? fd : -1;
	r = restore_load(&s);
	if (!r)
		r = restore_plan(&s);
	if (!r)
		r = restore_build(&s);
	if (!r)
		r = restore_switch(&s);
	if (r && s.pid) {
		kill(s.pid, SIGKILL);
		waitpid(s.pid, NULL, __WALL);
	}
	restore_finish(&s);
	if (r)
		return error_prefix(e, r, "cannot restore from %s", request->images_dir);
	*ret_pid = s.pid;
	return 0;
}
