/*
 * Dump: freeze, discover, capture, memory, commit; to be read from engine_dump at the end upwards.
 *
 * What it can't save yet it refuses by name: more than one thread, children, and descriptors other than those in
 * `capture_descriptor`. Nothing is changed in the target but through the agent's seat (tracee.h).
 */
#include "base/log.h"
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
#include <linux/kcmp.h>
#include <linux/rseq.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define SEAT_SIZE (16 * PAGE_SIZE)
#define FILES_ID 1

/* A descriptor already captured, and the file it stands for. */
struct seen_fd {
	int fd;
	uint32_t id;
};

struct dump {
	const struct request *request;
	struct error *e;
	struct image_dir *dir;
	struct image_file *files;
	struct tracee tracee;
	struct proc_stat stat;
	struct proc_status status;
	struct proc_maps maps;
	uint32_t next_file_id;
	VEC(struct seen_fd) seen;
	int maps_mem;
	/* What only the process itself can tell, as the agent brought it back. */
	struct asked {
		struct {
			uint64_t handler, flags, restorer, mask;
		} action[64];
		struct itimerval itimer[3];
		stack_t altstack;
		uint64_t tid_address;
		uint32_t pdeath_sig, subreaper;
		int64_t dumpable, thp_disable, brk, securebits;
	} asked;
};

static int write_one(struct dump *d, const char *name, uint32_t magic, const ProtobufCMessage *m)
{
	struct image_file *file;
	int r = image_create(d->dir, name, magic, &file);

	if (!r)
		r = image_write_message(file, m);
	if (!r)
		r = image_close(file);
	return r ? error_errno(d->e, r, "cannot write %s", name) : 0;
}

/* ---- freeze ---- */

static int dump_freeze(struct dump *d)
{
	pid_t pid = d->request->pid;
	int r = proc_read_stat(pid, &d->stat);

	if (r == -ENOENT || r == -ESRCH)
		return error_set(d->e, -ESRCH, "there is no such process; see ps for those that are running");
	if (r)
		return error_errno(d->e, r, "cannot read its stat");
	if (d->stat.flags & 0x00200000)
		return error_set(d->e, -EINVAL, "it is a kernel thread, which has no state of its own to save");
	r = proc_read_status(pid, &d->status);
	if (r)
		return error_errno(d->e, r, "cannot read its status");
	if (d->status.tracer_pid)
		return error_set(d->e, -EBUSY, "it is being debugged by process %d; end that first", (int)d->status.tracer_pid);
	if (d->stat.state == 'Z')
		return error_set(d->e, -EINVAL, "it has already ended (zombie)");
	if ((pid_t)d->stat.session != pid && !d->request->shell_job)
		return error_set(d->e, -EINVAL, "it belongs to session %d, which is not saved with it; use --shell-job",
				 (int)d->stat.session);
	r = tracee_seize(&d->tracee, pid, pid, d->e);
	if (!r && (r = tracee_interrupt(&d->tracee)))
		r = error_errno(d->e, r, "cannot stop it");
	if (!r)
		r = tracee_wait_stop(&d->tracee, d->e);
	if (r)
		return r;
	if (d->tracee.stopped_by_signal)
		return error_set(d->e, -ENOTSUP, "it is stopped by a job control signal, which is not saved yet; continue it first");
	if (d->tracee.regs.cs == 0x23)
		return error_set(d->e, -ENOTSUP, "it is a 32-bit program, which is not supported");
	return proc_read_stat(pid, &d->stat) ? error_set(d->e, -ESRCH, "it ended") : 0;
}

