/* See insight.h. */
#include "engine/constants.h"
#include "engine/task/insight.h"

#include "engine/kernel.h"

#include <asm/prctl.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#define IO_FLUSHER_BITS 0x180000UL /* PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE */
#define PIDFS_MAGIC 0x50494446
#define ALTSTACK_AUTODISARM (1U << 31)
#define ACTION_BITS_OF_KERNEL 0x03000000UL /* SA_IA32_ABI, SA_X32_ABI */
#define NO_NEW_PRIVS_BIT 1UL		   /* of atomic_flags */
/* Bits of an mm's flags that say nothing of what is saved: the coredump filter, which is read elsewhere where it differs; then whether KSM,
 * khugepaged, uprobes, the OOM killer and the huge zero page were there. They have stood there since before Linux 5.14. */
#define MM_BITS_OF_NO_MATTER 0x00ff07fcUL
#define MM_BITS_OF_COREDUMP 0x7fcUL
#define LEVEL_MAX 32
#define FDS_MAX 256
#define MEMBER_MAX 2048
#define AREAS_MANY 100
#define TASKS_MANY 4

/* ---- what is read, and where it goes ---- */

enum part { TASK, PID, SIGNAL, MM, CRED, TABLE, PARTS };
static const char *const part_type[PARTS] = { "task_struct", "pid", "signal_struct", "mm_struct", "cred", "fdtable" };

/* The part, what we call it, what the kernel calls it, its size in bytes (0: of any). From RSEQ to CUSTOM_SLICE: not every kernel has them. */
#define MEMBERS \
	X(TASK, FLAGS, "flags", 4) X(TASK, ATOMIC_FLAGS, "atomic_flags", 8) X(TASK, PERSONALITY, "personality", 4) \
	X(TASK, PDEATH_SIGNAL, "pdeath_signal", 4) X(TASK, THREAD_PID, "thread_pid", 8) X(TASK, THREAD_NODE, "thread_node", 16) \
	X(TASK, CLEAR_CHILD_TID, "clear_child_tid", 8) X(TASK, CREDENTIALS, "cred", 8) X(TASK, COMM, "comm", 16) X(TASK, FS, "fs", 8) \
	X(TASK, FILES, "files", 8) X(TASK, SIGNAL_STRUCT, "signal", 8) X(TASK, SIGHAND, "sighand", 8) X(TASK, MM_STRUCT, "mm", 8) \
	X(TASK, NSPROXY, "nsproxy", 8) X(TASK, BLOCKED, "blocked", 8) X(TASK, SAVED_MASK, "saved_sigmask", 8) X(TASK, SAS_SP, "sas_ss_sp", 8) X(TASK, SAS_SIZE, "sas_ss_size", 8) \
	X(TASK, SAS_FLAGS, "sas_ss_flags", 4) X(TASK, SECCOMP_MODE, "seccomp.mode", 4) X(TASK, TIMER_SLACK, "timer_slack_ns", 8) \
	X(TASK, CHILDREN, "children", 16) \
	X(TASK, SYSCALL_WORK, "thread_info.syscall_work", 8) X(TASK, THREAD_FLAGS, "thread_info.flags", 8) X(TASK, PENDING, "pending.signal", 8) X(TASK, ROBUST_LIST, "robust_list", 8) \
	X(TASK, POLICY, "policy", 4) X(TASK, STATIC_PRIO, "static_prio", 4) X(TASK, RT_PRIORITY, "rt_priority", 4) \
	X(TASK, CPUS_MASK, "cpus_mask", 0) \
	X(TASK, RSEQ, "rseq", 8) X(TASK, RSEQ_LEN, "rseq_len", 4) X(TASK, RSEQ_SIG, "rseq_sig", 4) X(TASK, MEMPOLICY, "mempolicy", 8) \
	X(TASK, CGROUPS, "cgroups", 8) X(TASK, LOGINUID, "loginuid", 4) \
	X(TASK, IO_CONTEXT, "io_context", 8) X(TASK, UCLAMP, "uclamp_req", 0) X(TASK, CORE_COOKIE, "core_cookie", 8) X(TASK, SLICE, "se.slice", 8) \
	X(MM, MEMBARRIER, "membarrier_state", 4) X(MM, SEGMENTS, "context.ldt", 8) \
	X(TASK, CUSTOM_SLICE, "se.custom_slice", 1) \
	X(PID, LEVEL, "level", 4) X(PID, NUMBERS, "numbers", 16) \
	X(SIGNAL, THREAD_HEAD, "thread_head", 16) X(SIGNAL, POSIX_TIMERS, "posix_timers", 0) X(SIGNAL, REAL_TIMER_STATE, "real_timer.state", 1) \
	X(SIGNAL, REAL_INTERVAL, "it_real_incr", 8) X(SIGNAL, INTERVAL_TIMERS, "it", 32) X(SIGNAL, RLIM, "rlim", 256) \
	X(SIGNAL, OOM_SCORE_ADJ, "oom_score_adj", 2) \
	X(MM, MM_FLAGS, "flags", 8) X(MM, BRK, "brk", 8) X(MM, DEF_FLAGS, "def_flags", 8) X(MM, SAVED_AUXV, "saved_auxv", 0) \
	X(MM, MAP_COUNT, "map_count", 4) X(MM, EXE_FILE, "exe_file", 8) \
	X(CRED, SECUREBITS, "securebits", 4) X(CRED, USER_NS, "user_ns", 8) X(CRED, SESSION_KEYRING, "session_keyring", 8) \
	X(CRED, PROCESS_KEYRING, "process_keyring", 8) X(CRED, THREAD_KEYRING, "thread_keyring", 8) X(CRED, SECURITY, "security", 8) \
	X(TABLE, MAX_FDS, "max_fds", 4) X(TABLE, FD, "fd", 8) X(TABLE, CLOSE_ON_EXEC, "close_on_exec", 8) X(TABLE, OPEN_FDS, "open_fds", 8)
enum member {
#define X(part, name, text, size) M_##name,
	MEMBERS
#undef X
	MEMBER_COUNT
};
static const struct {
	enum part part;
	const char *name;
	int size;
} members[] = {
#define X(part, name, text, size) { part, text, size },
	MEMBERS
#undef X
};

