/*
 * mm-PID.img: the areas of an address space and the fields of the kernel's mm, from /proc/PID/smaps (the advice given with
 * madvise(2) and mlock(2) stands only there), stat and auxv.
 */
#include "engine/cuda/cuda.h"
#include "engine/kernel.h"
#include "engine/kinds/packet_ring.h"
#include "engine/kinds/uffd.h"
#include "engine/kinds/uring.h"
#include "engine/memory/aio.h"
#include "engine/memory/policy.h"
#include "engine/memory/shmem.h"
#include "engine/memory/sysv.h"
#include "engine/memory/vdso.h"
#include "engine/task/inside.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/stat.h>

/* What madvise(2) was told, as the images have it: bit n for advice n. */
static uint64_t advice_of(uint64_t vmflags)
{
	static const struct {
		uint64_t flag;
		int advice;
	} rows[] = {
		{ PROC_VMF_RR, MADV_RANDOM },	   { PROC_VMF_SR, MADV_SEQUENTIAL }, { PROC_VMF_DC, MADV_DONTFORK },
		{ PROC_VMF_DD, MADV_DONTDUMP },	   { PROC_VMF_MG, MADV_MERGEABLE },  { PROC_VMF_HG, MADV_HUGEPAGE },
		{ PROC_VMF_NH, MADV_NOHUGEPAGE }, { PROC_VMF_WF, MADV_WIPEONFORK },
	};
	uint64_t advice = 0;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (vmflags & rows[i].flag)
			advice |= 1ULL << rows[i].advice;
	return advice;
}

static int refuse_vma(struct dump *d, struct task *t, const struct proc_vma *vma)
{
	const char *name = vma->name ? vma->name : "";
	unsigned long at = (unsigned long)vma->start;

	if (cuda_releases(d, t->pid) && (!strncmp(name, "/dev/", 5) || !strncmp(name, "anon_inode:", 11)))
		return 0;
	if (!strncmp(name, "anon_inode:", 11) && !uring_find(d, vma))
		return task_error(d, t, -ENOTSUP, "its memory at %lx is %s, which has no way to be saved", at, name);
	if (!strcmp(name, "/secretmem") && vma->shared && vma->vmflags & PROC_VMF_LO)
		return task_error(d, t, -ENOTSUP, "its memory at %lx is secret (memfd_secret): nobody but the process can read it", at);
	if (vma->pkey)
		return task_error(d, t, -ENOTSUP, "its memory at %lx has the protection key %u (pkey_mprotect), which is not saved", at, vma->pkey);
	if (!strncmp(name, "socket:", 7) && !packet_ring_find(d, vma))
		return task_error(d, t, -ENOTSUP, "its memory at %lx is of a socket that it has closed, or a part of it, or of a TCP connection (TCP_ZEROCOPY_RECEIVE), "
				  "which is not saved", at);
	if (!strncmp(name, "/dev/", 5) && strncmp(name, "/dev/shm/", 9) && strncmp(name, "/dev/zero", 9) && strncmp(name, "/dev/hugepages", 14))
		return task_error(d, t, -ENOTSUP, "its memory at %lx belongs to the device %s, which has no way to be saved; let the program close it first", at, name);
	if (vma->vmflags & PROC_VMF_HT && strcmp(name, "/anon_hugepage") && strncmp(name, "/memfd:", 7))
		return task_error(d, t, -ENOTSUP, "its memory at %lx is of huge pages of %s, which is not saved yet; let the program use mmap(2) "
				  "with MAP_ANONYMOUS | MAP_HUGETLB instead", at, name);
	if (vma->vmflags & (PROC_VMF_UM | PROC_VMF_UW | PROC_VMF_UI) && !uffd_covers(d, t, vma))
		return task_error(d, t, -ENOTSUP, "its memory at %lx is watched by a userfaultfd that it does not hold, which is not saved", at);
	return 0;
}