/* State that has no place in the images yet and differs from what a new process gets: refused, not lost. */
static int refuse_unsaved(struct dump *d)
{
	pid_t pid = d->request->pid;
	cpu_set_t theirs, ours;
	char path[64];
	_cleanup_free_ char *personality = NULL;

	if (sched_getaffinity(pid, sizeof(theirs), &theirs) == 0 && sched_getaffinity(0, sizeof(ours), &ours) == 0 &&
	    !CPU_EQUAL(&theirs, &ours))
		return error_set(d->e, -ENOTSUP, "it is bound to some processors, which is not saved yet; see taskset");
	errno = 0;
	int nice = getpriority(PRIO_PROCESS, (id_t)pid);
	if (sched_getscheduler(pid) != SCHED_OTHER || nice != getpriority(PRIO_PROCESS, 0))
		return error_set(d->e, -ENOTSUP, "it has a scheduling class or nice value of its own, which is not saved yet");
	if (d->status.cap_amb)
		return error_set(d->e, -ENOTSUP, "it has ambient capabilities, which are not saved yet");
	snprintf(path, sizeof(path), "/proc/%d/personality", pid);
	if (!read_file_at(AT_FDCWD, path, 4096, &personality, NULL) && strtoul(personality, NULL, 16))
		return error_set(d->e, -ENOTSUP, "it has a personality of its own, which is not saved yet");
	return 0;
}

static int dump_check_alone(struct dump *d)
{
	char path[64];
	_cleanup_free_ char *text = NULL;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", d->request->pid, d->request->pid);
	int r = read_file_at(AT_FDCWD, path, 1 << 20, &text, NULL);
	if (r)
		return error_errno(d->e, r, "cannot read its children");
	if (text[0])
		return error_set(d->e, -ENOTSUP, "it has child processes (%s), which are not saved yet", text);
	if (d->stat.num_threads != 1)
		return error_set(d->e, -ENOTSUP, "it has %d threads; only one is saved yet", (int)d->stat.num_threads);
	if (d->status.seccomp)
		return error_set(d->e, -ENOTSUP, "it is under seccomp, which is not saved yet");
	_cleanup_free_ char *timers = NULL;
	snprintf(path, sizeof(path), "/proc/%d/timers", d->request->pid);
	if (!read_file_at(AT_FDCWD, path, 1 << 20, &timers, NULL) && timers[0])
		return error_set(d->e, -ENOTSUP, "it has POSIX timers, which are not saved yet");
	int r2 = refuse_unsaved(d);
	if (r2)
		return r2;
	if (d->status.sig_pnd || d->status.shd_pnd)
		return error_set(d->e, -ENOTSUP, "it has pending signals, which are not saved yet");
	return 0;
}

/* ---- what only the process can tell ---- */

static struct agent_op *op_add(struct agent_batch *b, long nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3)
{
	struct agent_op *op = &b->ops[b->count++];

	*op = (struct agent_op){ .nr = (int32_t)nr, .flags = AGENT_OP_MAY_FAIL, .arg = { a0, a1, a2, a3 } };
	return op;
}

static int dump_ask(struct dump *d)
{
	uint64_t hole = maps_find_hole(&d->maps, SEAT_SIZE), slack = maps_find_slack(&d->maps, d->request->pid);
	struct {
		struct agent_batch head;
		struct agent_op ops[96];
		struct asked out;
	} *job _cleanup_free_ = calloc(1, sizeof(*job));
	struct agent_seat seat;

	if (!job)
		return error_set(d->e, -ENOMEM, "out of memory");
	if (!hole || !slack)
		return error_set(d->e, -ENOTSUP, "no room for the agent (no vdso, or a full address space)");
	int r = agent_seat_take(&seat, &d->tracee, hole, SEAT_SIZE, slack, d->e);
	if (r)
		return r;
	uint64_t out = agent_seat_data(&seat) + offsetof(typeof(*job), out);
	struct agent_batch *b = &job->head;
#define OUT(field) (out + offsetof(struct asked, field))
	for (int sig = 1; sig <= 64; sig++)
		op_add(b, __NR_rt_sigaction, (uint64_t)sig, 0, OUT(action[sig - 1]), 8);
	for (uint64_t which = 0; which < 3; which++)
		op_add(b, __NR_getitimer, which, OUT(itimer) + which * sizeof(struct itimerval), 0, 0);
	op_add(b, __NR_sigaltstack, 0, OUT(altstack), 0, 0);
	op_add(b, __NR_prctl, PR_GET_TID_ADDRESS, OUT(tid_address), 0, 0);
	op_add(b, __NR_prctl, PR_GET_PDEATHSIG, OUT(pdeath_sig), 0, 0);
	op_add(b, __NR_prctl, PR_GET_CHILD_SUBREAPER, OUT(subreaper), 0, 0);
	struct agent_op *dumpable = op_add(b, __NR_prctl, PR_GET_DUMPABLE, 0, 0, 0);
	struct agent_op *securebits = op_add(b, __NR_prctl, PR_GET_SECUREBITS, 0, 0, 0);
	struct agent_op *thp = op_add(b, __NR_prctl, PR_GET_THP_DISABLE, 0, 0, 0);
	struct agent_op *brk = op_add(b, __NR_brk, 0, 0, 0, 0);
	r = agent_seat_run(&seat, b, sizeof(*job), d->e);
	struct error left = {};
	int l = agent_seat_leave(&seat, &left);
	if (r || l) {
		if (!r)
			*d->e = left;
		return r ? r : l;
	}
	d->asked = job->out;
	d->asked.dumpable = dumpable->result;
	d->asked.thp_disable = thp->result;
	d->asked.securebits = securebits->result;
	d->asked.brk = brk->result;
	return 0;
}

