/*
 * Dump side: the processes and threads that are being saved, from the moment they were stopped.
 */
#pragma once

#include "engine/dump.h"
#include "engine/memory/vma.h"
#include "engine/task/areas.h"
#include "engine/tracee.h"
#include "proc/proc.h"

#include <sys/ptrace.h>
#include <signal.h>
#include <sys/time.h>

enum task_state { TASK_ALIVE = 1, TASK_DEAD = 2, TASK_STOPPED = 3 }; /* as the images number them */

#define URINGS_MAX 12 /* rings of io_uring that a thread is asked about */
#define URING_SLOTS_MAX 16 /* the kernel's IO_RINGFD_REG_MAX */
#define THREAD_SWITCHES 4
#define INSIGHT_BLOB 8 /* words of security modules that are looked at */
/* The arguments of prctl(2) that ask for a switch; task/threads.c has the table. */
void threads_switch(size_t i, uint64_t ret[2]);

/* What only a thread itself can tell, as the agent brought it back. */
struct thread_answers {
	uint64_t tid_address;
	stack_t altstack;
	uint32_t pdeath_sig;
	int32_t securebits;
	int32_t mempolicy;
	uint64_t mempolicy_nodes[16];
	int32_t switches[THREAD_SWITCHES];
	uint64_t timer_slack; /* ns */
	uint32_t personality;
	char comm[16];
	/* kinds/uring.c: what each ring said when it was asked to register an eventfd that there is not; slots that hold one, bit for bit. */
	int32_t uring[URINGS_MAX];
	uint32_t uring_slots;
	/* Only where the thread is asked for them. */
	struct agent_caps caps;
	uint32_t uid[3], gid[3], groups[32];
};

struct thread {
	struct task *task;
	pid_t tid;
	struct tracee tracee;
	struct thread_answers answers;
	bool own_fs; /* directories and umask that are not its leader's (unshare) */
	bool own_files; /* and its descriptor table */
	struct task *table; /* as a task that has this table; kinds/files.c; or NULL */
	struct __ptrace_rseq_configuration rseq; /* pointer 0: none */
	/* Where it is not read, another than the first has only credentials and seccomp there; or NULL: in these it is as the first is. */
	bool status_read;
	struct proc_status *status;
	/* What the kernel's memory shows of it, insight.h; task 0: nothing. */
	struct {
		uint64_t task, fs, files, cred; /* addresses */
		uint64_t robust_list;		/* the thread's address of it */
		bool childless, no_signals, no_dispatch, rseq_seen;
		bool scheduled_alike; /* as the first is */
	} insight;
};

/* A ring for asynchronous i/o, io_setup(2). */
struct aio_ring {
	uint64_t start, size;
	bool alive; /* it is the process's own */
	uint32_t tail;
};

struct task {
	pid_t pid, ppid, pgid, sid;
	pid_t proc; /* what /proc and kcmp(2) are asked for: the pid, or a thread where the leader has gone */
	bool leader_gone;
	uint32_t cg_set; /* its control groups in cgroup.img, or 0 (engine/cgroups.h) */
	bool was_frozen; /* by the cgroup freezer, proc/freezer.h, where it goes back to */
	struct task *parent; /* NULL for the root */
	enum task_state state;
	int stop_signal, exit_code; /* exit_code: of a zombie, or of a leader that has gone */
	VEC(struct thread *) threads; /* those that live, the leader first if it does; empty for a zombie */
	struct proc_stat stat;
	struct proc_maps maps;
	/* What any thread of ours could read; look.c. A result is 0 or why there is nothing. */
	struct task_view {
		struct {
			bool taken, done;
		} first, rest;
		const char *foreign_namespace; /* what it has another one of, or NULL */
		int open_result, status_result, maps_result, timers_result, limits_result, auxv_result;
		struct proc_timers timers;
		uint64_t limits[16][2];
		struct proc_fds fds;
		int fds_result;
		/* For as many as there are in fds; NULL where nothing was read ahead. */
		bool *inherited; /* it is the parent's of the same number, by kcmp(2) */
		char **fdinfos;	 /* of others; NULL: not read yet */
		int *fd_flags;	 /* F_GETFD; where the agent was asked, of those that are inherited */
		struct task_link {
			char *target;
			ino_t ino;
			bool is_parents; /* its parent has the very same */
		} links[3]; /* task_links; NULL: it can't be read */
		char *auxv, *coredump_filter, *oom_score_adj; /* texts; NULL where there is none */
		size_t auxv_size;
		uint32_t loginuid;
		bool limits_seen, timers_seen, namespaces_seen, fds_seen, loginuid_seen; /* in the kernel's memory: no need to read them */
	} view;
	/* What the kernel's memory shows beside that, insight.h. */
	struct insight {
		bool tried, seen;
		bool leader_told, threads_told; /* all that would be asked of the leader, and of all other threads, is there */
		uint64_t mm, files, fs, sighand; /* addresses */
		uint64_t paths[3][2];		 /* of task_links, as the kernel names them */
		struct {
			uint64_t address, session_keyring, process_keyring, thread_keyring, blob[INSIGHT_BLOB];
		} cred;
		uint64_t *open; /* the file of each of view.fds */
		struct areas areas; /* empty where they are not seen */
	} insight;
	int mem_fd, pagemap_fd, pidfd; /* -1 when not open */
	VEC(struct semaphore_undo {
		int set;
		uint32_t number;
		int value;
	}) undo; /* semaphores.c */
	uint64_t undo_list; /* where the kernel keeps them */
	pid_t table_of; /* the thread whose table it stands for; 0: it is a process */
	struct description **descriptions; /* of view.fds, as they were captured; kinds/files.c */
	bool refused; /* by a check: nothing more can be said of it; it may not be held, or not as a whole */
	bool shares_memory; /* with another task: only a check goes on with it */
	bool may_share; /* it will be born by its parent, so pages may come from there */
	bool may_share_tables; /* by its parent itself */
	struct task *vm_owner; /* further up in the tree: whose memory it shares (CLONE_VM), or NULL */
	uint32_t id, files_id, fs_id, sighand_id; /* the latter its own id, or the parent's that it shares with */
	/* What only the process itself can tell. */
	struct task_answers {
		struct {
			uint64_t handler, flags, restorer, mask;
		} action[64];
		struct itimerval itimer[3];
		uint32_t subreaper;
		int64_t dumpable, thp_disable, brk, memory_merge, mdwe, membarrier;
		uint64_t xcomp; /* ARCH_GET_XCOMP_PERM; 0: not told */
		uint32_t mlockall; /* MCL_* for what is mapped later */
	} answers;
	struct asking *asking; /* ask.c */
	struct schedule_seen *schedule; /* sched.c: the first thread's */
	VEC(struct posix_timer) timers;
	VEC(struct aio_ring) rings; /* memory/aio.c */
	VEC(int) urings; /* descriptors of rings of io_uring; kinds/uring.c */
	uint32_t uring_groups; /* bit n: that ring has groups of buffers, as its only user says */
};