/* Where an area is of huge pages: their size, as MAP_HUGETLB takes it. */
static int capture_huge(struct dump *d, struct task *t, const struct proc_vma *vma, VmaEntry *entry)
{
	char path[96];
	struct stat st;

	if (!(vma->vmflags & PROC_VMF_HT) || !(entry->status & (VMA_ANON_PRIVATE | VMA_ANON_SHARED)))
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", t->proc, (unsigned long)vma->start, (unsigned long)vma->end);
	if (stat(path, &st) < 0)
		return task_errno(d, t, -errno, "cannot tell the size of its huge pages at %lx", (unsigned long)vma->start);
	entry->flags |= MAP_HUGETLB | (uint32_t)__builtin_ctzl((unsigned long)st.st_blksize) << MAP_HUGE_SHIFT;
	return 0;
}

static int capture_vma(struct dump *d, struct task *t, const struct proc_vma *vma, VmaEntry *entry)
{
	uint32_t status = vma_status(vma), id = 0;

	vma_entry__init(entry);
	int r = refuse_vma(d, t, vma);
	if (r)
		return r;
	entry->start = vma->start;
	entry->end = vma->end;
	entry->prot = (uint32_t)vma->prot;
	entry->flags = vma->shared ? MAP_SHARED : MAP_PRIVATE;
	entry->status = status;
	entry->fd = -1;
	if (vma->vmflags & PROC_VMF_GD)
		entry->flags |= MAP_GROWSDOWN;
	if (vma->vmflags & PROC_VMF_DP)
		entry->flags = VMA_DROPPABLE;
	if (vma->vmflags & PROC_VMF_NR)
		entry->flags |= MAP_NORESERVE;
	if (vma->vmflags & PROC_VMF_LO) {
		entry->flags |= MAP_LOCKED;
		entry->has_lock_onfault = entry->lock_onfault = vma_locks_on_fault(vma);
	}
	entry->has_sealed = entry->sealed = (vma->vmflags & PROC_VMF_SL) != 0;
	entry->madv = advice_of(vma->vmflags);
	entry->has_madv = entry->madv != 0;
	if (vma->name && !strncmp(vma->name, "[anon:", 6))
		entry->anon_name = vma->name;
	if (status & VMA_AIORING)
		return 0;
	r = capture_huge(d, t, vma, entry);
	if (r)
		return r;
	if (status & VMA_SYSVIPC) {
		entry->pgoff = vma->pgoff;
		entry->shmid = vma->inode;
		return sysv_capture_vma(d, t, vma);
	}
	if (status & VMA_ANON_SHARED) {
		entry->flags |= MAP_ANONYMOUS;
		entry->pgoff = vma->pgoff;
		return shmem_capture_vma(d, t, vma, &entry->shmid);
	}
	if (!(status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED))) {
		entry->flags |= MAP_ANONYMOUS;
		return 0;
	}
	if (vma->name && !strncmp(vma->name, "/memfd:", 7) && vma->deleted)
		entry->status |= VMA_MEMFD;
	id = uring_find(d, vma);
	if (!id)
		id = packet_ring_find(d, vma);
	r = id ? 0 : files_capture_mapping(d, t, vma, &id);
	entry->pgoff = vma->pgoff;
	entry->shmid = id;
	entry->has_fdflags = 1;
	entry->fdflags = vma->shared && vma->prot & PROT_WRITE ? O_RDWR : O_RDONLY;
	return r;
}

/* What it has registered for with membarrier(2). Before Linux 6.3 that stands in the kernel's own memory alone; where it can't be read, it is not known. */
static uint32_t membarriers(struct dump *d, struct task *t)
{
	static const struct {
		uint32_t state, command;
	} rows[] = {
		{ 1 << 0, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED }, { 1 << 3, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED },
		{ 1 << 4, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE }, { 1 << 6, 1 << 8 /* …_RSEQ, Linux 5.10 */ },
	};
	uint32_t state = 0, commands = 0;
	uint64_t mm;

	if (t->answers.membarrier >= 0)
		return (uint32_t)t->answers.membarrier;
	struct kernel *k = dump_kernel(d);
	int at = k ? kernel_offset(k, "mm_struct", "membarrier_state") : -1;
	if (at < 0 || inside_thread(d, t->threads.data[0], "mm", &mm, sizeof(mm)) || kernel_read(k, mm + (uint64_t)at, &state, sizeof(state)))
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (state & rows[i].state)
			commands |= rows[i].command;
	return commands;
}