/* ---- files ---- */

/* Writes the entry for what /proc/PID/`link` refers to; gives its id. */
static int capture_path(struct dump *d, const char *link, uint32_t flags, uint64_t pos, uint32_t *ret_id)
{
	char path[96], name[4096];
	struct stat st, there;

	snprintf(path, sizeof(path), "/proc/%d/%s", d->request->pid, link);
	ssize_t n = readlink(path, name, sizeof(name) - 1);
	if (n < 0 || stat(path, &st) < 0)
		return error_errno(d->e, -errno, "cannot read %s", path);
	name[n] = '\0';
	if (name[0] != '/')
		return error_set(d->e, -ENOTSUP, "%s is %s, which has no way to be saved yet", link, name);
	if (stat(name, &there) < 0 || there.st_ino != st.st_ino || there.st_dev != st.st_dev)
		return error_set(d->e, -ENOTSUP, "%s (%s) was deleted or replaced since it was opened, which is not saved yet", link,
				 name);
	FileEntry entry = FILE_ENTRY__INIT;
	RegFileEntry reg = REG_FILE_ENTRY__INIT;
	FownEntry fown = FOWN_ENTRY__INIT;
	reg.id = entry.id = ++d->next_file_id;
	reg.flags = flags & ~(uint32_t)O_CLOEXEC;
	reg.pos = pos;
	reg.fown = &fown;
	reg.name = name;
	reg.has_mode = 1;
	reg.mode = st.st_mode;
	if (S_ISREG(st.st_mode)) {
		reg.has_size = 1;
		reg.size = (uint64_t)st.st_size;
	}
	entry.type = FD_TYPES__REG;
	entry.reg = &reg;
	*ret_id = entry.id;
	int r = image_write_message(d->files, &entry.base);
	return r ? error_errno(d->e, r, "cannot write files.img") : 0;
}

/* The id of an open file description that another descriptor had already, or 0; see kcmp(2). */
static uint32_t find_shared(struct dump *d, int fd)
{
	VEC_FOREACH(&d->seen, other)
		if (syscall(__NR_kcmp, d->request->pid, d->request->pid, KCMP_FILE, other->fd, fd) == 0)
			return other->id;
	return 0;
}

