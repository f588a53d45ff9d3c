/* See sysv_ipc.h. */
#include "engine/task/sysv_ipc.h"

#include "base/pool.h"
#include "engine/ns/ns.h"
#include "engine/task/task.h"
#include "ipc_msg.pb-c.h"
#include "ipc_sem.pb-c.h"
#include "proc/sysctl.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
#define TABLE_MAX (16UL << 20)
#define SEMAPHORES_MAX 65536U
#define VALUE_MAX 32767 /* of a semaphore, and of what is added to it */
#define MESSAGE_MAX (16U << 20)

union sem_argument {
	int value;
	struct semid_ds *status;
	uint16_t *values;
};

struct sem_set {
	IpcSemEntry *e;
	uint16_t *values;
	bool made;
};

struct message {
	size_t size;
	char *at; /* in the arena, as msgsnd(2) takes it */
};

struct msg_queue {
	IpcMsgEntry *e;
	VEC(struct message) messages;
	bool made;
};

struct sysv_ipc_table {
	VEC(struct sem_set) sets;
	VEC(struct msg_queue) queues;
};

/* Images of a namespace have its number; those of the host's 0. */
static const char *image_name(bool semaphores, uint32_t number, char ret[40])
{
	snprintf(ret, 40, "ipcns-%s-%u.img", semaphores ? "sem" : "msg", number);
	return ret;
}

static size_t padding(size_t size)
{
	return ALIGN_UP(size, 8) - size;
}

/* ---- dump ---- */

static bool in_tree(const struct dump *d, pid_t pid)
{
	for (size_t i = 0; pid && i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == pid)
			return true;
	return false;
}

static void describe(IpcDescEntry *desc, const struct ipc_perm *perm, int id)
{
	ipc_desc_entry__init(desc);
	desc->key = (uint32_t)perm->__key;
	desc->uid = perm->uid;
	desc->gid = perm->gid;
	desc->cuid = perm->cuid;
	desc->cgid = perm->cgid;
	desc->mode = perm->mode;
	desc->id = (uint32_t)id;
}

/* Adds what the tree has to undo of the set to *to, and gives how much that is. */
static size_t take_undo(const struct dump *d, int id, struct pool *pool, IpcSemUndoEntry ***to)
{
	size_t room = 0, n = 0;

	for (size_t i = 0; i < d->tasks.count; i++)
		room += d->tasks.data[i]->undo.count;
	IpcSemUndoEntry *list = room ? pool_take(pool, room * sizeof(*list)) : NULL;
	*to = list ? pool_take(pool, room * sizeof(**to)) : NULL;
	for (size_t i = 0; *to && i < d->tasks.count; i++)
		VEC_FOREACH(&d->tasks.data[i]->undo, u) {
			if (u->set != id)
				continue;
			ipc_sem_undo_entry__init(&list[n]);
			list[n].pid = (uint32_t)d->tasks.data[i]->pid;
			list[n].number = u->number;
			list[n].value = u->value;
			(*to)[n] = &list[n];
			n++;
		}
	return room && !*to ? SIZE_MAX : n;
}

static int write_set(struct dump *d, struct image_file *file, int id, uint32_t count)
{
	IpcSemEntry e = IPC_SEM_ENTRY__INIT;
	IpcDescEntry desc;
	struct semid_ds status;
	_cleanup_free_ uint16_t *values = calloc(count + 4, sizeof(*values));
	_cleanup_free_ uint32_t *pids = calloc(count + 1, sizeof(*pids));
	struct pool pool = {};

	if (!values || !pids)
		return -ENOMEM;
	e.n_undo = take_undo(d, id, &pool, &e.undo);
	bool used = e.n_undo != 0 || ns_is_own(d, CLONE_NEWIPC);
	for (uint32_t i = 0; i < count; i++) {
		int pid = semctl(id, (int)i, GETPID);
		pids[i] = pid > 0 ? (uint32_t)pid : 0;
		used |= in_tree(d, pid);
	}
	int r = e.n_undo == SIZE_MAX ? -ENOMEM : 0;
	if (!r && used && (semctl(id, 0, IPC_STAT, (union sem_argument){ .status = &status }) < 0 ||
			   semctl(id, 0, GETALL, (union sem_argument){ .values = values }) < 0))
		r = -errno;
	if (!r && used) {
		describe(&desc, &status.sem_perm, id);
		e.desc = &desc;
		e.nsems = count;
		e.pids = pids;
		e.n_pids = count;
		r = image_write_message(file, &e.base);
		if (!r)
			r = image_write_bytes(file, values, count * sizeof(*values) + padding(count * sizeof(*values)));
	}
	pool_free(&pool);
	return r;
}

