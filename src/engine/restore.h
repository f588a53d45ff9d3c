/*
 * What a restore knows, passed first to everything that takes part in it.
 */
#pragma once

#include "base/error.h"
#include "core.pb-c.h"
#include "engine/ns/count.h"
#include "engine/plan/plan.h"
#include "engine/request.h"
#include "engine/tracee.h"
#include "fdinfo.pb-c.h"
#include "file_lock.pb-c.h"
#include "fs.pb-c.h"
#include "image/image.h"
#include "inventory.pb-c.h"
#include "mm.pb-c.h"
#include "pagemap.pb-c.h"
#include "proc/proc.h"
#include "pstree.pb-c.h"
#include "remap_file_path.pb-c.h"
#include "seccomp.pb-c.h"
#include "tty.pb-c.h"

#include <time.h>

struct kind;
struct watch;
struct cuda_restore;

/* In place of a descriptor: it is made in the task that holds it. No errno is so large. */
#define FILE_IN_TASK (-100000)

/* An open file description of the images. */
struct file {
	uint32_t id;
	FileEntry *entry;
	const struct kind *kind;
	int fd;	       /* where the coordinator holds it; -1: not made yet, or FILE_IN_TASK */
	int writable;  /* the same file opened for writing, for mappings; or 0 */
	struct rtask *owner; /* the first task that holds it */
	struct rtask *planned; /* the last task whose late operations were planned */
	bool temporary; /* a name that was made for the checkpoint: removed at the end */
	void *own; /* the kind's */
};

#define FD_MAX (1U << 20) /* descriptors are below it */

struct rthread {
	pid_t tid;
	CoreEntry *core;
	struct batch batch;
	uint64_t stack; /* its end, in the arena */
	FsEntry *fs;	/* directories of its own (unshare); or NULL */
	bool fpu_left; /* its FPU state is set by ptrace; otherwise it loads that itself */
	struct rtask *table; /* of a descriptor table of its own (unshare): as a task that has it, and this thread alone; or NULL */
	struct tracee tracee;
};

#define CLOCKS 2 /* CLOCK_MONOTONIC, CLOCK_BOOTTIME */

/* Something that was made and is held in the coordinator, under a number of the images. */
struct held {
	uint64_t id;
	int fd;
	uint64_t value; /* the kind's */
};

struct held_queue {
	uint32_t id;
	int fd;
	pid_t notify_pid; /* whom it is to tell of a message; or 0 */
	uint32_t notify, notify_signal;
	uint64_t notify_value;
	char *made; /* its name, where the restore made it; or NULL */
};

struct page_source;
struct parent;
struct page_sources {
	struct page_source *data; /* memory/parents.h */
	size_t count, capacity;
};

/* A process to be. */
struct rtask {
	PstreeEntry *tree;
	pid_t pid;
	pid_t table_of; /* the thread whose table it stands for; 0: it is a process */
	struct rtask *parent; /* NULL: the root */
	uint32_t depth;
	CoreEntry *core;      /* of the leader */
	MmEntry *mm;
	FsEntry *fs;
	VEC(FdinfoEntry *) fds;
	VEC(PagemapEntry *) pages;
	VEC(struct rthread) threads; /* the leader first */
	uint32_t *threads_done;	     /* in the arena: threads that have finished with their credentials */
	uint32_t *owners_done, owners; /* in the arena: threads that have a table or directories of their own by now, of so many */
	struct birth *birth;
	bool dead, stopped, seen;
	bool must_have_ended; /* or pstree.img is damaged */
	bool leader_gone; /* the leader builds the process and ends */
	bool rests; /* waits for its registers without the arena (plan/rest.c) */
	bool lazy;   /* memory/lazy.c */
	size_t uffd_op;
	char *pages_name; /* of its pages in the images, or NULL */
	bool shares; /* memory with its parent, which it is born from */
	bool vdso_stays; /* where it has it from its parent */
	/* Further up in the tree: who builds the descriptor table, or sets the directories, that it shares; or NULL. */
	struct rtask *files_owner, *fs_owner;
	struct rtask *vm_owner; /* whose memory it has (CLONE_VM): it is born when that is complete; or NULL */
	bool vm_shared;		/* others have its memory */
	bool shares_actions;	/* and its parent's signal actions (CLONE_SIGHAND) */
	/* An owner's, in the arena: its table is there; how many have what they need, of so many that share with it. */
	uint32_t *table_ready, *sharers_done, sharers;
	uint32_t *threads_made; /* in the arena: kinds/procfile.c; or NULL */
	struct image_raw *stored; /* its pages */
	bool digests; /* who reads its pages says what their checksums are; memory/fill.c */
	struct page_sources sources; /* those of its pages that parent checkpoints have */
	int pages_fd, mem_fd;
	uint64_t pages_offset; /* where they begin in pages_fd */
};

