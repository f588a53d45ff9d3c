/*
 * What a dump knows, passed first to everything that takes part in it.
 */
#pragma once

#include "base/error.h"
#include "engine/request.h"
#include "image/image.h"

struct task;
struct obstacles;
struct file_table;
struct page_job;
struct workers;
struct lock_table;
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
	struct cuda_dump *cuda;		 /* cuda/dump.c; NULL: no CUDA process */
	struct workers *workers;
	struct page_job *page_jobs; /* that the workers have or had; memory/pages.c */
	int many_nodes, semaphores; /* whether there are any: 1, -1 for none, 0 for not known yet */
	uint32_t next_file_id, next_pages_id;
	char own_namespaces[8][64]; /* the coordinator's; task/look.c */
	void *kind_state[32]; /* what a kind keeps during the dump, by its place in the table */
};

/* How a part ended that others do not depend on. A dump ends with its failure; a check notes it, gives 0, and goes on. */
int dump_part(struct dump *d, int r);
/* Writes an image that holds one message. */
int dump_write_one(struct dump *d, const char *name, uint32_t magic, const ProtobufCMessage *m);
