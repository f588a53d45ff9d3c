/* The table of probes. A new one: its function in the file of its subject, its declaration in probe.h, its row here. */
#include "engine/probe/probe.h"

#define CONFIG_CR "a kernel with CONFIG_CHECKPOINT_RESTORE"

const struct probe probes[] = {
	{ PROBE_PRIVILEGES, "capabilities", "read and set the state of any process", true, "root, outside of a container that drops capabilities", probe_capabilities },
	{ PROBE_KERNEL, "ptrace", "stop processes, read their registers and masks", true, "the setting kernel.yama.ptrace_scope below 3", probe_ptrace },
	{ PROBE_KERNEL, "ptrace_xstate", "save all registers of the processor", true, "Linux 2.6.35 on x86-64", probe_xstate },
	{ PROBE_KERNEL, "ptrace_peeksiginfo", "save signals that are pending", true, "Linux 3.10", probe_siginfo },
	{ PROBE_KERNEL, "proc_mem_write", "place the agent in a process", true, "a kernel booted with proc_mem.force_override=ptrace or always", probe_force_write },
	{ PROBE_KERNEL, "vdso", "leave a process as it was", true, "a kernel booted without vdso=0", probe_vdso },
	{ PROBE_KERNEL, "clone3_set_tid", "give processes their pids again", true, "Linux 5.5, and root", probe_clone3 },
	{ PROBE_KERNEL, "kcmp", "find what processes share", true, "a kernel with CONFIG_KCMP or CONFIG_CHECKPOINT_RESTORE", probe_kcmp },
	{ PROBE_KERNEL, "pidfd_getfd", "look at descriptors of a process", true, "Linux 5.6", probe_pidfd },
	{ PROBE_KERNEL, "proc_children", "find the children of a process", true, "a kernel with CONFIG_PROC_CHILDREN", probe_children },
	{ PROBE_KERNEL, "proc_timers", "save POSIX timers", true, CONFIG_CR, probe_timers_file },
	{ PROBE_MEMORY, "map_files", "reach files that are mapped", true, CONFIG_CR, probe_map_files },
	{ PROBE_MEMORY, "pagemap", "find pages that are in use", true, "a kernel with CONFIG_PROC_PAGE_MONITOR, and root", probe_pagemap },
	{ PROBE_MEMORY, "process_vm_readv", "copy memory out", true, "a kernel with CONFIG_CROSS_MEMORY_ATTACH", probe_vm_read },
	{ PROBE_MEMORY, "process_vm_writev", "copy memory in", true, "a kernel with CONFIG_CROSS_MEMORY_ATTACH", probe_vm_write },
	{ PROBE_MEMORY, "memfd_create", "restore shared memory", true, "Linux 3.17 with CONFIG_MEMFD_CREATE", probe_memfd },
	{ PROBE_MEMORY, "prctl_mm_map", "restore where the stack, heap and arguments are", true, CONFIG_CR, probe_mm_map },
	{ PROBE_KERNEL, "close_range", "close what a restored process must not have", true, "Linux 5.9", probe_close_range },
	{ PROBE_NETWORK, "sock_diag", "save unix sockets", true, "a kernel with CONFIG_UNIX_DIAG (modprobe unix_diag)", probe_unix_diag },
	{ PROBE_STORAGE, "tmpfile", "write a checkpoint that shows only when it is whole", true, "a directory on ext4, xfs, btrfs or tmpfs", probe_tmpfile },

	{ PROBE_PRIVILEGES, "capabilities_more", "set limits, priorities, owners and socket options of some processes", false,
	  "root, outside of a container that drops capabilities", probe_further_capabilities },
	{ PROBE_NETWORK, "sk_unix_file", "save unix sockets that have a name", false, "Linux 4.15", probe_unix_file },
	{ PROBE_NETWORK, "tcp_repair", "save TCP connections", false, "a kernel with CONFIG_CHECKPOINT_RESTORE, and root", probe_tcp_repair },
	{ PROBE_NETWORK, "inet_diag", "save TCP connections", false, "a kernel with CONFIG_INET_DIAG and CONFIG_INET_TCP_DIAG (modprobe tcp_diag)", probe_tcp_diag },
	{ PROBE_NETWORK, "nftables", "hold back packets of TCP connections", false,
	  "libnftables (libnftables1), and Linux 5.12 with CONFIG_NF_TABLES_INET; without, --network-lock skip", probe_nftables },
	{ PROBE_KERNEL, "kernel_memory", "time left in system calls, events not read, Landlock, keyrings", false,
	  "a kernel with CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_SYSCALL that is not locked down, CAP_BPF and CAP_PERFMON", probe_kernel_memory },
	{ PROBE_KERNEL, "rseq_ptrace", "keep the rseq area of threads", false, "Linux 5.13 with CONFIG_RSEQ", probe_rseq },
	{ PROBE_KERNEL, "seccomp_filters", "save seccomp filters", false, "a kernel with CONFIG_SECCOMP_FILTER and CONFIG_CHECKPOINT_RESTORE", probe_seccomp_filters },
	{ PROBE_KERNEL, "seccomp_suspend", "save processes that run under seccomp", false, CONFIG_CR, probe_seccomp_suspend },
	{ PROBE_MEMORY, "pagemap_scan", "find pages quickly", false, "Linux 6.7", probe_pagemap_scan },
	{ PROBE_KERNEL, "timer_cr_ids", "give POSIX timers large ids again quickly", false, "Linux 6.15", probe_timer_ids },
	{ PROBE_KERNEL, "timens", "let clocks go on after a boot, or on another machine", false, "Linux 5.6 with CONFIG_TIME_NS, and root", probe_clocks },
	{ PROBE_KERNEL, "timerfd", "keep expirations of a timerfd that were not read", false, CONFIG_CR, probe_timerfd },
	{ PROBE_MEMORY, "shm_next_id", "give System V segments their ids again", false, CONFIG_CR, probe_shm_id },
	{ PROBE_STORAGE, "file_handles", "save inotify watches", false, "a kernel with CONFIG_FHANDLE", probe_handles },
	{ PROBE_NETWORK, "so_buf_lock", "keep the sizes of socket buffers", false, "Linux 5.14", probe_buf_lock },
	{ PROBE_MEMORY, "anon_name", "keep names of anonymous memory", false, "Linux 5.17 with CONFIG_ANON_VMA_NAME", probe_anon_name },
	{ PROBE_MEMORY, "mdwe", "keep the ban on executable memory (MDWE)", false, "Linux 6.3", probe_mdwe },
	{ PROBE_MEMORY, "memory_merge", "keep the memory merge switch", false, "Linux 6.4 with CONFIG_KSM", probe_memory_merge },
	{ PROBE_GPU, "cuda_checkpoint", "save CUDA processes", false, "an NVIDIA GPU, not divided, with driver 570 or later", probe_cuda },
	{ PROBE_MEMORY, "uffd", "lazy restore, the least of it", false, "a kernel with CONFIG_USERFAULTFD", probe_uffd },
	{ PROBE_MEMORY, "uffd-noncoop", "lazy restore", false, "Linux 4.11 with CONFIG_USERFAULTFD", probe_uffd_events },
	{ PROBE_MEMORY, "uffd_wp_async", "save memory while it runs (--live)", false, "Linux 6.7 with CONFIG_USERFAULTFD", probe_uffd_wp_async },
	{ PROBE_MEMORY, "mem_dirty_track", "incremental dumps (--track-mem)", false, "Linux 6.7 with CONFIG_USERFAULTFD", probe_uffd_wp_async },
};
const char *const probe_areas[PROBE_AREAS] = { "kernel", "privileges", "memory", "network", "storage", "GPU" };

const size_t probes_count = ARRAY_SIZE(probes);

const struct probe *probe_find(const char *name)
{
	for (size_t i = 0; i < probes_count; i++)
		if (!strcmp(probes[i].name, name))
			return &probes[i];
	return NULL;
}

int probe_run(const struct probe *p, const char *dir, struct error *e)
{
	struct probe_ground ground = { .dir = dir ? dir : ".", .e = e };

	*e = (struct error){};
	int r = p->run(&ground);
	if (r && !e->text[0])
		error_set(e, r, "%s", strerror(-r));
	if (!r)
		return 0;
	size_t used = strlen(e->text);
	bool rights = (r == -EPERM || r == -EACCES) && geteuid() != 0;
	snprintf(e->text + used, sizeof(e->text) - used, "; needs %s", rights ? "root" : p->remedy);
	return r;
}