static int capture_descriptor(struct dump *d, int fd, struct image_file *table)
{
	struct proc_fdinfo info = {};
	FdinfoEntry entry = FDINFO_ENTRY__INIT;
	char link[32], path[64];
	struct stat st;

	int r = proc_read_fdinfo(d->request->pid, fd, &info);
	if (r)
		return error_errno(d->e, r, "cannot read descriptor %d", fd);
	if (info.locked)
		return error_set(d->e, -ENOTSUP, "descriptor %d holds a file lock, which is not saved yet", fd);
	if (info.flags & O_ASYNC)
		return error_set(d->e, -ENOTSUP, "descriptor %d sends signals (O_ASYNC), which is not saved yet", fd);
	uint32_t flags = (uint32_t)info.flags;
	uint64_t pos = (uint64_t)info.pos;
	snprintf(link, sizeof(link), "fd/%d", fd);
	snprintf(path, sizeof(path), "/proc/%d/%s", d->request->pid, link);
	if (stat(path, &st) < 0)
		return error_errno(d->e, -errno, "cannot examine descriptor %d", fd);
	bool tty = S_ISCHR(st.st_mode) && major(st.st_rdev) >= 136 && major(st.st_rdev) <= 143;
	if (tty && !d->request->shell_job)
		return error_set(d->e, -ENOTSUP, "descriptor %d is a terminal that is not saved with it; use --shell-job", fd);
	if (!tty && S_ISCHR(st.st_mode) && major(st.st_rdev) != 1)
		return error_set(d->e, -ENOTSUP, "descriptor %d is a device (%u:%u), which has no way to be saved", fd,
				 major(st.st_rdev), minor(st.st_rdev));
	entry.id = find_shared(d, fd);
	r = entry.id ? 0 : capture_path(d, link, flags, pos, &entry.id);
	if (r)
		return r;
	struct seen_fd *seen = VEC_PUSH(&d->seen);
	if (!seen)
		return error_set(d->e, -ENOMEM, "out of memory");
	*seen = (struct seen_fd){ fd, entry.id };
	entry.fd = (uint32_t)fd;
	entry.flags = flags & O_CLOEXEC ? FD_CLOEXEC : 0;
	entry.type = FD_TYPES__REG;
	r = image_write_message(table, &entry.base);
	return r ? error_errno(d->e, r, "cannot write the descriptor table") : 0;
}

static int dump_files(struct dump *d)
{
	struct image_file *table;
	struct proc_fds fds = {};
	char name[32];
	int r = proc_list_fds(d->request->pid, &fds);

	if (r)
		return error_errno(d->e, r, "cannot list its descriptors");
	snprintf(name, sizeof(name), "fdinfo-%d.img", FILES_ID + 1);
	r = image_create(d->dir, name, IMAGE_MAGIC_FDINFO, &table);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	for (size_t i = 0; !r && i < fds.count; i++)
		r = capture_descriptor(d, fds.data[i], table);
	VEC_FREE(&fds);
	if (r)
		return r;
	r = image_close(table);
	if (r)
		return error_errno(d->e, r, "cannot write %s", name);
	FsEntry fs = FS_ENTRY__INIT;
	r = capture_path(d, "cwd", O_DIRECTORY, 0, &fs.cwd_id);
	if (!r)
		r = capture_path(d, "root", O_DIRECTORY, 0, &fs.root_id);
	fs.has_umask = 1;
	fs.umask = (uint32_t)d->status.umask;
	snprintf(name, sizeof(name), "fs-%d.img", d->request->pid);
	return r ? r : write_one(d, name, IMAGE_MAGIC_FS, &fs.base);
}

/* ---- memory ---- */

#define COPY_SIZE (512UL << 10)

static int copy_pages(struct dump *d, uint64_t start, uint64_t end, struct image_file *pages, unsigned char *buffer)
{
	for (uint64_t at = start; at < end;) {
		size_t size = MIN(COPY_SIZE, end - at);
		struct iovec to = { buffer, size }, from = { (void *)at, size };
		ssize_t n = process_vm_readv(d->request->pid, &to, 1, &from, 1, 0);
		if (n <= 0) { /* PROT_NONE: only /proc/PID/mem reads that */
			n = pread(d->maps_mem, buffer, size, (off_t)at);
			if (n <= 0)
				return error_errno(d->e, n ? -errno : -EIO, "cannot read memory at %lx", (unsigned long)at);
		}
		int r = image_write_bytes(pages, buffer, (size_t)n);
		if (r)
			return error_errno(d->e, r, "cannot write pages-1.img");
		at += (uint64_t)n;
	}
	return 0;
}

/* Whether a page must be stored, from its word in /proc/PID/pagemap. */
static bool page_wanted(uint64_t word, bool file_backed)
{
	const uint64_t present = 1ULL << 63, swapped = 1ULL << 62, file_page = 1ULL << 61;

	return (word & (present | swapped)) && !(file_backed && (word & file_page));
}

static int dump_vma_pages(struct dump *d, const struct proc_vma *vma, int pagemap_fd, struct image_file *map,
			  struct image_file *pages, unsigned char *buffer)
{
	uint32_t status = vma_status(vma);
	uint64_t words[512], run = 0;
	int r = 0;