/* Of each part a piece of memory that has all its members is read at once. */
struct layout {
	int at[MEMBER_COUNT], from[PARTS], size[PARTS];
	int bytes[MEMBER_COUNT]; /* 0: this kernel does not have it */
	int action, fdt, subreaper_bit, reset_on_fork_bit, pid_links, pid_tasks, private, inode, inode_private, root, pwd, path;
	bool timers_are_list; /* before Linux 6.13 */
};

/* Places in the window. */
#define SLOT(n) (8U * (n))
enum { SLOT_SELF, SLOT_A = 4, SLOT_B, SLOT_C, SLOT_D, SLOT_E, SLOT_F, SLOT_FIRST, SLOT_TABLE, SLOT_NODE };
#define PLACE_OF(part) (PAGE_SIZE * 2 * ((part) + 1))
#define PLACE_ACTIONS (PAGE_SIZE * 14)
#define ACTIONS_SIZE (64 * 32)
#define PLACE_CLOEXEC (PAGE_SIZE * 15)
#define PLACE_OPEN (PLACE_CLOEXEC + FDS_MAX / 8)
#define PLACE_BLOB (PLACE_OPEN + FDS_MAX / 8)
#define PATH_SIZE 16 /* struct path */
#define PLACE_PATHS (PLACE_BLOB + INSIGHT_BLOB * 8)
#define PLACE_FDS (PLACE_PATHS + PATH_SIZE * 3)

struct insights {
	struct kernel *k;
	struct layout l;
	struct areas_layout *areas;
	bool areas_tried;
	uint32_t level; /* of our pid namespace */
	bool usable, pidfs, pidfs_known;
	/* Ours. */
	uint64_t switch_bits, thread_bits, flags, thread_flags, atomic_flags, mm_flags, pinned_bit, nsproxy, user_ns, pid_ns;
	int32_t switches[THREAD_SWITCHES];
	int64_t thp_disable, memory_merge, mdwe, dumpable;
	char *coredump_filter;
	uint32_t loginuid;
	long loginuid_told; /* -1: it can't be read */
};

static bool may_be_missing(enum member m)
{
	if (m == M_MEMPOLICY)
		return syscall(__NR_get_mempolicy, NULL, NULL, 0, NULL, 0) < 0 && errno == ENOSYS;
	return m >= M_RSEQ && m <= M_CUSTOM_SLICE;
}

static int find_part(struct kernel *k, struct layout *l, enum part part)
{
	int low = INT32_MAX, high = 0;

	for (enum member m = 0; m < MEMBER_COUNT; m++) {
		if (members[m].part != part)
			continue;
		const int at = kernel_offset(k, part_type[part], members[m].name);
		const int size = m == M_NUMBERS ? members[m].size : kernel_size(k, part_type[part], members[m].name);
		if (at < 0 && may_be_missing(m))
			continue;
		if (at < 0 || size <= 0 || size > MEMBER_MAX || (members[m].size && size != members[m].size))
			return -ENOTSUP;
		l->at[m] = at;
		l->bytes[m] = size;
		low = MIN(low, at);
		high = MAX(high, at + size);
	}
	l->from[part] = low;
	l->size[part] = high - low;
	return l->size[part] > (int)KERNEL_PIECE_MAX ? -ENOTSUP : 0;
}

/* Whether the byte of a bit is among what is read of a part. */
static bool has_byte(const struct layout *l, enum part part, int bit)
{
	return bit >= 0 && bit / 8 >= l->from[part] && bit / 8 < l->from[part] + l->size[part];
}

static int find_layout(struct kernel *k, struct layout *l)
{
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->action, "sighand_struct", "action" }, { &l->fdt, "files_struct", "fdt" }, { &l->pid_links, "task_struct", "pid_links" },
		{ &l->pid_tasks, "pid", "tasks" }, { &l->private, "file", "private_data" }, { &l->inode, "file", "f_inode" },
		{ &l->inode_private, "inode", "i_private" }, { &l->root, "fs_struct", "root" }, { &l->pwd, "fs_struct", "pwd" },
		{ &l->path, "file", "f_path" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0)
			return -ENOTSUP;
	l->subreaper_bit = kernel_bit(k, "signal_struct", "is_child_subreaper");
	l->reset_on_fork_bit = kernel_bit(k, "task_struct", "sched_reset_on_fork");
	l->timers_are_list = kernel_offset(k, "signal_struct", "posix_timers.next") >= 0;
	if (kernel_size(k, "sighand_struct", "action") != ACTIONS_SIZE || kernel_size(k, "file", "f_path") != PATH_SIZE ||
	    (!l->timers_are_list && kernel_offset(k, "signal_struct", "posix_timers.first") < 0))
		return -ENOTSUP;
	for (int part = 0; part < PARTS; part++)
		if (find_part(k, l, (enum part)part))
			return -ENOTSUP;
	return has_byte(l, SIGNAL, l->subreaper_bit) && has_byte(l, TASK, l->reset_on_fork_bit) ? 0 : -ENOTSUP;
}

/* ---- reading ---- */

struct pieces {
	struct kernel_piece piece[KERNEL_PIECES];
	size_t count;
};

static void add(struct pieces *p, uint64_t base, int64_t offset, size_t size, uint64_t to)
{
	p->piece[p->count++] = (struct kernel_piece){ (uint32_t)base, (int32_t)offset, (uint32_t)size, (uint32_t)to };
}

static void add_part(struct pieces *p, const struct insights *x, enum part part, uint64_t base, int64_t offset, uint64_t to)
{
	add(p, base, offset + x->l.from[part], (size_t)x->l.size[part], to);
}

/* Where a member is in the window, when its part stands at `place`. */
static uint64_t at(const struct insights *x, uint64_t place, enum member m)
{
	return place + (uint64_t)(x->l.at[m] - x->l.from[members[m].part]);
}

static void get(const struct insights *x, uint64_t place, enum member m, void *to, size_t size)
{
	memcpy(to, kernel_window(x->k) + at(x, place, m), size);
}

static uint64_t number(const struct insights *x, uint64_t place, enum member m)
{
	uint64_t value = 0;

	get(x, place, m, &value, MIN((size_t)x->l.bytes[m], sizeof(value)));
	return value;
}