static void fill_fields(struct task *t, MmEntry *mm)
{
	const struct proc_stat *s = &t->stat;

	mm->mm_start_code = s->mm_start_code;
	mm->mm_end_code = s->end_code;
	mm->mm_start_data = s->start_data;
	mm->mm_end_data = s->end_data;
	mm->mm_start_stack = s->start_stack;
	mm->mm_start_brk = s->start_brk;
	mm->mm_brk = (uint64_t)t->answers.brk;
	mm->mm_arg_start = s->arg_start;
	mm->mm_arg_end = s->arg_end;
	mm->mm_env_start = s->env_start;
	mm->mm_env_end = s->env_end;
	mm->has_dumpable = 1;
	mm->dumpable = (int32_t)t->answers.dumpable;
	mm->has_thp_disabled = 1;
	mm->thp_disabled = t->answers.thp_disable > 0;
	mm->has_memory_merge = mm->memory_merge = t->answers.memory_merge > 0;
	mm->has_mdwe = t->answers.mdwe > 0;
	mm->mdwe = mm->has_mdwe ? (uint32_t)t->answers.mdwe : 0;
	mm->has_mlockall_flags = t->answers.mlockall != 0;
	mm->mlockall_flags = t->answers.mlockall;
}

static int write_mm(struct dump *d, struct task *t, MmEntry *mm)
{
	char name[32];
	int r = aio_capture(d, t, mm);

	if (!r)
		r = dump_part(d, vdso_capture(d, t, mm));
	snprintf(name, sizeof(name), "mm-%d.img", t->pid);
	if (!r)
		r = dump_write_one(d, name, IMAGE_MAGIC_MM, &mm->base);
	for (size_t i = 0; i < mm->n_aios; i++)
		free(mm->aios[i]);
	free(mm->aios);
	free(mm->vdso.data);
	return r;
}

int mm_capture(struct dump *d, struct task *t)
{
	_cleanup_free_ VmaEntry *entries = calloc(t->maps.count, sizeof(*entries));
	_cleanup_free_ VmaEntry **list = calloc(t->maps.count, sizeof(*list));
	MmEntry mm = MM_ENTRY__INIT;
	struct pool pool = {};
	int r = 0;

	if (!entries || !list)
		return error_set(d->e, -ENOMEM, "out of memory");
	if (t->answers.segments)
		return task_error(d, t, -ENOTSUP, "it has segments of its own (modify_ldt), which are not saved");
	if (t->view.auxv_result)
		return task_errno(d, t, t->view.auxv_result, "cannot read its auxv");
	for (size_t i = 0; !r && i < t->maps.count; i++) {
		if (vma_status(&t->maps.data[i]) & VMA_VSYSCALL)
			continue;
		list[mm.n_vmas] = &entries[mm.n_vmas];
		r = dump_part(d, capture_vma(d, t, &t->maps.data[i], list[mm.n_vmas++]));
	}
	if (!r)
		r = files_capture_link(d, t, "exe", O_RDONLY, &mm.exe_file_id);
	if (r)
		return r;
	r = policy_capture(d, t->proc, list, mm.n_vmas, (uint32_t)t->threads.data[0]->answers.mempolicy, &pool);
	if (r) {
		pool_free(&pool);
		return task_errno(d, t, r, "cannot read the memory policies of its areas");
	}
	mm.vmas = list;
	mm.mm_saved_auxv = (uint64_t *)t->view.auxv;
	mm.n_mm_saved_auxv = t->view.auxv_size / 8;
	fill_fields(t, &mm);
	mm.membarrier = membarriers(d, t);
	mm.has_membarrier = mm.membarrier != 0;
	if (t->view.coredump_filter) {
		mm.has_coredump_filter = 1;
		mm.coredump_filter = (uint32_t)strtoul(t->view.coredump_filter, NULL, 16);
	}
	r = write_mm(d, t, &mm);
	pool_free(&pool);
	return r;
}
