/*
 * What /proc/PID says. Pure parsers (text in, struct out; -EBADMSG for what is not of the form) and thin readers.
 */
#pragma once

#include "base/base.h"

#include <time.h>

struct proc_stat {
	pid_t pid, ppid, pgrp, session;
	char state;
	uint64_t flags, num_threads, start_time;
	int exit_signal, exit_code; /* as wait(2) gives it */
	uint32_t tty; /* the controlling terminal's device, in the kernel's encoding; 0: none */
	pid_t tty_pgrp; /* its foreground group */
	uint64_t mm_start_code, end_code, start_stack, start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end;
	char comm[64];
};

struct proc_status {
	uint32_t umask, uid[4], gid[4];
	uint64_t tracer_pid;
	uint64_t sig_pnd, shd_pnd, sig_ign, sig_cgt, cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	uint64_t no_new_privs, seccomp;
	size_t n_groups;
	uint32_t groups[1024]; /* the last: only n_groups of them are set */
};

struct proc_vma {
	uint64_t start, end, pgoff, inode;
	int prot; /* PROT_* */
	bool shared, deleted;
	uint32_t dev_major, dev_minor;
	uint64_t vmflags; /* PROC_VMF_*; only from smaps */
	uint32_t pkey;	  /* of pkey_mprotect(2); the same */
	char *name; /* NULL when it has none */
};
struct proc_maps {
	struct proc_vma *data;
	size_t count, capacity;
};

/* The two letters of smaps' VmFlags; see proc(5). */
#define PROC_VMF_ROWS \
	X(RD, "rd") X(WR, "wr") X(EX, "ex") X(SH, "sh") X(MR, "mr") X(MW, "mw") X(ME, "me") X(MS, "ms") X(GD, "gd") X(PF, "pf") \
	X(LO, "lo") X(IO, "io") X(SR, "sr") X(RR, "rr") X(DC, "dc") X(DE, "de") X(AC, "ac") X(NR, "nr") X(HT, "ht") X(SF, "sf") \
	X(AR, "ar") X(WF, "wf") X(DD, "dd") X(SD, "sd") X(MM, "mm") X(HG, "hg") X(NH, "nh") X(MG, "mg") X(UM, "um") X(UW, "uw") \
	X(LF, "lf") X(SS, "ss") X(SL, "sl") X(DP, "dp") X(UI, "ui")
enum {
#define X(name, letters) PROC_VMF_BIT_##name,
	PROC_VMF_ROWS
#undef X
};
#define X(name, letters) PROC_VMF_##name = 1ULL << PROC_VMF_BIT_##name,
enum proc_vmflag { PROC_VMF_ROWS };
#undef X
/* Beside them, from smaps as well: not all of its pages are there ("Rss:" is less than "Size:"). */
#define PROC_VMF_PARTLY (1ULL << 63)

struct proc_fds {
	int *data;
	size_t count, capacity;
};

struct proc_fdinfo {
	int64_t pos;
	uint32_t flags;
	bool locked; /* it holds a POSIX, OFD or flock lock, or a lease */
};

/* A line of /proc/locks, or what follows "lock:" in fdinfo. */
struct proc_lock {
	enum { PROC_LOCK_POSIX, PROC_LOCK_FLOCK, PROC_LOCK_OFD, PROC_LOCK_LEASE } kind;
	int type;      /* F_RDLCK, F_WRLCK, F_UNLCK; of a lease that is being broken, what it is to become */
	bool breaking; /* a lease */
	bool waiting;  /* who waits for it, not who holds it */
	pid_t pid;     /* who took it; -1 for OFD, 0 unknown */
	uint32_t dev_major, dev_minor;
	uint64_t inode;
	int64_t start, len; /* len 0: to the end, wherever that comes to be */
};
/* -ENOTSUP for a kind that is none of these. */
int proc_parse_lock(const char *line, struct proc_lock *ret);

/* What users read for a state of proc_stat that is alive. */
const char *proc_state_word(char state);
int proc_parse_stat(const char *text, struct proc_stat *ret);
int proc_parse_status(const char *text, struct proc_status *ret);
int proc_parse_maps(const char *text, struct proc_maps *ret);
int proc_parse_smaps(const char *text, struct proc_maps *ret);
void proc_maps_finish(struct proc_maps *maps);
int proc_parse_fdinfo(const char *text, struct proc_fdinfo *ret);
int proc_parse_limits(const char *text, uint64_t ret[16][2]);

int proc_read_stat(pid_t pid, struct proc_stat *ret);
int proc_read_status(pid_t pid, struct proc_status *ret);
int proc_read_maps(pid_t pid, struct proc_maps *ret);
int proc_read_smaps(pid_t pid, struct proc_maps *ret);
int proc_read_fdinfo(pid_t pid, int fd, struct proc_fdinfo *ret);
int proc_read_limits(pid_t pid, uint64_t ret[16][2]);
/* In ascending order; the caller frees data. */
int proc_list_fds(pid_t pid, struct proc_fds *ret);

struct proc_pids {
	pid_t *data;
	size_t count, capacity;
};
/* In ascending order; the caller frees data. */
int proc_list_threads(pid_t pid, struct proc_pids *ret);
/* The children that thread `tid` made (CONFIG_PROC_CHILDREN); the caller frees data. */
int proc_list_children(pid_t pid, pid_t tid, struct proc_pids *ret);
int proc_read_thread_stat(pid_t pid, pid_t tid, struct proc_stat *ret);
int proc_read_thread_status(pid_t pid, pid_t tid, struct proc_status *ret);

/* A POSIX timer of /proc/PID/timers; `notify` is one of SIGEV_*, `tid` is set with SIGEV_THREAD_ID. */
struct proc_timer {
	int id, signal, notify, tid;
	uint64_t sigev_value;
	clockid_t clock;
};
struct proc_timers {
	struct proc_timer *data;
	size_t count, capacity;
};
int proc_parse_timers(const char *text, struct proc_timers *ret);
int proc_read_timers(pid_t pid, struct proc_timers *ret);

/* Memory of a process that may be traced (process_vm_readv(2)): all of it, or an error. Pages that a lazy restore still has to bring are waited for. */
int proc_peek(pid_t tid, uint64_t address, void *to, size_t size);
int proc_poke(pid_t tid, uint64_t address, const void *from, size_t size);
