/*
 * Kinds: everything a descriptor can refer to, one file each in this folder. docs/KINDS.md says how to add one.
 *
 * Dump side: the first kind in the table whose `recognise` says yes captures the open file description, once, however many
 * descriptors of however many tasks refer to it. Restore side: each description is made once, in the coordinator, in the
 * phases below; tasks inherit them and put them at the numbers they had.
 */
#pragma once

#include "engine/dump.h"
#include "engine/restore.h"
#include "fdinfo.pb-c.h"

#include <sys/stat.h>

/* An open file description on its way into the images. */
struct descriptor {
	struct task *task;
	int fd;	     /* the task's number for it; -1 when it is not in a descriptor table (a mapping, cwd, …) */
	int own_fd;  /* a duplicate, in the coordinator; -1 for what can't have one (cwd, root) */
	uint32_t id; /* its id in the images */
	uint32_t flags; /* as open(2)'s, without O_CLOEXEC */
	uint64_t pos;
	struct stat st;
	char target[4200]; /* what /proc/PID/fd/N points to */
	char *fdinfo;	   /* the text of /proc/PID/fdinfo/N, or NULL; allocated, a kind may put a newer one in its place */
	const struct proc_vma *vma; /* of a mapped file; or NULL */
	FownEntry *fown;   /* for the entry: owner and signal of F_SETOWN and F_SETSIG */
};

struct kind {
	const char *name;    /* of one object: "a pipe" */
	const char *summary; /* a sentence for the table of what can be saved */
	uint32_t type;	     /* FD_TYPES__* */

	bool (*recognise)(const struct descriptor *f);
	/* Writes what describes it: file_entry_write, and images of its own. */
	int (*capture)(struct dump *d, struct descriptor *f);
	/* After the last descriptor of the last task. `state` is d->kind_state[its place], to be freed here; also called after a
	 * failure, then with `success` false. May be NULL, as all that follow. */
	int (*finish)(struct dump *d, void **state, bool success);

	/* Makes the description: *ret_fd is the caller's. Peers and targets may not exist yet. */
	int (*create)(struct restore *s, struct file *f, int *ret_fd);
	/* Every other description exists. */
	int (*connect)(struct restore *s, struct file *f);
	/* Every connection stands: data that is under way goes in. */
	int (*fill)(struct restore *s, struct file *f);
	/* Calls that the task itself must make, once it has all its descriptors; f stands at `fd`. Called for the first task that
	 * holds it. */
	int (*late)(struct restore *s, struct file *f, struct rtask *t, int fd);
	/* What a task would make in `late`, here, of one that is only under way in a socket; all tasks are parked. *ret_fd is the caller's. */
	int (*fly)(struct restore *s, struct file *f, int *ret_fd);
	/* Every task has what it needs and is parked: the last moment before they run. */
	int (*settle)(struct restore *s, struct file *f);
	/* What the restore keeps for it, before everything is closed. */
	void (*release)(struct restore *s, struct file *f);
};

extern const struct kind *const kinds[];
extern const size_t kinds_count;
const struct kind *kind_of_type(uint32_t type);

/* The kind's own state during the dump: its place in d->kind_state. */
void **kind_state(struct dump *d, const struct kind *kind);

/* Writes the entry that refers to `f` into files.img. */
int file_entry_write(struct dump *d, FileEntry *entry, const struct descriptor *f, uint32_t type);

/* Reads the bytes of a whole small file of the images, magic checked: for files with raw data between records. */
int restore_read_records(struct restore *s, const char *name, uint32_t magic, char **ret, size_t *ret_size);

/* How a user calls it: "descriptor 5 (/tmp/log)", or the file alone where it stands in no table. */
struct fd_label {
	char text[4300];
};
struct fd_label fd_label(const struct descriptor *f);
const char *unknown_kind_name(const struct descriptor *f); /* kinds/unknown.c */
/* error_set with task and descriptor in front. */
#define fd_error(d, f, code, format, ...) \
	task_error(d, (f)->task, code, "%s " format, fd_label(f).text, ##__VA_ARGS__)
#define fd_errno(d, f, code, format, ...) \
	task_errno(d, (f)->task, code, "%s " format, fd_label(f).text, ##__VA_ARGS__)

/* Capturing, kinds/files.c. */
int files_capture(struct dump *d, struct task *t);	 /* descriptor table, cwd, root: fdinfo-N.img and fs-N.img */
/* th->table, of a thread that has its own: numbers and all that other tables are compared with, before anything is captured. */
int files_thread_table(struct dump *d, struct task *t, struct thread *th);
void files_table_free(struct task *table);
/* The tables of a process: its own first, which is the process; NULL behind the last. */
struct task *files_table(struct task *t, size_t index);
int files_finish(struct dump *d, bool success);		 /* after the last task */
/* The id of the file that is mapped at vma, captured when first seen. */
int files_capture_mapping(struct dump *d, struct task *t, const struct proc_vma *vma, uint32_t *ret_id);
int files_capture_link(struct dump *d, struct task *t, const char *link, uint32_t flags, uint32_t *ret_id);
/* The id of a file that is under way in a socket, where only `own_fd`, in the coordinator, refers to it; it stays the caller's. */
int files_capture_flying(struct dump *d, struct task *t, int own_fd, uint32_t *ret_id);
/* The image id of the description that `fd` of task `t` refers to, captured before; 0: none. */
uint32_t files_find(struct dump *d, struct task *t, int fd);
