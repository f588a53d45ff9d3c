/*
 * Dump side: the processes and threads that are being saved, from the moment they were stopped.
 */
#pragma once

#include "engine/dump.h"
#include "engine/memory/vma.h"
#include "engine/tracee.h"
#include "proc/proc.h"

#include <sys/ptrace.h>
#include <signal.h>
#include <sys/time.h>

enum task_state { TASK_ALIVE = 1, TASK_DEAD = 2, TASK_STOPPED = 3 }; /* as the images number them */

#define THREAD_SWITCHES 4
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
};

struct thread {
	struct task *task;
	pid_t tid;
	struct tracee tracee;
	struct proc_status status;
	struct thread_answers answers;
	struct __ptrace_rseq_configuration rseq; /* pointer 0: none */
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
	struct task *parent; /* NULL for the root */
	enum task_state state;
	int stop_signal, exit_code; /* exit_code: of a zombie, or of a leader that has gone */
	VEC(struct thread *) threads; /* those that live, the leader first if it does; empty for a zombie */
	struct proc_stat stat;
	struct proc_maps maps;
	int mem_fd, pagemap_fd, pidfd; /* -1 when not open */
	bool refused; /* by a check: it is not held, or not as a whole */
	bool may_share; /* it will be born by its parent, so pages may come from there */
	bool may_share_tables; /* by its parent itself */
	uint32_t id, files_id, fs_id; /* the latter its own id, or the parent's that it shares with */
	/* What only the process itself can tell. */
	struct task_answers {
		struct {
			uint64_t handler, flags, restorer, mask;
		} action[64];
		struct itimerval itimer[3];
		uint32_t subreaper;
		int64_t dumpable, thp_disable, brk, memory_merge, mdwe;
		uint32_t mlockall; /* MCL_* for what is mapped later */
	} answers;
	VEC(struct posix_timer) timers;
	VEC(struct aio_ring) rings; /* memory/aio.c */
};

/* A POSIX timer: from /proc/PID/timers, then from the process itself. */
struct posix_timer {
	int id, signal, notify, tid;
	uint64_t sigev_value;
	clockid_t clock;
	struct itimerspec value;
	int64_t overrun;
};

/* Stops the tree below d->request->pid, whatever it forks meanwhile, and fills d->tasks: parents before children. */
int tree_freeze(struct dump *d);
/* A thread that ran once more since the tree was stopped, and stands again: what tree_freeze does with its registers. */
int thread_stopped_again(struct task *t, struct thread *thread);
/* Lets go of every task as it was found. Takes a tree that was only half frozen. */
void tree_thaw(struct dump *d);
/* For after a finished dump. */
void tree_kill(struct dump *d);

/* Asks the process and its threads what only they can tell. */
int task_ask(struct dump *d, struct task *t);

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