/* What the coordinator has of the state that processes are born with. */
struct own {
	struct proc_status status;
	uint32_t securebits;
	bool has_oom_score_adj, has_coredump_filter, has_loginuid;
	long oom_score_adj, coredump_filter, loginuid;
	uint64_t limits[16][2];
	uint32_t personality;
	uint64_t timer_slack; /* ns */
	bool has_nice;	      /* and it is handed on as it is */
	int nice;
	/* What children are born with and a thread that has nothing of the kind must be rid of. */
	bool bound, has_io_priority, has_mempolicy, thp_disabled;
	char *label; /* AppArmor's; NULL: there is none. Freed by restore_finish */
};

/* plan/rest.c: the code in which tasks wait for their registers. */
struct rest {
	uint64_t own, offset; /* its address here while it is there; from the start of vvar and vdso, 0: there is none */
	long saved[2];	      /* what was there */
};

/* Pages that a task reads itself. */
struct filling {
	const struct agent_fill *fill; /* in the arena */
	uint64_t size, offset;	       /* offset: where the image begins in its file */
	const char *name;	       /* of the image; the task's */
};

/* In the arena: when the pages of a task began to come, and when all were there. CLOCK_MONOTONIC. */
struct memory_times {
	struct timespec *from, *to;
};

struct restore {
	const struct request *request;
	struct error *e;
	struct image_dir *dir;
	struct image_verification *verification; /* of large images, under way until restore_build ends */
	VEC(struct parent *) parents; /* checkpoints that this one has pages from, the nearest first; memory/parents.c */
	InventoryEntry *inventory;
	struct cuda_restore *cuda; /* cuda/restore.c; NULL: no CUDA process */
	VEC(struct rtask *) tasks; /* parents before children */
	VEC(struct file) files;	   /* by id */
	VEC(RemapFilePathEntry *) remaps;
	VEC(FileLockEntry *) locks;
	VEC(struct held) ghosts, memfds;
	struct {
		bool prepared;
		VEC(struct shmfile_made {
			const char *name; /* the image's */
		}) made;
		VEC(uint32_t) done;
	} shmfiles; /* kinds/shmfile.c */
	VEC(struct held_queue) mqueues; /* kinds/mqueue.c */
	struct pipes *pipes; /* kinds/pipe.c */
	struct unix_table *unix_sockets; /* kinds/unix_restore.c */
	struct udp_table *udp; /* kinds/udp.c */
	struct tcp_restore *tcp; /* kinds/tcp_restore.c */
	uint64_t network_lock_id; /* of the lock that the dump left; 0: none */
	VEC(TtyInfoEntry *) ttys;
	struct tty_table *terminals; /* kinds/tty_restore.c */
	struct {
		bool moved; /* the tree has a time namespace of its own */
		int64_t offset[CLOCKS], behind[CLOCKS]; /* of that one; what ours are behind those at the dump, ns */
		struct clocks_parent *parent;
	} clocks; /* task/clocks.h */
	struct {
		bool any;
		struct seed *seed; /* the root, where it was there before the plan (engine/ns/seed.h); or NULL */
		uint32_t id[NS_KINDS_MAX]; /* of those that are the tree's own, by their places in the table; 0: it is the coordinator's */
		void *state[NS_KINDS_MAX];
		int given[NS_KINDS_MAX], outside[NS_KINDS_MAX]; /* descriptors, or 0: of one that takes the place of a new one; of that which we were of */
	} ns; /* engine/ns/ns.h */
	struct cgroups_state *cgroups; /* engine/cgroups.h; NULL: they are left alone */
	struct mounts *mounts; /* of the tree's mount namespace, or NULL; engine/ns/mnt.h */
	int root_fd, mnt_ns, proc_fd; /* its root, itself, and our own /proc, held for the tasks; 0: ours are theirs */
	int outside_fd; /* the root that names outside of it begin at; 0: ours */
	bool succeeded;
	int fd_base, fd_top; /* from where, and below what, numbers are ours while there are tasks: above theirs, or in a gap between them */
	int tty;
	int aio_fd; /* memory/aio.c; 0: not open */
	struct proc_maps self;
	struct own own;
	struct rest rest;
	struct arena arena;
	struct agent_status *status;
	struct restore_words *words;
	pthread_mutex_t *owner; /* in the arena; held by us from before there is a process */
	size_t threads;	  /* that will park */
	size_t processes; /* that live */
	pid_t next_helper; /* memory/fill.c: the id that was given out last; 0: none yet */
	uint64_t digest;   /* memory/fill.c: in the arena, the code that computes checksums; 0: not there yet */
	bool seccomp;	/* some thread has filters */
	SeccompEntry *seccomp_image;
	pid_t pid;	/* the root, once it was born */
	struct shmem_table *shmem;
	struct sysv_table *sysv;
	struct sysv_ipc_table *sysv_ipc;
	int vdso_fd; /* memory/vdso.c; 0: not made */
	struct births_plan *births;
	struct feeder *feeder; /* memory/feed.c; NULL: no pages are packed */
	struct watch *watch; /* NULL: an inspection */
	struct relay *relay; /* we are the process apart that makes the tree in namespaces of its own (engine/ns/relay.h); or NULL */
	uint64_t pages_done, pages_total; /* bytes: that the feeder brought, and of all */
	bool building; /* `fillings` does not change any more */
	VEC(struct filling) fillings; /* what tasks read themselves; memory/fill.c */
	VEC(struct memory_times) memory_times; /* of each task, where a profile is asked for */
};