/* Without taking them (CONFIG_CHECKPOINT_RESTORE). */
static int write_messages(struct image_file *file, int id, uint32_t count, size_t largest)
{
	struct {
		long type;
		char data[];
	} *m = calloc(1, sizeof(long) + largest + 8);
	int r = m ? 0 : -ENOMEM;

	for (uint32_t i = 0; !r && i < count; i++) {
		IpcMsg e = IPC_MSG__INIT;
		ssize_t n = msgrcv(id, m, largest, (long)i, IPC_NOWAIT | MSG_COPY);
		if (n < 0) {
			r = -errno;
			break;
		}
		memset(m->data + n, 0, padding((size_t)n));
		e.mtype = (uint64_t)m->type;
		e.msize = (uint32_t)n;
		r = image_write_message(file, &e.base);
		if (!r)
			r = image_write_bytes(file, m->data, (size_t)n + padding((size_t)n));
	}
	free(m);
	return r;
}

static int write_queue(struct dump *d, struct image_file *file, int id)
{
	IpcMsgEntry e = IPC_MSG_ENTRY__INIT;
	IpcDescEntry desc;
	struct msqid_ds status;

	if (msgctl(id, IPC_STAT, &status) < 0)
		return errno == EIDRM || errno == EINVAL ? 0 : -errno;
	if (!ns_is_own(d, CLONE_NEWIPC) && !in_tree(d, status.msg_lspid) && !in_tree(d, status.msg_lrpid))
		return 0;
	describe(&desc, &status.msg_perm, id);
	e.desc = &desc;
	e.qbytes = (uint32_t)status.msg_qbytes;
	e.qnum = (uint32_t)status.msg_qnum;
	e.has_last_sender = 1;
	e.last_sender = (uint32_t)status.msg_lspid;
	int r = image_write_message(file, &e.base);
	return r ? r : write_messages(file, id, e.qnum, status.__msg_cbytes);
}

static int write_all(struct dump *d, const char *table, uint32_t magic, bool semaphores)
{
	char name[40];
	const char *image = image_name(semaphores, ns_number(d, CLONE_NEWIPC), name);
	_cleanup_free_ char *text = NULL;
	struct image_file *file;
	int id, r = read_file_at(AT_FDCWD, table, TABLE_MAX, &text, NULL);
	unsigned count;

	if (r) /* a kernel without */
		return 0;
	r = image_create(d->dir, image, magic, &file);
	for (const char *line = strchr(text, '\n'); !r && line; line = strchr(line + 1, '\n'))
		if (sscanf(line, "%*d %d %*o %u", &id, &count) == 2)
			r = semaphores ? write_set(d, file, id, count) : write_queue(d, file, id);
	if (!file)
		return error_errno(d->e, r, "cannot write %s", image);
	int closed = image_close(file);
	r = r ? r : closed;
	return r ? error_errno(d->e, r, "cannot save the System V %s into %s", semaphores ? "semaphores" : "message queues", image) : 0;
}

int sysv_ipc_capture(struct dump *d)
{
	if (!d->request->host_ipc && !ns_is_own(d, CLONE_NEWIPC))
		return 0;
	int r = write_all(d, "/proc/sysvipc/sem", IMAGE_MAGIC_IPCNS_SEM, true);
	return r ? r : write_all(d, "/proc/sysvipc/msg", IMAGE_MAGIC_IPCNS_MSG, false);
}

