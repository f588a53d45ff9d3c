/*
 * Probes: does this kernel, under these privileges, do what dump and restore rest on? Each one does the thing itself, on a
 * process or file of its own, and cleans up; none asks for a version number. The table is in table.c.
 */
#pragma once

#include "base/error.h"

struct probe_ground {
	const char *dir; /* where checkpoints go; NULL: the current directory */
	struct error *e; /* a probe may say more than its negative errno does */
};

enum probe_area { PROBE_KERNEL, PROBE_PRIVILEGES, PROBE_MEMORY, PROBE_NETWORK, PROBE_STORAGE, PROBE_GPU, PROBE_AREAS };
extern const char *const probe_areas[PROBE_AREAS];

struct probe {
	enum probe_area area;
	const char *name; /* criu's name for the feature where it has one */
	const char *purpose;
	bool required;
	const char *remedy;
	int (*run)(struct probe_ground *g); /* 0, or a negative errno */
};

extern const struct probe probes[];
extern const size_t probes_count;

const struct probe *probe_find(const char *name);
/* 0, or a negative errno with what is missing and what would help in `e`. */
int probe_run(const struct probe *p, const char *dir, struct error *e);

/* ptrace.c: calls `fn` on a child that is stopped under ptrace(2), and ends it. */
int probe_on_tracee(int (*fn)(pid_t pid));

/* One function each, in the file of its subject. */
int probe_capabilities(struct probe_ground *g);
int probe_further_capabilities(struct probe_ground *g);
int probe_ptrace(struct probe_ground *g);
int probe_xstate(struct probe_ground *g);
int probe_siginfo(struct probe_ground *g);
int probe_force_write(struct probe_ground *g);
int probe_rseq(struct probe_ground *g);
int probe_kernel_memory(struct probe_ground *g);
int probe_seccomp_filters(struct probe_ground *g);
int probe_seccomp_suspend(struct probe_ground *g);

int probe_clone3(struct probe_ground *g);
int probe_kcmp(struct probe_ground *g);
int probe_pidfd(struct probe_ground *g);
int probe_children(struct probe_ground *g);
int probe_mm_map(struct probe_ground *g);
int probe_close_range(struct probe_ground *g);
int probe_timer_ids(struct probe_ground *g);
int probe_timers_file(struct probe_ground *g);
int probe_clocks(struct probe_ground *g);
int probe_mdwe(struct probe_ground *g);
int probe_memory_merge(struct probe_ground *g);

int probe_map_files(struct probe_ground *g);
int probe_pagemap(struct probe_ground *g);
int probe_pagemap_scan(struct probe_ground *g);
int probe_vm_read(struct probe_ground *g);
int probe_vm_write(struct probe_ground *g);
int probe_memfd(struct probe_ground *g);
int probe_vdso(struct probe_ground *g);
int probe_anon_name(struct probe_ground *g);
int probe_uffd(struct probe_ground *g);
int probe_uffd_events(struct probe_ground *g);
int probe_uffd_wp_async(struct probe_ground *g);

int probe_tcp_repair(struct probe_ground *g);
int probe_tcp_diag(struct probe_ground *g);
int probe_nftables(struct probe_ground *g);
int probe_cuda(struct probe_ground *g);

int probe_tmpfile(struct probe_ground *g);
int probe_unix_diag(struct probe_ground *g);
int probe_unix_file(struct probe_ground *g);
int probe_buf_lock(struct probe_ground *g);
int probe_handles(struct probe_ground *g);
int probe_timerfd(struct probe_ground *g);
int probe_shm_id(struct probe_ground *g);