/* Futex words in the arena that tasks wait for each other with. */
struct restore_words {
	uint32_t born, joined, seizable, seized;
	uint32_t held; /* the root ends with us */
	uint32_t feed;	/* counts tasks that wait for pages; memory/feed.c */
	uint32_t watched, taken; /* tasks whose lazy memory is watched; the coordinator has what it needs for that */
	uint32_t leave; /* leaders that are to have ended may do so */
};

/* Reads an image of one message; *ret is the caller's. */
int restore_read_one(struct restore *s, const char *name, uint32_t magic, const ProtobufCMessageDescriptor *type, void *ret);

/* Everything before the first process is made: reads the images, makes the descriptions, plans. `s` has request, e, and tty. What it
 * leaves, also after a failure, restore_finish releases. */
int restore_prepare(struct restore *s);
void restore_finish(struct restore *s);

/* In the root, as it was born: begins with its batch. `entry`: the agent's, where the arena begins. */
_Noreturn void restore_become(const struct agent_batch *batch, char *stack, const char *entry);
/* While the tree is built: until *word reaches `count`, or something fails, which is the result. */
int restore_wait(struct restore *s, uint32_t *word, uint32_t count);

/* The descriptor for a file of the images, in the coordinator; made when it is first asked for. FILE_IN_TASK, or a negative errno with
 * the text set. */
int file_fd(struct restore *s, uint32_t id);
/* The same for what must be there before tasks are: FILE_IN_TASK is an error. */
int file_fd_early(struct restore *s, uint32_t id);
struct file *file_find(struct restore *s, uint32_t id);
/* Moves a descriptor above the numbers that tasks use. Consumes it; gives the new one. */
int restore_hold(struct restore *s, int fd);
/* Whether a thread, process, group or session of the tree has it. */
bool restore_has_id(const struct restore *s, pid_t id);

/* kinds/install.c */
int files_make(struct restore *s);
int files_plan(struct restore *s, struct rtask *t);
int files_plan_thread(struct restore *s, struct rtask *t, struct rthread *th);
/* The descriptor tables of a process: its own first, which is the process; NULL behind the last. */
struct rtask *rtask_table(struct rtask *t, size_t index);
/* Whether one of them has a file of which `is` says so. */
bool rtask_holds(struct restore *s, struct rtask *t, bool (*is)(const struct rtask *t, const struct file *f));
/* What stands above the numbers that tasks use; with `keep`, but for what threads still need. */
void files_plan_close(struct restore *s, struct rtask *t, bool keep);
int files_settle(struct restore *s); /* once all tasks are parked */
void files_release(struct restore *s);
/* kinds/mqueue.c: those of an IPC namespace of the tree's own, also where no task has them open. */
int mqueues_make(struct restore *s);
/* What queues are to tell a task; it forgets that when it closes any descriptor of them. */
int mqueues_plan(struct restore *s, struct rtask *t);