/* A POSIX timer: from /proc/PID/timers, then from the process itself. */
struct posix_timer {
	int id, signal, notify, tid;
	uint64_t sigev_value;
	clockid_t clock;
	struct itimerspec value;
	int64_t overrun;
};

/* Credentials and seccomp of a thread; of the first all. */
static inline struct proc_status *thread_status(const struct thread *th)
{
	return th->status ? th->status : th->task->threads.data[0]->status;
}

/* Room for its own, zeroed; NULL. */
static inline struct proc_status *thread_make_status(struct thread *th)
{
	if (!th->status)
		th->status = calloc(1, sizeof(*th->status));
	return th->status;
}

/* Reads all of it. */
int thread_read_status(struct thread *th);
void thread_free(struct thread *th);

/* Stops the tree below d->request->pid, whatever it forks meanwhile, and fills d->tasks: parents before children. */
int tree_freeze(struct dump *d);
/* Whether all of them still stand still: one that was killed has had no memory since then, which is no error for who looked for its pages. */
int tree_check_whole(struct dump *d);
/* Lets go of every task as it was found; what is known of them stays until tree_thaw. */
void tree_let_go(struct dump *d);
/* The same, and forgets them. Takes a tree that was only half frozen. */
void tree_thaw(struct dump *d);
/* For after a finished dump. */
void tree_kill(struct dump *d);

/* Lets the workers look at what /proc tells of the tasks. */
void tree_look(struct dump *d);
/* The same for one task that has many threads, as soon as it stands still. */
void task_look_early(struct dump *d, struct task *t);
/* Refuses one whose system calls are dispatched to it, where only the kernel's structs tell (before Linux 6.4); task/dispatch.c. */
int dispatch_refuse_untold(struct dump *d, struct task *t);
/* After it t->maps and t->view are there, and its threads can be asked. */
int task_look(struct dump *d, struct task *t);
void task_view_free(struct task *t);

extern const char *const task_links[3];

/* Its other threads are going to be asked, too. */
int task_prepare_threads(struct dump *d, struct task *t);

/* Begins to ask the process and its threads what only they can tell. */
int task_ask(struct dump *d, struct task *t);
/* Goes on with that until all who are being asked have answered and are as they were before. */
void tree_ask(struct dump *d);
/* After tree_ask: the task's answers are there, or why they are not. */
int task_answered(struct dump *d, struct task *t);
void task_ask_free(struct task *t);

/* The parts of the images, one file each. The entries' pointers live until capture_free. */
int core_capture(struct dump *d, struct task *t);
int mm_capture(struct dump *d, struct task *t);
/* Begins to copy the pages; pages_finish waits for those of all tasks and gives what failed first. */
int pages_capture(struct dump *d, struct task *t);
int pages_finish(struct dump *d);

/* error_set with the task's name in front. */
#define task_error(d, t, code, format, ...) \
	error_set((d)->e, code, "process %d (%s): " format, (t)->pid, (t)->stat.comm, ##__VA_ARGS__)
#define task_errno(d, t, code, format, ...) \
	error_errno((d)->e, code, "process %d (%s): " format, (t)->pid, (t)->stat.comm, ##__VA_ARGS__)