static uint64_t value(const struct insights *x, enum member m)
{
	return number(x, PLACE_OF(members[m].part), m);
}

/* From our own descriptor of a process to its task_struct, whose list of ids stands in the last slot. */
static void add_way(struct pieces *p, const struct insights *x, int pidfd)
{
	const struct layout *l = &x->l;

	add(p, SLOT(SLOT_SELF), l->at[M_FILES], 8, SLOT(SLOT_A));
	add(p, SLOT(SLOT_A), l->fdt, 8, SLOT(SLOT_B));
	add(p, SLOT(SLOT_B), l->at[M_FD], 8, SLOT(SLOT_C));
	add(p, SLOT(SLOT_C), pidfd * 8, 8, SLOT(SLOT_D));
	add(p, SLOT(SLOT_D), x->pidfs ? l->inode : l->private, 8, SLOT(x->pidfs ? SLOT_E : SLOT_F));
	if (x->pidfs)
		add(p, SLOT(SLOT_E), l->inode_private, 8, SLOT(SLOT_F));
	add(p, SLOT(SLOT_F), l->pid_tasks, 8, SLOT(SLOT_FIRST));
}

/* The task_struct that begins at the address in a slot, less `offset`, and what belongs to its process. */
static int read_process(const struct insights *x, int pidfd)
{
	struct pieces p = {};
	const uint64_t task = PLACE_OF(TASK);

	if (pidfd >= 0)
		add_way(&p, x, pidfd);
	add_part(&p, x, TASK, pidfd >= 0 ? SLOT(SLOT_FIRST) : SLOT(SLOT_SELF), pidfd >= 0 ? -x->l.pid_links : 0, task);
	add_part(&p, x, PID, at(x, task, M_THREAD_PID), 0, PLACE_OF(PID));
	add_part(&p, x, SIGNAL, at(x, task, M_SIGNAL_STRUCT), 0, PLACE_OF(SIGNAL));
	add_part(&p, x, MM, at(x, task, M_MM_STRUCT), 0, PLACE_OF(MM));
	add_part(&p, x, CRED, at(x, task, M_CREDENTIALS), 0, PLACE_OF(CRED));
	add(&p, at(x, task, M_SIGHAND), x->l.action, ACTIONS_SIZE, PLACE_ACTIONS);
	add(&p, at(x, task, M_FILES), x->l.fdt, 8, SLOT(SLOT_TABLE));
	add_part(&p, x, TABLE, SLOT(SLOT_TABLE), 0, PLACE_OF(TABLE));
	return kernel_read_pieces(x->k, p.piece, p.count);
}

/* Of the process that was read last: its descriptors, if there are not too many, where security modules keep what is theirs, and its cwd, root
 * and exe, in the order of task_links. */
static int read_tables(const struct insights *x)
{
	const size_t count = value(x, M_MAX_FDS);
	struct pieces p = {};

	if (count && count <= FDS_MAX) {
		add(&p, at(x, PLACE_OF(TABLE), M_CLOSE_ON_EXEC), 0, ALIGN_UP(count, 64) / 8, PLACE_CLOEXEC);
		add(&p, at(x, PLACE_OF(TABLE), M_OPEN_FDS), 0, ALIGN_UP(count, 64) / 8, PLACE_OPEN);
		add(&p, at(x, PLACE_OF(TABLE), M_FD), 0, count * 8, PLACE_FDS);
	}
	if (value(x, M_SECURITY))
		add(&p, at(x, PLACE_OF(CRED), M_SECURITY), 0, INSIGHT_BLOB * 8, PLACE_BLOB);
	add(&p, at(x, PLACE_OF(TASK), M_FS), x->l.pwd, PATH_SIZE, PLACE_PATHS);
	add(&p, at(x, PLACE_OF(TASK), M_FS), x->l.root, PATH_SIZE, PLACE_PATHS + PATH_SIZE);
	memset(kernel_window(x->k) + PLACE_PATHS + PATH_SIZE * 2, 0, PATH_SIZE);
	if (value(x, M_EXE_FILE))
		add(&p, at(x, PLACE_OF(MM), M_EXE_FILE), x->l.path, PATH_SIZE, PLACE_PATHS + PATH_SIZE * 2);
	return kernel_read_pieces(x->k, p.piece, p.count);
}

static bool has_bit(const struct insights *x, uint64_t place, size_t bit)
{
	return kernel_window(x->k)[place + bit / 8] >> bit % 8 & 1;
}

static bool is_subreaper(const struct insights *x)
{
	return has_bit(x, PLACE_OF(SIGNAL), (size_t)(x->l.subreaper_bit - x->l.from[SIGNAL] * 8));
}

static bool has_interval_timers(const struct insights *x)
{
	static const uint64_t none[4];
	uint64_t it[4];

	get(x, PLACE_OF(SIGNAL), M_INTERVAL_TIMERS, it, sizeof(it));
	return value(x, M_REAL_TIMER_STATE) || value(x, M_REAL_INTERVAL) || memcmp(it, none, sizeof(it));
}

/* An empty list leads to itself. */
static bool has_posix_timers(const struct insights *x)
{
	const uint64_t empty = x->l.timers_are_list ? value(x, M_SIGNAL_STRUCT) + (uint64_t)x->l.at[M_POSIX_TIMERS] : 0;
	uint64_t first;

	get(x, PLACE_OF(SIGNAL), M_POSIX_TIMERS, &first, sizeof(first));
	return first != empty;
}

static stack_t altstack_of(const struct insights *x, uint64_t task)
{
	const size_t size = number(x, task, M_SAS_SIZE);
	const uint32_t flags = (uint32_t)number(x, task, M_SAS_FLAGS) & ALTSTACK_AUTODISARM;

	return (stack_t){ .ss_sp = (void *)number(x, task, M_SAS_SP), .ss_flags = (int)(flags | (size ? 0 : SS_DISABLE)), .ss_size = size };
}

/* ---- ourselves ---- */

static uint64_t read_flags(const struct insights *x)
{
	return read_process(x, -1) ? 0 : value(x, M_FLAGS);
}