/* ---- restore ---- */

static int in_use(struct restore *s, const char *what, uint32_t id, pid_t pid)
{
	if (pid <= 0 || (kill(pid, 0) < 0 && errno == ESRCH))
		return 0;
	return error_set(s->e, -EBUSY, "the System V %s %u %s in use by process %d; end that first", what, id, *what == 's' ? "are" : "is", pid);
}

static int make_set(struct restore *s, struct sem_set *set)
{
	const IpcDescEntry *desc = set->e->desc;
	struct semid_ds status;
	int id = (int)desc->id, r = 0;

	if (semctl(id, 0, IPC_STAT, (union sem_argument){ .status = &status }) == 0) {
		if (status.sem_nsems != set->e->nsems || (uint32_t)status.sem_perm.__key != desc->key)
			return error_set(s->e, -EEXIST, "the System V semaphores %d are other ones now", id);
		for (uint32_t i = 0; !r && i < set->e->nsems; i++)
			r = in_use(s, "semaphores", desc->id, semctl(id, (int)i, GETPID));
		if (r)
			return r;
	} else {
		r = sysctl_write_number("kernel/sem_next_id", desc->id);
		int made = r ? r : semget((key_t)desc->key, (int)set->e->nsems, IPC_CREAT | IPC_EXCL | (int)(desc->mode & 0777));
		if (made < 0)
			return error_errno(s->e, r ? r : -errno, "cannot make the System V semaphores %d", id);
		set->made = made == id;
		if (!set->made) {
			semctl(made, 0, IPC_RMID);
			return error_set(s->e, -EEXIST, "the System V semaphores %d can't have their id again", id);
		}
	}
	if (semctl(id, 0, IPC_STAT, (union sem_argument){ .status = &status }) < 0)
		return error_errno(s->e, -errno, "cannot examine the System V semaphores %d", id);
	status.sem_perm.uid = desc->uid;
	status.sem_perm.gid = desc->gid;
	status.sem_perm.mode = desc->mode & 0777;
	if (semctl(id, 0, IPC_SET, (union sem_argument){ .status = &status }) < 0 ||
	    semctl(id, 0, SETALL, (union sem_argument){ .values = set->values }) < 0)
		return error_errno(s->e, -errno, "cannot set the System V semaphores %d", id);
	return 0;
}

static int empty(int id, size_t largest)
{
	_cleanup_free_ char *buffer = malloc(sizeof(long) + largest);

	while (buffer && msgrcv(id, buffer, largest, 0, IPC_NOWAIT) >= 0)
		;
	return !buffer ? -ENOMEM : errno == ENOMSG ? 0 : -errno;
}

static int make_queue(struct restore *s, struct msg_queue *q)
{
	const IpcDescEntry *desc = q->e->desc;
	struct msqid_ds status;
	int id = (int)desc->id, r = 0;

	if (msgctl(id, IPC_STAT, &status) == 0) {
		if ((uint32_t)status.msg_perm.__key != desc->key)
			return error_set(s->e, -EEXIST, "the System V message queue %d is another one now", id);
		r = in_use(s, "message queue", desc->id, status.msg_lspid);
		if (!r)
			r = in_use(s, "message queue", desc->id, status.msg_lrpid);
		if (r)
			return r;
		r = empty(id, status.__msg_cbytes);
	} else {
		r = sysctl_write_number("kernel/msg_next_id", desc->id);
		int made = r ? r : msgget((key_t)desc->key, IPC_CREAT | IPC_EXCL | (int)(desc->mode & 0777));
		r = made < 0 && !r ? -errno : r;
		q->made = made == id;
		if (!r && !q->made) {
			msgctl(made, IPC_RMID, NULL);
			return error_set(s->e, -EEXIST, "the System V message queue %d can't have its id again", id);
		}
	}
	if (!r && msgctl(id, IPC_STAT, &status) < 0)
		r = -errno;
	if (r)
		return error_errno(s->e, r, "cannot make the System V message queue %d", id);
	status.msg_perm.uid = desc->uid;
	status.msg_perm.gid = desc->gid;
	status.msg_perm.mode = desc->mode & 0777;
	status.msg_qbytes = q->e->qbytes;
	return msgctl(id, IPC_SET, &status) < 0 ? error_errno(s->e, -errno, "cannot set the System V message queue %d", id) : 0;
}

