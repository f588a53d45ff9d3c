/*
 * What a dump knows, passed first to everything that takes part in it.
 */
#pragma once

#include "base/error.h"
#include "engine/ns/count.h"
#include "engine/request.h"
#include "image/image.h"

#include <time.h>

struct task;
struct obstacles;
struct file_table;
struct page_job;
struct live;
struct increment;
struct live_call;
struct workers;
struct lock_table;
struct tcp_table;
struct watch;
struct kernel;
struct hidden;
struct insights;

/* What was counted, by any thread. */
struct dump_counts {
	uint64_t pages_scanned, pages_written, pages_previous, shared_written;
	uint64_t memory_from, memory_to; /* ns: of copying */
};
struct cuda_dump;

struct dump {
	const struct request *request;
	struct error *e;
	struct obstacles *obstacles; /* of a check, where failures are collected; NULL: it is a dump */
	struct image_dir *dir;
	VEC(struct task *) tasks; /* the root first, parents before children */
	struct image_file *files; /* files.img, being written */
	struct file_table *descriptions; /* open file descriptions that were captured; kinds/files.c */
	struct lock_table *locks;	 /* kinds/locks.c */
	struct shmem_table *shmem;	 /* shared memory that was seen; memory/shmem.c */
	struct sysv_table *sysv;	 /* memory/sysv.c */
	struct seccomp_table *seccomp; /* filters that were seen; task/seccomp.c */
	struct image_file *sk_queues; /* sk-queues.img, being written, or NULL; kinds/sock.c */
	struct tcp_table *tcp; /* connections that are held back; kinds/tcp.c */
	uint64_t network_lock_id; /* of the lock that stays when the tree ends; 0: none */
	struct cuda_dump *cuda;		 /* cuda/dump.c; NULL: no CUDA process */
	struct workers *workers;
	struct watch *watch; /* NULL: a check */
	struct dump_counts *counts; /* shared with the copies that workers have */
	struct shmem_job *shmem_jobs; /* memory/shmem.c */
	struct page_job *page_jobs; /* that the workers have or had; memory/pages.c */
	struct timespec stopped;    /* when the tree was */
	struct live *live;	    /* of a dump that saves memory while the tree runs; memory/live.h */
	uint64_t live_done, live_total; /* bytes of its rounds, for who wants to know how far it is; atomic */
	VEC(struct live_call) calls; /* memory/live_calls.c */
	struct increment *increment; /* memory/increment.h */
	int many_nodes, semaphores; /* whether there are any: 1, -1 for none, 0 for not known yet */
	struct timespec deadline; /* for the stop of all; CLOCK_MONOTONIC */
	uint32_t next_file_id, next_pages_id;
	struct relay *relay; /* we are the process apart that enters them (engine/ns/relay.h); or NULL */
	int ns_outside[NS_KINDS_MAX]; /* descriptors of those that we were of, or 0 */
	uint32_t ns_own; /* namespaces of the tree's own that the coordinator has entered, as bits of their table; engine/ns/ns.h */
	struct mounts *mounts; /* of the tree's mount namespace, or NULL: it is in ours; engine/ns/mnt.h */
	int root_fd;	       /* its root; 0: ours is the tree's */
	char own_namespaces[9][64]; /* what all processes are to be in: the coordinator's, but for that of time, or the root's; task/look.c */
	VEC(unsigned int) tuns; /* network devices, by number, that come with a descriptor; kinds/tun.c */
	uint64_t own_net; /* the inode of the network namespace, once it was asked for; kinds/sock.c */
	struct kernel *kernel; /* dump_kernel */
	bool kernel_tried;
	struct hidden *hidden; /* task/hidden.c */
	struct insights *insights; /* task/insight.c */
	uint64_t free_group; /* control groups in which nothing is frozen, or 0; insight_group */
	void *kind_state[32]; /* what a kind keeps during the dump, by its place in the table */
};

/* How a part ended that others do not depend on. A dump ends with its failure; a check notes it, gives 0, and goes on. */
int dump_part(struct dump *d, int r);
/* How many descriptors a stopped tree takes: each image has one, as long as it has no name. */
size_t dump_descriptors(const struct dump *d);
/* The kernel's own memory (kernel.h), opened when it is first asked for; NULL where it can't be had. By the main thread. */
struct kernel *dump_kernel(struct dump *d);
/* Writes an image that holds one message. */
int dump_write_one(struct dump *d, const char *name, uint32_t magic, const ProtobufCMessage *m);