/* Which bits of a thread's flags are switches of prctl(2): they are switched, and put back. */
static bool find_switch_bits(struct insights *x)
{
	const int mce = prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), flusher = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0);

	if (mce < 0 || prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_DEFAULT, 0, 0) < 0)
		return false;
	const uint64_t usual = read_flags(x);
	bool done = prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0;
	const uint64_t early = read_flags(x);
	done &= prctl(PR_MCE_KILL, PR_MCE_KILL_SET, mce, 0, 0) == 0;
	x->switch_bits = usual ^ early;
	if (!done || !usual || !early || usual == early)
		return false;
	if (flusher < 0) { /* nobody may who lacks CAP_SYS_RESOURCE */
		x->switch_bits |= IO_FLUSHER_BITS;
		return true;
	}
	const uint64_t before = read_flags(x);
	done = prctl(PR_SET_IO_FLUSHER, !flusher, 0, 0, 0) == 0;
	const uint64_t other = read_flags(x);
	done &= prctl(PR_SET_IO_FLUSHER, flusher, 0, 0, 0) == 0;
	x->switch_bits |= before ^ other;
	return done && before && other && before != other;
}

static uint64_t read_thread_flags(const struct insights *x)
{
	return read_process(x, -1) ? 0 : value(x, M_THREAD_FLAGS);
}

/* The same for the processor's: no time stamps, no cpuid. In between this thread may use neither, as reading a clock does. */
static bool find_thread_bits(struct insights *x)
{
	int tsc;

	if (prctl(PR_GET_TSC, &tsc) < 0)
		return false;
	const uint64_t before = read_thread_flags(x);
	bool done = prctl(PR_SET_TSC, tsc == PR_TSC_ENABLE ? PR_TSC_SIGSEGV : PR_TSC_ENABLE) == 0;
	const uint64_t other = read_thread_flags(x);
	done &= prctl(PR_SET_TSC, tsc) == 0;
	x->thread_bits = before ^ other;
	const long may = syscall(__NR_arch_prctl, ARCH_GET_CPUID, 0);
	if (may < 0 || syscall(__NR_arch_prctl, ARCH_SET_CPUID, !may) < 0) /* no processor of this machine does that */
		return done;
	x->thread_bits |= before ^ read_thread_flags(x);
	return done && syscall(__NR_arch_prctl, ARCH_SET_CPUID, may) == 0;
}

static bool are_limits(const struct insights *x)
{
	uint64_t limits[16][2];
	struct rlimit limit;

	get(x, PLACE_OF(SIGNAL), M_RLIM, limits, sizeof(limits));
	for (int i = 0; i < 16; i++)
		if (getrlimit((__rlimit_resource_t)i, &limit) < 0 || limit.rlim_cur != limits[i][0] || limit.rlim_max != limits[i][1])
			return false;
	return true;
}

static bool are_actions(const struct insights *x)
{
	for (int sig = 1; sig <= 64; sig++) {
		uint64_t asked[4], seen[4];
		if (sig == SIGKILL || sig == SIGSTOP)
			continue;
		memcpy(seen, kernel_window(x->k) + PLACE_ACTIONS + (size_t)(sig - 1) * sizeof(seen), sizeof(seen));
		seen[1] &= ~ACTION_BITS_OF_KERNEL;
		if (syscall(__NR_rt_sigaction, sig, NULL, asked, 8) < 0 || memcmp(asked, seen, sizeof(asked)))
			return false;
	}
	return true;
}

static bool are_descriptors(const struct insights *x, int with_flag, int without)
{
	const int fds[] = { with_flag, without };

	if (value(x, M_MAX_FDS) > FDS_MAX)
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		if (fds[i] < 0 || fds[i] >= FDS_MAX || !has_bit(x, PLACE_OPEN, (size_t)fds[i]) || has_bit(x, PLACE_CLOEXEC, (size_t)fds[i]) != !i)
			return false;
	return true;
}

static bool is_file(const struct insights *x, const char *path, enum member m)
{
	_cleanup_free_ char *text = NULL;
	size_t size;

	if (read_small_at(AT_FDCWD, path, 1 << 16, &text, &size))
		return false;
	if (m == M_OOM_SCORE_ADJ)
		return strtol(text, NULL, 10) == (int16_t)value(x, m);
	return size <= (size_t)x->l.bytes[M_SAVED_AUXV] && !memcmp(text, kernel_window(x->k) + at(x, PLACE_OF(MM), m), size);
}

static bool is_thread(const struct insights *x)
{
	const uint64_t task = PLACE_OF(TASK);
	stack_t asked, seen = altstack_of(x, task);
	uint64_t mask = 0, tid_address = 0;
	char comm[16] = "", name[16];
	int pdeath = 0;

	get(x, task, M_COMM, name, sizeof(name));
	return prctl(PR_GET_NAME, comm) == 0 && !strncmp(comm, name, sizeof(comm)) && syscall(__NR_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8) == 0 &&
	       mask == value(x, M_BLOCKED) && prctl(PR_GET_TID_ADDRESS, &tid_address) == 0 && tid_address == value(x, M_CLEAR_CHILD_TID) &&
	       prctl(PR_GET_PDEATHSIG, &pdeath) == 0 && (uint64_t)pdeath == value(x, M_PDEATH_SIGNAL) &&
	       (uint64_t)syscall(__NR_personality, 0xffffffff) == value(x, M_PERSONALITY) &&
	       (uint64_t)syscall(__NR_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0) == value(x, M_TIMER_SLACK) && (uint64_t)prctl(PR_GET_SECUREBITS) == value(x, M_SECUREBITS) &&
	       prctl(PR_GET_SECCOMP) == (int)value(x, M_SECCOMP_MODE) && syscall(__NR_sigaltstack, NULL, &asked) == 0 && asked.ss_sp == seen.ss_sp &&
	       asked.ss_size == seen.ss_size && asked.ss_flags == seen.ss_flags;
}

static bool is_process(const struct insights *x)
{
	struct itimerval it[3];
	bool armed = false;
	int subreaper = -1;

	for (int i = 0; i < 3; i++)
		armed |= getitimer((__itimer_which_t)i, &it[i]) < 0 || timerisset(&it[i].it_value) || timerisset(&it[i].it_interval);
	return has_interval_timers(x) == armed && prctl(PR_GET_CHILD_SUBREAPER, &subreaper) == 0 && subreaper == is_subreaper(x) &&
	       (uint64_t)syscall(__NR_brk, 0) == value(x, M_BRK) && (uint64_t)prctl(PR_GET_DUMPABLE) == (value(x, M_MM_FLAGS) & 3) &&
	       are_limits(x) && are_actions(x) && is_file(x, "/proc/self/auxv", M_SAVED_AUXV) && is_file(x, "/proc/self/oom_score_adj", M_OOM_SCORE_ADJ);
}