	if (!(status & (VMA_ANON_PRIVATE | VMA_FILE_PRIVATE)) || status & (VMA_VDSO | VMA_VVAR | VMA_VSYSCALL))
		return 0;
	for (uint64_t at = vma->start; at <= vma->end && !r; at += PAGE_SIZE) {
		size_t i = (at - vma->start) / PAGE_SIZE % ARRAY_SIZE(words);
		if (i == 0 && at < vma->end) {
			size_t bytes = MIN(sizeof(words), (vma->end - at) / PAGE_SIZE * 8);
			if (pread(pagemap_fd, words, bytes, (off_t)(at / PAGE_SIZE * 8)) != (ssize_t)bytes)
				return error_errno(d->e, -EIO, "cannot read pagemap");
		}
		bool wanted = at < vma->end && page_wanted(words[i], status & VMA_FILE_PRIVATE);
		if (wanted && !run)
			run = at;
		if (wanted || !run)
			continue;
		PagemapEntry entry = PAGEMAP_ENTRY__INIT;
		entry.vaddr = run;
		entry.nr_pages = (uint32_t)((at - run) / PAGE_SIZE);
		entry.has_flags = 1;
		entry.flags = 4;
		r = image_write_message(map, &entry.base);
		if (!r)
			r = copy_pages(d, run, at, pages, buffer);
		run = 0;
	}
	return r;
}

static int dump_memory(struct dump *d)
{
	_cleanup_free_ unsigned char *buffer = malloc(COPY_SIZE);
	struct image_file *map, *pages;
	char name[64];

	snprintf(name, sizeof(name), "/proc/%d/pagemap", d->request->pid);
	_cleanup_close_ int pagemap_fd = open(name, O_RDONLY | O_CLOEXEC);
	snprintf(name, sizeof(name), "/proc/%d/mem", d->request->pid);
	_cleanup_close_ int mem_fd = open(name, O_RDONLY | O_CLOEXEC);
	if (pagemap_fd < 0 || mem_fd < 0 || !buffer)
		return error_errno(d->e, -errno, "cannot open its memory");
	d->maps_mem = mem_fd;
	snprintf(name, sizeof(name), "pagemap-%d.img", d->request->pid);
	int r = image_create(d->dir, name, IMAGE_MAGIC_PAGEMAP, &map);
	if (!r)
		r = image_create_raw(d->dir, "pages-1.img", &pages);
	PagemapHead head = PAGEMAP_HEAD__INIT;
	head.pages_id = 1;
	if (!r)
		r = image_write_message(map, &head.base);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	for (size_t i = 0; !r && i < d->maps.count; i++)
		r = dump_vma_pages(d, &d->maps.data[i], pagemap_fd, map, pages, buffer);
	if (r)
		return r;
	r = image_close(map);
	if (!r)
		r = image_close(pages);
	return r ? error_errno(d->e, r, "cannot write the pages") : 0;
}

/* ---- mm ---- */

static int capture_vma(struct dump *d, const struct proc_vma *vma, VmaEntry *entry)
{
	uint32_t status = vma_status(vma);
	char link[64];

	vma_entry__init(entry);
	entry->start = vma->start;
	entry->end = vma->end;
	entry->prot = (uint32_t)vma->prot;
	entry->flags = vma->shared ? MAP_SHARED : MAP_PRIVATE;
	entry->status = status;
	entry->fd = -1;
	if (!strcmp(vma->name ? vma->name : "", "[stack]"))
		entry->flags |= MAP_GROWSDOWN;
	if (status & VMA_ANON_SHARED)
		return error_set(d->e, -ENOTSUP, "its memory at %lx is shared anonymous, which is not saved yet", (unsigned long)vma->start);
	if (!(status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED))) {
		entry->flags |= MAP_ANONYMOUS;
		return 0;
	}
	snprintf(link, sizeof(link), "map_files/%lx-%lx", (unsigned long)vma->start, (unsigned long)vma->end);
	uint32_t id, access = vma->shared && vma->prot & PROT_WRITE ? O_RDWR : O_RDONLY;
	int r = capture_path(d, link, access, 0, &id);
	if (r)
		return r;
	entry->pgoff = vma->pgoff;
	entry->shmid = id;
	entry->has_fdflags = 1;
	entry->fdflags = access;
	return 0;
}