static int read_set(struct restore *s, struct image_file *file, IpcSemEntry *e)
{
	struct sem_set *set = VEC_PUSH(&s->sysv_ipc->sets);

	if (!set) {
		ipc_sem_entry__free_unpacked(e, NULL);
		return -ENOMEM;
	}
	*set = (struct sem_set){ .e = e };
	if (!e->nsems || e->nsems > SEMAPHORES_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < e->n_undo; i++)
		if (e->undo[i]->number >= e->nsems || !e->undo[i]->value || e->undo[i]->value > VALUE_MAX || e->undo[i]->value < -VALUE_MAX)
			return -EBADMSG;
	size_t size = e->nsems * sizeof(uint16_t);
	set->values = malloc(size + padding(size));
	return set->values ? image_read_bytes(file, set->values, size + padding(size)) : -ENOMEM;
}

static int read_queue(struct restore *s, struct image_file *file, IpcMsgEntry *e)
{
	struct msg_queue *q = VEC_PUSH(&s->sysv_ipc->queues);
	int r = 0;

	if (!q) {
		ipc_msg_entry__free_unpacked(e, NULL);
		return -ENOMEM;
	}
	*q = (struct msg_queue){ .e = e };
	for (uint32_t i = 0; r == 0 && i < e->qnum; i++) {
		IpcMsg *m = NULL;
		r = image_read_message(file, &ipc_msg__descriptor, (ProtobufCMessage **)&m);
		if (r != 1)
			return r ? r : -EBADMSG;
		struct message *to = m->msize <= MESSAGE_MAX ? VEC_PUSH(&q->messages) : NULL;
		if (to) {
			*to = (struct message){ m->msize, arena_take(&s->arena, sizeof(uint64_t) + m->msize + 8) };
			if (to->at)
				memcpy(to->at, &m->mtype, sizeof(m->mtype));
			r = to->at ? image_read_bytes(file, to->at + sizeof(uint64_t), m->msize + padding(m->msize)) : -ENOMEM;
		} else {
			r = m->msize <= MESSAGE_MAX ? -ENOMEM : -EBADMSG;
		}
		ipc_msg__free_unpacked(m, NULL);
	}
	return r;
}

static int read_all(struct restore *s, uint32_t magic, bool semaphores)
{
	char name[40];
	const char *image = image_name(semaphores, ns_number_saved(s, CLONE_NEWIPC), name);
	struct image_file *file;
	ProtobufCMessage *m;
	int r = image_open(s->dir, image, magic, &file);

	if (r == -ENOENT)
		return 0;
	if (r)
		return error_errno(s->e, r, "cannot read %s", image);
	while ((r = image_read_message(file, semaphores ? &ipc_sem_entry__descriptor : &ipc_msg_entry__descriptor, &m)) == 1) {
		r = semaphores ? read_set(s, file, (IpcSemEntry *)m) : read_queue(s, file, (IpcMsgEntry *)m);
		if (r)
			break;
	}
	image_close(file);
	return r ? error_errno(s->e, r, "%s is damaged", image) : 0;
}

int sysv_ipc_make(struct restore *s)
{
	s->sysv_ipc = calloc(1, sizeof(*s->sysv_ipc));
	if (!s->sysv_ipc)
		return error_set(s->e, -ENOMEM, "out of memory");
	int r = read_all(s, IMAGE_MAGIC_IPCNS_SEM, true);
	if (!r)
		r = read_all(s, IMAGE_MAGIC_IPCNS_MSG, false);
	for (size_t i = 0; !r && i < s->sysv_ipc->sets.count; i++)
		r = make_set(s, &s->sysv_ipc->sets.data[i]);
	for (size_t i = 0; !r && i < s->sysv_ipc->queues.count; i++)
		r = make_queue(s, &s->sysv_ipc->queues.data[i]);
	return r;
}