static uint32_t id_of(const struct insights *x, uint64_t place, uint64_t *ret_namespace)
{
	uint64_t number[2] = {};

	get(x, place, M_NUMBERS, number, sizeof(number));
	*ret_namespace = number[1];
	return (uint32_t)number[0];
}

/* The ids of a pid stand one behind the other, one for each namespace: ours are at our level. */
static bool find_level(struct insights *x)
{
	if (read_process(x, -1) || value(x, M_LEVEL) > LEVEL_MAX)
		return false;
	x->level = (uint32_t)value(x, M_LEVEL);
	x->l.at[M_NUMBERS] += (int)(16 * x->level);
	x->l.size[PID] = MAX(x->l.size[PID], x->l.at[M_NUMBERS] + 16 - x->l.from[PID]);
	return read_process(x, -1) == 0 && id_of(x, PLACE_OF(PID), &x->pid_ns) == (uint32_t)syscall(__NR_gettid);
}

/* While it looks there is an alternate stack, which nothing uses: with one there is more to compare. */
static bool check_ourselves(const struct insights *x)
{
	static char nobodys[1 << 16];
	const stack_t other = { .ss_sp = nobodys, .ss_size = sizeof(nobodys), .ss_flags = (int)ALTSTACK_AUTODISARM };
	stack_t before;
	_cleanup_close_ int with_flag = open("/", O_PATH | O_CLOEXEC);
	_cleanup_close_ int without = with_flag < 0 ? -1 : fcntl(with_flag, F_DUPFD, 0);

	if (syscall(__NR_sigaltstack, &other, &before) < 0)
		return false;
	const bool is_right = !read_process(x, -1) && is_thread(x);
	syscall(__NR_sigaltstack, &before, NULL);
	return is_right && !read_process(x, -1) && is_thread(x) && is_process(x) && !read_tables(x) && are_descriptors(x, with_flag, without);
}

/* Who reads the memory of a process leaves a mark on it. */
static uint64_t find_pinned_bit(const struct insights *x)
{
	char from = 0, to;
	struct iovec ours = { &to, 1 }, its = { &from, 1 };
	const uint64_t before = value(x, M_MM_FLAGS);

	if (process_vm_readv(getpid(), &ours, 1, &its, 1, 0) != 1 || read_process(x, -1))
		return 0;
	return before ^ value(x, M_MM_FLAGS);
}

static long read_loginuid(void)
{
	_cleanup_free_ char *text = NULL;

	return read_small_at(AT_FDCWD, "/proc/self/loginuid", 64, &text, NULL) ? -1 : strtol(text, NULL, 10);
}

static void look_at_ourselves(struct insights *x)
{
	size_t size;

	if (find_layout(x->k, &x->l) || !find_level(x) || !find_switch_bits(x) || !find_thread_bits(x) || !check_ourselves(x))
		return;
	for (size_t i = 0; i < THREAD_SWITCHES; i++) {
		const struct switch_question q = threads_switch(i);
		int answer = 0;
		const long result = syscall(q.call, q.args[0], q.by_address ? (uint64_t)&answer : q.args[1], 0, 0, 0);
		x->switches[i] = result < 0 ? -errno : q.by_address ? answer : (int)result;
	}
	x->thp_disable = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
	x->memory_merge = prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
	x->mdwe = prctl(PR_GET_MDWE, 0, 0, 0, 0);
	x->dumpable = prctl(PR_GET_DUMPABLE);
	if (read_small_at(AT_FDCWD, "/proc/self/coredump_filter", 64, &x->coredump_filter, &size) || read_process(x, -1))
		return;
	x->loginuid_told = read_loginuid();
	x->loginuid = (uint32_t)value(x, M_LOGINUID);
	x->pinned_bit = find_pinned_bit(x);
	x->flags = value(x, M_FLAGS);
	x->thread_flags = value(x, M_THREAD_FLAGS);
	x->atomic_flags = value(x, M_ATOMIC_FLAGS);
	x->mm_flags = value(x, M_MM_FLAGS);
	x->nsproxy = value(x, M_NSPROXY);
	x->user_ns = value(x, M_USER_NS);
	x->usable = true;
}

/* ---- a process ---- */

/* Whether a thread is as the coordinator is, in what can't be decoded. */
static bool is_plain(const struct insights *x, uint64_t task)
{
	return !((number(x, task, M_FLAGS) ^ x->flags) & x->switch_bits) &&
	       !((number(x, task, M_THREAD_FLAGS) ^ x->thread_flags) & x->thread_bits) &&
	       !((number(x, task, M_ATOMIC_FLAGS) ^ x->atomic_flags) & ~NO_NEW_PRIVS_BIT) &&
	       !number(x, task, M_MEMPOLICY);
}

/* What sched_getattr(2) and its like tell: two threads in which all of it is the same are scheduled alike. */
struct schedule {
	unsigned char bytes[PAGE_SIZE];
	size_t size;
};

static void take_schedule(const struct insights *x, uint64_t task, struct schedule *ret)
{
	static const enum member parts[] = { M_POLICY, M_STATIC_PRIO, M_RT_PRIORITY, M_CPUS_MASK, M_IO_CONTEXT, M_UCLAMP, M_CORE_COOKIE, M_SLICE, M_CUSTOM_SLICE };

	ret->size = 0;
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		const size_t size = (size_t)x->l.bytes[parts[i]];
		if (ret->size + size + 1 > sizeof(ret->bytes))
			return;
		get(x, task, parts[i], ret->bytes + ret->size, size);
		ret->size += size;
	}
	ret->bytes[ret->size++] = has_bit(x, task, (size_t)(x->l.reset_on_fork_bit - x->l.from[TASK] * 8));
}

