/*
 * IPC namespaces: ipc_namespaces(7). Their limits stand in ipcns-var-N.img; what is in them is saved where that of the host is, but all of it: System V segments (memory/sysv.c), semaphores and
 * message queues (task/sysv_ipc.c), POSIX message queues (kinds/mqueue.c).
 */
#include "engine/ns/ns.h"
#include "ipc_var.pb-c.h"
#include "proc/sysctl.h"

#include <sched.h>

extern const struct ns_kind ns_ipc;

#define SEM_LIMITS 4

/* Those that are one number each, in the order in which they are set: some are bounded by others. */
static const struct setting {
	const char *name;
	size_t at, has; /* in an IpcVarEntry; has 0: always */
	bool wide;	/* 64 bits */
} settings[] = {
	{ "kernel/msgmax", offsetof(IpcVarEntry, msg_ctlmax), 0, false },
	{ "kernel/msgmnb", offsetof(IpcVarEntry, msg_ctlmnb), 0, false },
	{ "kernel/msgmni", offsetof(IpcVarEntry, msg_ctlmni), 0, false },
	{ "kernel/shmmax", offsetof(IpcVarEntry, shm_ctlmax), 0, true },
	{ "kernel/shmall", offsetof(IpcVarEntry, shm_ctlall), 0, true },
	{ "kernel/shmmni", offsetof(IpcVarEntry, shm_ctlmni), 0, false },
	{ "kernel/shm_rmid_forced", offsetof(IpcVarEntry, shm_rmid_forced), 0, false },
	{ "fs/mqueue/queues_max", offsetof(IpcVarEntry, mq_queues_max), 0, false },
	{ "fs/mqueue/msg_max", offsetof(IpcVarEntry, mq_msg_max), 0, false },
	{ "fs/mqueue/msgsize_max", offsetof(IpcVarEntry, mq_msgsize_max), 0, false },
	{ "fs/mqueue/msg_default", offsetof(IpcVarEntry, mq_msg_default), offsetof(IpcVarEntry, has_mq_msg_default), false },
	{ "fs/mqueue/msgsize_default", offsetof(IpcVarEntry, mq_msgsize_default), offsetof(IpcVarEntry, has_mq_msgsize_default), false },
};

static void file_name(uint32_t id, char ret[32])
{
	snprintf(ret, 32, "ipcns-var-%u.img", id);
}

static int ipc_collect(struct dump *d, uint32_t id)
{
	IpcVarEntry entry = IPC_VAR_ENTRY__INIT;
	uint64_t limits[SEM_LIMITS] = {}, value;
	uint32_t semaphores[SEM_LIMITS];
	char name[32];

	int n = sysctl_read_numbers("kernel/sem", limits, SEM_LIMITS);
	if (n != SEM_LIMITS)
		return error_errno(d->e, n < 0 ? n : -EIO, "cannot read kernel/sem of its IPC namespace");
	for (size_t i = 0; i < SEM_LIMITS; i++)
		semaphores[i] = (uint32_t)limits[i];
	entry.sem_ctls = semaphores;
	entry.n_sem_ctls = SEM_LIMITS;
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		const struct setting *s = &settings[i];
		n = sysctl_read_numbers(s->name, &value, 1);
		if (n == -ENOENT) /* a kernel without POSIX queues */
			continue;
		if (n != 1)
			return error_errno(d->e, n < 0 ? n : -EIO, "cannot read %s of its IPC namespace", s->name);
		if (s->wide)
			*(uint64_t *)((char *)&entry + s->at) = value;
		else
			*(uint32_t *)((char *)&entry + s->at) = (uint32_t)value;
		if (s->has)
			*(protobuf_c_boolean *)((char *)&entry + s->has) = 1;
	}
	file_name(id, name);
	return dump_write_one(d, name, IMAGE_MAGIC_IPCNS_VAR, &entry.base);
}

static int ipc_load(struct restore *s, uint32_t id)
{
	char name[32];

	file_name(id, name);
	return restore_read_one(s, name, IMAGE_MAGIC_IPCNS_VAR, &ipc_var_entry__descriptor, ns_state(s, &ns_ipc));
}

static int ipc_fill(struct restore *s, uint32_t id)
{
	const IpcVarEntry *e = *ns_state(s, &ns_ipc);
	char text[64];

	if (e->n_sem_ctls == SEM_LIMITS) {
		snprintf(text, sizeof(text), "%u %u %u %u", e->sem_ctls[0], e->sem_ctls[1], e->sem_ctls[2], e->sem_ctls[3]);
		int r = sysctl_write("kernel/sem", text);
		if (r)
			return error_errno(s->e, r, "cannot set kernel/sem of its IPC namespace");
	}
	for (size_t i = 0; i < ARRAY_SIZE(settings); i++) {
		const struct setting *set = &settings[i];
		const char *at = (const char *)e + set->at;
		if (set->has && !*(const protobuf_c_boolean *)((const char *)e + set->has))
			continue;
		int r = sysctl_write_number(set->name, set->wide ? *(const uint64_t *)at : *(const uint32_t *)at);
		if (r && r != -ENOENT)
			return error_errno(s->e, r, "cannot set %s of its IPC namespace", set->name);
	}
	return 0;
}

static void ipc_release(struct restore *s)
{
	IpcVarEntry *e = TAKE_PTR(*ns_state(s, &ns_ipc));

	if (e)
		ipc_var_entry__free_unpacked(e, NULL);
}

const struct ns_kind ns_ipc = {
	.name = "ipc",
	.flag = CLONE_NEWIPC,
	.summary = "All System V segments, semaphores and message queues, POSIX message queues, their limits",
	.has_id = offsetof(TaskKobjIdsEntry, has_ipc_ns_id),
	.id = offsetof(TaskKobjIdsEntry, ipc_ns_id),
	.collect = ipc_collect,
	.load = ipc_load,
	.fill = ipc_fill,
	.release = ipc_release,
};
