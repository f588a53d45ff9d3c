/*
 * /proc/PID/mountinfo: the mounts of a namespace, as far as they can be reached from the root of whoever it is asked of. proc_pid_mountinfo(5).
 */
#pragma once

#include "base/pool.h"

struct proc_mount {
	uint32_t id, parent;
	uint32_t dev; /* of what st_dev of its files is made: major << 20 | minor, as in fdinfo */
	const char *root, *point; /* in the file system; in the namespace */
	const char *options, *fstype, *source, *super; /* of the mount; of the file system */
	uint32_t shared, master; /* peer groups; 0: of none */
	bool unbindable;
};

struct proc_mounts {
	VEC(struct proc_mount) list; /* as the kernel lists them */
	struct pool pool;	     /* of the texts, without their escapes */
};

/* -EBADMSG for what is not of the form. What it gives is the caller's, also after a failure: proc_mounts_finish. */
int proc_parse_mounts(const char *text, struct proc_mounts *ret);
void proc_mounts_finish(struct proc_mounts *m);