static void take_thread(const struct insights *x, struct thread *th, uint64_t task)
{
	struct thread_answers *a = &th->answers;

	th->insight.fs = number(x, task, M_FS);
	th->insight.files = number(x, task, M_FILES);
	th->insight.cred = number(x, task, M_CREDENTIALS);
	th->insight.robust_list = number(x, task, M_ROBUST_LIST);
	th->insight.no_signals = !number(x, task, M_PENDING);
	th->insight.no_dispatch = !number(x, task, M_SYSCALL_WORK);
	th->insight.rseq_seen = x->l.bytes[M_RSEQ] && x->l.bytes[M_RSEQ_LEN] && x->l.bytes[M_RSEQ_SIG];
	th->rseq.rseq_abi_pointer = number(x, task, M_RSEQ);
	th->rseq.rseq_abi_size = (uint32_t)number(x, task, M_RSEQ_LEN);
	th->rseq.signature = (uint32_t)number(x, task, M_RSEQ_SIG);
	a->tid_address = number(x, task, M_CLEAR_CHILD_TID);
	a->altstack = altstack_of(x, task);
	a->pdeath_sig = (uint32_t)number(x, task, M_PDEATH_SIGNAL);
	a->timer_slack = number(x, task, M_TIMER_SLACK);
	a->personality = (uint32_t)number(x, task, M_PERSONALITY);
	get(x, task, M_COMM, a->comm, sizeof(a->comm));
	memcpy(a->switches, x->switches, sizeof(a->switches));
}

/* In sigsuspend(2) and the like it has another mask for a while. */
static bool is_this(const struct insights *x, const struct thread *th, uint64_t task, uint64_t pid)
{
	const uint64_t mask = th->tracee.sigmask;
	uint64_t namespace;

	return id_of(x, pid, &namespace) == (uint32_t)th->tid && namespace == x->pid_ns &&
	       (number(x, task, M_BLOCKED) == mask || number(x, task, M_SAVED_MASK) == mask);
}

static char *auxv_of(const struct insights *x, size_t *ret_size)
{
	const char *from = kernel_window(x->k) + at(x, PLACE_OF(MM), M_SAVED_AUXV);
	const size_t count = (size_t)x->l.bytes[M_SAVED_AUXV] / 16;
	uint64_t pair[2] = { 1 };
	size_t n = 0;

	while (n < count && pair[0])
		memcpy(pair, from + 16 * n++, sizeof(pair));
	char *copy = malloc(16 * n + 1);
	if (copy)
		memcpy(copy, from, 16 * n);
	*ret_size = 16 * n;
	return copy;
}

static void take_view(const struct insights *x, struct task *t)
{
	struct task_view *v = &t->view;
	uint64_t namespace;
	char text[16];

	get(x, PLACE_OF(SIGNAL), M_RLIM, v->limits, sizeof(v->limits));
	v->limits_seen = true;
	v->timers_seen = !has_posix_timers(x);
	id_of(x, PLACE_OF(PID), &namespace);
	v->namespaces_seen = value(x, M_NSPROXY) == x->nsproxy && value(x, M_USER_NS) == x->user_ns && namespace == x->pid_ns;
	v->auxv = auxv_of(x, &v->auxv_size);
	if (!((value(x, M_MM_FLAGS) ^ x->mm_flags) & MM_BITS_OF_COREDUMP))
		v->coredump_filter = strdup(x->coredump_filter);
	v->loginuid_seen = x->l.bytes[M_LOGINUID] && x->loginuid_told >= 0 && value(x, M_LOGINUID) == x->loginuid;
	v->loginuid = (uint32_t)x->loginuid_told;
	snprintf(text, sizeof(text), "%d", (int16_t)value(x, M_OOM_SCORE_ADJ));
	v->oom_score_adj = strdup(text);
}

static void take_process(const struct insights *x, struct task *t)
{
	struct task_answers *a = &t->answers;

	memcpy(a->action, kernel_window(x->k) + PLACE_ACTIONS, sizeof(a->action));
	for (size_t i = 0; i < ARRAY_SIZE(a->action); i++)
		a->action[i].flags &= ~ACTION_BITS_OF_KERNEL;
	a->subreaper = is_subreaper(x);
	a->brk = (int64_t)value(x, M_BRK);
	a->dumpable = x->dumpable;
	a->thp_disable = x->thp_disable;
	a->memory_merge = x->memory_merge;
	a->mdwe = x->mdwe;
}

static void take_objects(const struct insights *x, struct insight *i)
{
	i->mm = value(x, M_MM_STRUCT);
	i->files = value(x, M_FILES);
	i->fs = value(x, M_FS);
	i->sighand = value(x, M_SIGHAND);
	i->cred.address = value(x, M_CREDENTIALS);
	i->cred.session_keyring = value(x, M_SESSION_KEYRING);
	i->cred.process_keyring = value(x, M_PROCESS_KEYRING);
	i->cred.thread_keyring = value(x, M_THREAD_KEYRING);
	memcpy(i->paths, kernel_window(x->k) + PLACE_PATHS, sizeof(i->paths));
}

/* Which descriptors there are, whether each closes on exec, and the kernel's file behind it. */
static void take_descriptors(const struct insights *x, struct task *t)
{
	struct task_view *v = &t->view;
	struct insight *i = &t->insight;
	const size_t count = value(x, M_MAX_FDS);
	const uint64_t *file = (const uint64_t *)(kernel_window(x->k) + PLACE_FDS);

	if (!count || count > FDS_MAX)
		return;
	i->open = calloc(count, sizeof(*i->open));
	v->fd_flags = calloc(count, sizeof(*v->fd_flags));
	v->fds_seen = i->open && v->fd_flags;
	for (size_t fd = 0; v->fds_seen && fd < count; fd++) {
		if (!has_bit(x, PLACE_OPEN, fd) || !file[fd])
			continue;
		int *slot = VEC_PUSH(&v->fds);
		if (!slot) {
			v->fds_seen = false;
			break;
		}
		*slot = (int)fd;
		v->fd_flags[v->fds.count - 1] = has_bit(x, PLACE_CLOEXEC, fd) ? FD_CLOEXEC : 0;
		i->open[v->fds.count - 1] = file[fd];
	}
	if (v->fds_seen)
		return;
	v->fds.count = 0;
	free(TAKE_PTR(i->open));
	free(TAKE_PTR(v->fd_flags));
}

