/*
 * What /proc/PID says. Pure parsers (text in, struct out; -EBADMSG for what is not of the form) and thin readers.
 */
#pragma once

#include "base/base.h"

struct proc_stat {
	pid_t pid, ppid, pgrp, session;
	char state;
	uint64_t flags, num_threads, start_time;
	uint64_t mm_start_code, end_code, start_stack, start_data, end_data, start_brk, arg_start, arg_end, env_start, env_end;
	char comm[64];
};

struct proc_status {
	uint32_t umask, uid[4], gid[4], groups[1024];
	size_t n_groups;
	pid_t tracer_pid;
	uint64_t sig_pnd, shd_pnd, cap_inh, cap_prm, cap_eff, cap_bnd, cap_amb;
	uint32_t no_new_privs, seccomp;
};

struct proc_vma {
	uint64_t start, end, pgoff, inode;
	int prot; /* PROT_* */
	bool shared, deleted;
	char *name; /* NULL when it has none */
};
struct proc_maps {
	struct proc_vma *data;
	size_t count, capacity;
};

struct proc_fds {
	int *data;
	size_t count, capacity;
};

struct proc_fdinfo {
	int64_t pos;
	uint32_t flags;
	bool locked; /* it holds a POSIX, OFD or flock lock, or a lease */
};

int proc_parse_stat(const char *text, struct proc_stat *ret);
int proc_parse_status(const char *text, struct proc_status *ret);
int proc_parse_maps(const char *text, struct proc_maps *ret);
void proc_maps_finish(struct proc_maps *maps);
int proc_parse_fdinfo(const char *text, struct proc_fdinfo *ret);
int proc_parse_limits(const char *text, uint64_t ret[16][2]);

int proc_read_stat(pid_t pid, struct proc_stat *ret);
int proc_read_status(pid_t pid, struct proc_status *ret);
int proc_read_maps(pid_t pid, struct proc_maps *ret);
int proc_read_fdinfo(pid_t pid, int fd, struct proc_fdinfo *ret);
int proc_read_limits(pid_t pid, uint64_t ret[16][2]);
/* In ascending order; the caller frees data. */
int proc_list_fds(pid_t pid, struct proc_fds *ret);