static int dump_mm(struct dump *d)
{
	_cleanup_free_ VmaEntry *entries = calloc(d->maps.count, sizeof(*entries));
	_cleanup_free_ VmaEntry **list = calloc(d->maps.count, sizeof(*list));
	_cleanup_free_ char *auxv = NULL;
	size_t auxv_size;
	char name[64];
	MmEntry mm = MM_ENTRY__INIT;
	int r = 0;

	if (!entries || !list)
		return error_set(d->e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < d->maps.count; i++) {
		if (vma_status(&d->maps.data[i]) & VMA_VSYSCALL)
			continue;
		list[mm.n_vmas] = &entries[mm.n_vmas];
		r = capture_vma(d, &d->maps.data[i], list[mm.n_vmas++]);
	}
	if (!r)
		r = capture_path(d, "exe", O_RDONLY, 0, &mm.exe_file_id);
	if (r)
		return r;
	mm.vmas = list;
	snprintf(name, sizeof(name), "/proc/%d/auxv", d->request->pid);
	r = read_file_at(AT_FDCWD, name, 1 << 16, &auxv, &auxv_size);
	if (r)
		return error_errno(d->e, r, "cannot read its auxv");
	mm.mm_saved_auxv = (uint64_t *)auxv;
	mm.n_mm_saved_auxv = auxv_size / 8;
	mm.mm_start_code = d->stat.mm_start_code;
	mm.mm_end_code = d->stat.end_code;
	mm.mm_start_data = d->stat.start_data;
	mm.mm_end_data = d->stat.end_data;
	mm.mm_start_stack = d->stat.start_stack;
	mm.mm_start_brk = d->stat.start_brk;
	mm.mm_brk = (uint64_t)d->asked.brk;
	mm.mm_arg_start = d->stat.arg_start;
	mm.mm_arg_end = d->stat.arg_end;
	mm.mm_env_start = d->stat.env_start;
	mm.mm_env_end = d->stat.env_end;
	mm.has_dumpable = 1;
	mm.dumpable = (int32_t)d->asked.dumpable;
	mm.has_thp_disabled = 1;
	mm.thp_disabled = d->asked.thp_disable > 0;
	snprintf(name, sizeof(name), "mm-%d.img", d->request->pid);
	return write_one(d, name, IMAGE_MAGIC_MM, &mm.base);
}

/* ---- core ---- */

static void fill_creds(const struct proc_status *s, CredsEntry *c, uint32_t caps[4][2])
{
	const uint64_t values[4] = { s->cap_inh, s->cap_prm, s->cap_eff, s->cap_bnd };

	for (int i = 0; i < 4; i++)
		memcpy(caps[i], &values[i], 8);
	c->uid = s->uid[0];
	c->euid = s->uid[1];
	c->suid = s->uid[2];
	c->fsuid = s->uid[3];
	c->gid = s->gid[0];
	c->egid = s->gid[1];
	c->sgid = s->gid[2];
	c->fsgid = s->gid[3];
	c->cap_inh = caps[0];
	c->cap_prm = caps[1];
	c->cap_eff = caps[2];
	c->cap_bnd = caps[3];
	c->n_cap_inh = c->n_cap_prm = c->n_cap_eff = c->n_cap_bnd = 2;
	c->groups = (uint32_t *)s->groups;
	c->n_groups = s->n_groups;
}

static int fill_thread_info(struct dump *d, ThreadInfoX86 *info)
{
	static unsigned char area[XSAVE_MAX];
	struct iovec io = { area, sizeof(area) };
	struct user_regs_struct regs = d->tracee.regs;

	regs_restart_syscall(&regs, false);
	regs_to_image(&regs, info->gpregs);
	info->clear_tid_addr = d->asked.tid_address;
	if (ptrace(PTRACE_GETREGSET, d->tracee.tid, NT_X86_XSTATE, &io) < 0)
		return error_errno(d->e, -errno, "cannot read the FPU state");
	int r = fpu_to_image(area, io.iov_len, info->fpregs, info->fpregs->xsave);
	return r ? error_errno(d->e, r, "cannot save the FPU state") : 0;
}