/* ---- its other threads ---- */

static struct thread *find_thread(struct task *t, const struct insights *x, uint64_t pid, size_t *hint)
{
	uint64_t namespace;
	const pid_t tid = (pid_t)id_of(x, pid, &namespace);

	for (size_t i = 0; i < t->threads.count; i++, ++*hint)
		if (t->threads.data[*hint % t->threads.count]->tid == tid)
			return t->threads.data[*hint % t->threads.count];
	return NULL;
}

/* Whether what it has is all that its leader has, or is seen. */
static bool is_like_leader(const struct insights *x, const struct task *t, uint64_t task, uint64_t atomic_flags)
{
	return is_plain(x, task) && number(x, task, M_CREDENTIALS) == t->insight.cred.address && number(x, task, M_ATOMIC_FLAGS) == atomic_flags &&
	       !number(x, task, M_SECCOMP_MODE);
}

/* Something is not what it should be. */
static bool forget_threads(struct task *t)
{
	for (size_t i = 1; i < t->threads.count; i++) {
		memset(&t->threads.data[i]->insight, 0, sizeof(t->threads.data[i]->insight));
		memset(&t->threads.data[i]->answers, 0, sizeof(t->threads.data[i]->answers));
	}
	return false;
}

/*
 * All threads of a process are in one list, in which those that the kernel has made for it (of io_uring) are too. As many are read in one run as
 * there is room for.
 */
static bool look_at_threads(const struct insights *x, struct task *t, uint64_t head, uint64_t node, uint32_t securebits, uint64_t atomic_flags,
			    const struct schedule *leaders)
{
	struct schedule its;
	const uint64_t first = PAGE_SIZE, stride = ALIGN_UP((uint64_t)x->l.size[TASK], 16) + ALIGN_UP((uint64_t)x->l.size[PID], 16);
	const size_t most = MIN((KERNEL_WINDOW - first) / stride, KERNEL_PIECES / 2UL);
	const size_t all = t->stat.num_threads;
	size_t found = 1, hint = 1;
	bool alike = true;

	for (size_t done = 1, count; done < all; done += count) {
		struct pieces p = {};
		count = MIN(all - done, most);
		memcpy(kernel_window(x->k) + SLOT(SLOT_NODE), &node, sizeof(node));
		for (size_t i = 0; i < count; i++) {
			const uint64_t task = first + i * stride, pid = task + ALIGN_UP((uint64_t)x->l.size[TASK], 16);
			add_part(&p, x, TASK, i ? at(x, task - stride, M_THREAD_NODE) : SLOT(SLOT_NODE), -x->l.at[M_THREAD_NODE], task);
			add_part(&p, x, PID, at(x, task, M_THREAD_PID), 0, pid);
		}
		if (kernel_read_pieces(x->k, p.piece, p.count))
			return forget_threads(t);
		for (size_t i = 0; i < count; i++) {
			const uint64_t task = first + i * stride, pid = task + ALIGN_UP((uint64_t)x->l.size[TASK], 16);
			struct thread *th = find_thread(t, x, pid, &hint);
			const uint64_t address = node - (uint64_t)x->l.at[M_THREAD_NODE];
			get(x, task, M_THREAD_NODE, &node, sizeof(node));
			if (!th)
				continue;
			if (!is_this(x, th, task, pid) || th->insight.task)
				return forget_threads(t);
			th->insight.task = address;
			take_thread(x, th, task);
			th->answers.securebits = (int32_t)securebits;
			take_schedule(x, task, &its);
			th->insight.scheduled_alike = its.size == leaders->size && !memcmp(its.bytes, leaders->bytes, its.size);
			alike &= is_like_leader(x, t, task, atomic_flags);
			found++;
		}
	}
	return node == head && found == t->threads.count && alike;
}

/* After read_process and read_tables, which the threads' take the place of. Gives how many areas it has. */
static size_t take_all(const struct insights *x, struct task *t, uint64_t address)
{
	const uint64_t task = PLACE_OF(TASK), signal = value(x, M_SIGNAL_STRUCT), atomic_flags = value(x, M_ATOMIC_FLAGS);
	const uint32_t securebits = (uint32_t)value(x, M_SECUREBITS);
	const bool under_seccomp = value(x, M_SECCOMP_MODE) != 0;
	const size_t areas = value(x, M_MAP_COUNT);
	struct thread *leader = t->threads.data[0];
	struct insight *i = &t->insight;
	struct schedule leaders;
	uint64_t node;

	take_schedule(x, task, &leaders);
	get(x, task, M_THREAD_NODE, &node, sizeof(node));
	leader->insight.task = address;
	take_thread(x, leader, task);
	leader->answers.securebits = (int32_t)securebits;
	take_objects(x, i);
	if (value(x, M_SECURITY))
		memcpy(i->cred.blob, kernel_window(x->k) + PLACE_BLOB, sizeof(i->cred.blob));
	take_view(x, t);
	take_descriptors(x, t);
	take_process(x, t);
	i->leader_told = is_plain(x, task) && !value(x, M_DEF_FLAGS) && !value(x, M_MEMBARRIER) && (!x->l.bytes[M_SEGMENTS] || !value(x, M_SEGMENTS)) && !((value(x, M_MM_FLAGS) ^ x->mm_flags) & ~(MM_BITS_OF_NO_MATTER | x->pinned_bit)) &&
			 !has_interval_timers(x) && t->view.timers_seen;
	i->threads_told = look_at_threads(x, t, signal + (uint64_t)x->l.at[M_THREAD_HEAD], node, securebits, atomic_flags, &leaders) &&
			  !under_seccomp;
	i->seen = true;
	return areas;
}

/* Where there are many it is worth finding out how they are kept. */
static void look_at_areas(struct insights *x, const struct dump *d, struct task *t, size_t count)
{
	if (count < AREAS_MANY && d->tasks.count < TASKS_MANY)
		return;
	if (!x->areas_tried)
		x->areas = areas_find_checked(x->k);
	x->areas_tried = true;
	if (x->areas)
		areas_read(x->k, x->areas, t->insight.mm, &t->insight.areas);
}