static bool is_task(const struct restore *s, uint32_t pid)
{
	for (size_t i = 0; i < s->tasks.count; i++)
		if (s->tasks.data[i]->pid == (pid_t)pid && !s->tasks.data[i]->dead)
			return true;
	return false;
}

static bool is_undone(const struct sem_set *set, uint32_t number)
{
	for (size_t i = 0; i < set->e->n_undo; i++)
		if (set->e->undo[i]->number == number)
			return true;
	return false;
}

/*
 * One call that changes a semaphore and sets it back at once, of which only one half is to be undone: nobody sees another value. First goes what
 * stays within bounds.
 */
static int plan_undo(struct restore *s, struct rtask *t, struct batch *b, const struct sem_set *set)
{
	for (size_t i = 0; i < set->e->n_undo; i++) {
		const IpcSemUndoEntry *u = set->e->undo[i];
		const unsigned short number = (unsigned short)u->number;
		struct sembuf ops[2] = { { number, (short)-u->value, SEM_UNDO | IPC_NOWAIT }, { number, (short)u->value, IPC_NOWAIT } };
		bool first = u->value < 0 ? set->values[number] - u->value <= VALUE_MAX : set->values[number] >= u->value;
		if (u->pid != (uint32_t)t->pid)
			continue;
		struct sembuf order[2] = { ops[!first], ops[first] };
		uint64_t at = arena_place(&s->arena, order, sizeof(order));
		batch_what(b, "let process %d undo a change of semaphore %u of the System V semaphores %u", t->pid, u->number, set->e->desc->id);
		OP(b, __NR_semop, set->e->desc->id, at, 2);
	}
	return 0;
}

/* What this task changed last; where nobody of the tree sent last, the root sends. */
int sysv_ipc_plan(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;

	VEC_FOREACH(&s->sysv_ipc->sets, set)
		for (uint32_t i = 0; i < set->e->nsems && i < set->e->n_pids; i++) {
			/* One with something to undo was set before, and is changed by who undoes it. */
			if (set->e->pids[i] != (uint32_t)t->pid || is_undone(set, i))
				continue;
			batch_what(b, "set semaphore %u of the System V semaphores %u in process %d", i, set->e->desc->id, t->pid);
			OP(b, __NR_semctl, set->e->desc->id, i, SETVAL, set->values[i]);
		}
	VEC_FOREACH(&s->sysv_ipc->sets, set)
		plan_undo(s, t, b, set);
	VEC_FOREACH(&s->sysv_ipc->queues, q) {
		uint32_t sender = q->e->has_last_sender && is_task(s, q->e->last_sender) ? q->e->last_sender : (uint32_t)s->tasks.data[0]->pid;
		batch_what(b, "fill the System V message queue %u in process %d", q->e->desc->id, t->pid);
		for (size_t i = 0; sender == (uint32_t)t->pid && i < q->messages.count; i++)
			OP(b, __NR_msgsnd, q->e->desc->id, (uint64_t)q->messages.data[i].at, q->messages.data[i].size, IPC_NOWAIT);
	}
	return 0;
}

/* What was made for a restore that failed goes again. */
void sysv_ipc_release(struct restore *s)
{
	if (!s->sysv_ipc)
		return;
	VEC_FOREACH(&s->sysv_ipc->sets, set) {
		if (set->made && !s->succeeded)
			semctl((int)set->e->desc->id, 0, IPC_RMID);
		ipc_sem_entry__free_unpacked(set->e, NULL);
		free(set->values);
	}
	VEC_FOREACH(&s->sysv_ipc->queues, q) {
		if (q->made && !s->succeeded)
			msgctl((int)q->e->desc->id, IPC_RMID, NULL);
		ipc_msg_entry__free_unpacked(q->e, NULL);
		VEC_FREE(&q->messages);
	}
	VEC_FREE(&s->sysv_ipc->sets);
	VEC_FREE(&s->sysv_ipc->queues);
	free(s->sysv_ipc);
}