static void fill_timers(struct dump *d, ItimerEntry *t)
{
	for (int i = 0; i < 3; i++) {
		const struct itimerval *v = &d->asked.itimer[i];
		itimer_entry__init(&t[i]);
		t[i].isec = (uint64_t)v->it_interval.tv_sec;
		t[i].iusec = (uint64_t)v->it_interval.tv_usec;
		t[i].vsec = (uint64_t)v->it_value.tv_sec;
		t[i].vusec = (uint64_t)v->it_value.tv_usec;
	}
}

static int fill_thread_core(struct dump *d, ThreadCoreEntry *tc, RseqEntry *rseq, ThreadSasEntry *sas)
{
	struct __ptrace_rseq_configuration rc = {};
	uint64_t head = 0;
	size_t head_size = 0;

	if (syscall(__NR_get_robust_list, d->tracee.tid, &head, &head_size) == 0) {
		tc->futex_rla = head;
		tc->futex_rla_len = (uint32_t)head_size;
	}
	tc->has_blk_sigset = 1;
	tc->blk_sigset = d->tracee.sigmask;
	tc->has_pdeath_sig = d->asked.pdeath_sig != 0;
	tc->pdeath_sig = d->asked.pdeath_sig;
	sas->ss_sp = (uint64_t)d->asked.altstack.ss_sp;
	sas->ss_size = d->asked.altstack.ss_size;
	sas->ss_flags = (uint32_t)d->asked.altstack.ss_flags;
	tc->sas = sas;
	tc->comm = d->stat.comm;
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, d->tracee.tid, sizeof(rc), &rc) > 0 && rc.rseq_abi_pointer) {
		rseq->rseq_abi_pointer = rc.rseq_abi_pointer;
		rseq->rseq_abi_size = rc.rseq_abi_size;
		rseq->signature = rc.signature;
		tc->rseq_entry = rseq;
	}
	return 0;
}

static int dump_core(struct dump *d)
{
	CoreEntry core = CORE_ENTRY__INIT;
	TaskCoreEntry tc = TASK_CORE_ENTRY__INIT;
	ThreadCoreEntry thread = THREAD_CORE_ENTRY__INIT;
	ThreadInfoX86 info = THREAD_INFO_X86__INIT;
	UserX86RegsEntry gpregs = USER_X86_REGS_ENTRY__INIT;
	UserX86FpregsEntry fpregs = USER_X86_FPREGS_ENTRY__INIT;
	UserX86XsaveEntry xsave = USER_X86_XSAVE_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	TaskTimersEntry timers = TASK_TIMERS_ENTRY__INIT;
	ItimerEntry itimers[3];
	CredsEntry creds = CREDS_ENTRY__INIT;
	RseqEntry rseq = RSEQ_ENTRY__INIT;
	ThreadSasEntry sas = THREAD_SAS_ENTRY__INIT;
	SaEntry actions[62], *action_list[62];
	TaskRlimitsEntry rlimits = TASK_RLIMITS_ENTRY__INIT;
	RlimitEntry limit[16], *limit_list[16];
	uint64_t limits[16][2];
	uint32_t caps[4][2];
	char name[32];

	fpregs.xsave = &xsave;
	info.gpregs = &gpregs;
	info.fpregs = &fpregs;
	core.mtype = CORE_ENTRY__MARCH__X86_64;
	core.thread_info = &info;
	core.tc = &tc;
	core.ids = &ids;
	core.thread_core = &thread;
	ids.vm_id = ids.fs_id = ids.sighand_id = 1;
	ids.files_id = FILES_ID + 1;
	tc.task_state = 1;
	tc.comm = d->stat.comm;
	tc.blk_sigset = d->tracee.sigmask;
	tc.has_child_subreaper = 1;
	tc.child_subreaper = d->asked.subreaper != 0;
	timers.real = &itimers[0];
	timers.virt = &itimers[1];
	timers.prof = &itimers[2];
	fill_timers(d, itimers);
	tc.timers = &timers;
	for (int sig = 1, n = 0; sig <= 64; sig++) {
		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		sa_entry__init(&actions[n]);
		actions[n].sigaction = d->asked.action[sig - 1].handler;
		actions[n].flags = d->asked.action[sig - 1].flags;
		actions[n].restorer = d->asked.action[sig - 1].restorer;
		actions[n].mask = d->asked.action[sig - 1].mask;
		action_list[n] = &actions[n];
		tc.n_sigactions = (size_t)++n;
	}
	tc.sigactions = action_list;
	int r = proc_read_limits(d->request->pid, limits);
	if (r)
		return error_errno(d->e, r, "cannot read its limits");
	for (int i = 0; i < 16; i++) {
		rlimit_entry__init(&limit[i]);
		limit[i].cur = limits[i][0];
		limit[i].max = limits[i][1];
		limit_list[i] = &limit[i];
	}
	rlimits.rlimits = limit_list;
	rlimits.n_rlimits = 16;
	tc.rlimits = &rlimits;
	fill_creds(&d->status, &creds, caps);
	creds.secbits = (uint32_t)d->asked.securebits;
	creds.has_no_new_privs = creds.no_new_privs = d->status.no_new_privs != 0;
	thread.creds = &creds;
	r = fill_thread_core(d, &thread, &rseq, &sas);
	if (!r)
		r = fill_thread_info(d, &info);
	snprintf(name, sizeof(name), "core-%d.img", d->request->pid);
	if (!r)
		r = write_one(d, name, IMAGE_MAGIC_CORE, &core.base);
	snprintf(name, sizeof(name), "ids-%d.img", d->request->pid);
	return r ? r : write_one(d, name, IMAGE_MAGIC_IDS, &ids.base);
}