/* NULL where there is nothing to be seen. */
static struct insights *open_process(struct dump *d, struct task *t)
{
	struct insights *x = insight_prepare(d) ? NULL : d->insights;
	struct statfs fs;

	if (!x || !x->usable || t->leader_gone)
		return NULL;
	if (t->pidfd < 0)
		t->pidfd = (int)syscall(__NR_pidfd_open, t->pid, 0);
	if (t->pidfd < 0)
		return NULL;
	if (!x->pidfs_known) {
		x->pidfs = fstatfs(t->pidfd, &fs) == 0 && fs.f_type == PIDFS_MAGIC;
		x->pidfs_known = true;
	}
	return x;
}

uint64_t insight_group(struct dump *d, struct task *t)
{
	const struct insights *x = open_process(d, t);
	struct pieces p = {};
	uint64_t group;

	if (!x || !x->l.bytes[M_CGROUPS])
		return 0;
	add_way(&p, x, t->pidfd);
	add(&p, SLOT(SLOT_FIRST), x->l.at[M_CGROUPS] - x->l.pid_links, 8, SLOT(SLOT_A));
	if (kernel_read_pieces(x->k, p.piece, p.count))
		return 0;
	memcpy(&group, kernel_window(x->k) + SLOT(SLOT_A), sizeof(group));
	return group;
}

/* The first thread, which is found anew: another takes its place when it calls exec. An empty list leads to itself. */
static bool is_childless(struct dump *d, struct task *t)
{
	const struct insights *x = open_process(d, t);
	struct pieces p = {};
	uint64_t link, first;

	if (!x)
		return false;
	const int64_t offset = x->l.at[M_CHILDREN] - x->l.pid_links;
	add_way(&p, x, t->pidfd);
	add(&p, SLOT(SLOT_FIRST), offset, 8, SLOT(SLOT_A));
	if (kernel_read_pieces(x->k, p.piece, p.count))
		return false;
	memcpy(&link, kernel_window(x->k) + SLOT(SLOT_FIRST), sizeof(link));
	memcpy(&first, kernel_window(x->k) + SLOT(SLOT_A), sizeof(first));
	return first == link + (uint64_t)offset;
}

void insight_look_for_children(struct dump *d, struct task *t)
{
	const struct insights *x = d->insights;

	if (t->threads.count)
		t->threads.data[0]->insight.childless = !t->leader_gone && is_childless(d, t);
	for (size_t done = 1, n; done < t->threads.count; done += n) {
		struct pieces p = {};
		uint64_t head[KERNEL_PIECES], first;
		n = MIN(t->threads.count - done, (size_t)KERNEL_PIECES);
		for (size_t i = 0; i < n; i++) {
			const struct thread *th = t->threads.data[done + i];
			head[i] = th->insight.task ? th->insight.task + (uint64_t)x->l.at[M_CHILDREN] : 0;
			if (!head[i])
				continue;
			memcpy(kernel_window(x->k) + SLOT(SLOT_NODE + i), &head[i], sizeof(head[i]));
			add(&p, SLOT(SLOT_NODE + i), 0, 8, PAGE_SIZE + 8 * i);
		}
		const bool seen = p.count && !kernel_read_pieces(x->k, p.piece, p.count);
		for (size_t i = 0; i < n; i++) {
			if (seen)
				memcpy(&first, kernel_window(x->k) + PAGE_SIZE + 8 * i, sizeof(first));
			t->threads.data[done + i]->insight.childless = seen && head[i] && first == head[i];
		}
	}
}

bool insight_same_link(const struct task *a, const struct task *b, size_t which)
{
	return a->insight.seen && b->insight.seen && a->insight.paths[which][1] &&
	       !memcmp(a->insight.paths[which], b->insight.paths[which], sizeof(a->insight.paths[which]));
}

void insight_look(struct dump *d, struct task *t)
{
	struct insights *x = t->insight.tried || t->state == TASK_DEAD || t->refused || !t->threads.count ? NULL : open_process(d, t);

	if (!x)
		return;
	t->insight.tried = true;
	if (read_process(x, t->pidfd) || !is_this(x, t->threads.data[0], PLACE_OF(TASK), PLACE_OF(PID)) || read_tables(x))
		return;
	uint64_t link;
	memcpy(&link, kernel_window(x->k) + SLOT(SLOT_FIRST), sizeof(link));
	const size_t areas = take_all(x, t, link - (uint64_t)x->l.pid_links);
	look_at_areas(x, d, t, areas);
}

int insight_read_maps(struct task *t)
{
	if (t->insight.areas.count && !areas_read_maps(t->proc, &t->insight.areas, &t->maps))
		return 0;
	return proc_read_smaps(t->proc, &t->maps);
}

/* ---- what follows ---- */

uint64_t insight_object(const struct task *t, int what)
{
	const struct insight *i = &t->insight;

	if (!i->seen)
		return 0;
	switch (what) {
	case KCMP_VM:
		return i->mm;
	case KCMP_FILES:
		return i->files;
	case KCMP_FS:
		return i->fs;
	case KCMP_SIGHAND:
		return i->sighand;
	default:
		return 0;
	}
}

int insight_same(const struct task *a, const struct task *b, int what)
{
	const uint64_t x = insight_object(a, what), y = insight_object(b, what);

	return x && y ? x == y : -1;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

int insight_inherited(const struct task *t, size_t index)
{
	const struct task *p = t->parent;
	const int *fds = p ? p->view.fds.data : NULL;

	if (!p || !p->insight.open || !t->insight.open)
		return -1;
	const int *found = bsearch(&t->view.fds.data[index], fds, p->view.fds.count, sizeof(*fds), by_number);
	return found && p->insight.open[found - fds] == t->insight.open[index];
}

int insight_prepare(struct dump *d)
{
	struct kernel *k = dump_kernel(d);

	if (d->insights)
		return 0;
	d->insights = calloc(1, sizeof(*d->insights));
	if (!d->insights)
		return error_set(d->e, -ENOMEM, "out of memory");
	d->insights->k = k;
	if (k)
		look_at_ourselves(d->insights);
	return 0;
}

void insight_release(struct dump *d)
{
	if (d->insights) {
		free(d->insights->coredump_filter);
		free(d->insights->areas);
	}
	free(d->insights);
	d->insights = NULL;
}