static int dump_tree(struct dump *d)
{
	InventoryEntry inventory = INVENTORY_ENTRY__INIT;
	TaskKobjIdsEntry ids = TASK_KOBJ_IDS_ENTRY__INIT;
	PstreeEntry tree = PSTREE_ENTRY__INIT;
	uint32_t thread = (uint32_t)d->request->pid;

	tree.pid = thread;
	tree.pgid = (uint32_t)d->stat.pgrp;
	tree.sid = (uint32_t)d->stat.session;
	tree.threads = &thread;
	tree.n_threads = 1;
	inventory.img_version = 2;
	inventory.has_fdinfo_per_id = inventory.fdinfo_per_id = 1;
	inventory.root_ids = &ids;
	int r = write_one(d, "pstree.img", IMAGE_MAGIC_PSTREE, &tree.base);
	return r ? r : write_one(d, "inventory.img", IMAGE_MAGIC_INVENTORY, &inventory.base);
}

/* ---- the flow ---- */

static int dump_run(struct dump *d)
{
	int r = dump_freeze(d);

	if (!r)
		r = dump_check_alone(d);
	if (!r && (r = proc_read_maps(d->request->pid, &d->maps)))
		r = error_errno(d->e, r, "cannot read its maps");
	if (!r)
		r = dump_ask(d);
	if (!r && (r = image_create(d->dir, "files.img", IMAGE_MAGIC_FILES, &d->files)))
		r = error_errno(d->e, r, "cannot create files.img");
	if (!r)
		r = dump_files(d);
	if (!r)
		r = dump_mm(d);
	if (!r && (r = image_close(d->files)))
		r = error_errno(d->e, r, "cannot write files.img");
	if (!r)
		r = dump_core(d);
	if (!r)
		r = dump_memory(d);
	if (!r)
		r = dump_tree(d);
	if (!r && (r = image_dir_commit(d->dir)))
		r = error_errno(d->e, r, "cannot finish the checkpoint in %s", d->request->images_dir);
	return r;
}

int engine_dump(const struct request *request, struct error *e)
{
	struct dump d = { .request = request, .e = e };
	int r = image_dir_create(request->images_dir, &d.dir);

	if (r == -EEXIST)
		return error_set(e, r, "%s already holds a checkpoint; choose another directory", request->images_dir);
	if (r)
		return error_errno(e, r, "cannot use the directory %s", request->images_dir);
	r = dump_run(&d);
	if (!r && !request->leave_running)
		kill(request->pid, SIGKILL);
	tracee_detach(&d.tracee);
	proc_maps_finish(&d.maps);
	VEC_FREE(&d.seen);
	image_dir_free(d.dir);
	if (r)
		return error_prefix(e, r, "cannot dump process %d (%s)", request->pid, d.stat.comm[0] ? d.stat.comm : "?");
	log_info("Dumping finished successfully");
	return 0;
}
