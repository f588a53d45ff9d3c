/*
 * POSIX message queues, mq_overview(7). A queue lives on without processes, as a file does: one that has a name is the host's, and is
 * opened again as it is found, unless --host-ipc asks for it to be saved with its messages. One that was unlinked always is.
 *
 * Messages can only be read by taking them: a process apart takes them and puts them back at once, in their order. Attributes are those
 * of mq_getattr(3). What a notification (mq_notify(3)) is to bring stands in the kernel's own memory (kernel.h). Refused: one of a thread, and one of a queue that has messages,
 * since putting them back would set it off. Left out: times.
 */
#include "base/apart.h"
#include "engine/kernel.h"
#include "engine/kinds/kind.h"
#include "engine/ns/ns.h"
#include "engine/task/inside.h"
#include "engine/task/task.h"
#include "mqueue.pb-c.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define MQUEUE_MAGIC 0x19800202
#define IMAGE "mqueue.img"
#define MESSAGES_MAX 65536U /* the kernel's limits */
#define SIZE_MAX_OF_MESSAGE (16U << 20)

struct seen {
	dev_t dev;
	ino_t ino;
	uint32_t id;
};

struct state {
	VEC(struct seen) seen;
	struct image_file *image;
};

/* What stands in a queue, in the order in which it would be received. */
struct content {
	int fd;
	size_t size, room; /* of one message; how many there may be */
	size_t count;
	char *data;
	struct message {
		uint32_t priority, size;
	} *messages;
	bool keep; /* put them back */
};

extern const struct kind kind_mqueue;

static bool recognise(const struct descriptor *f)
{
	struct statfs fs;

	return S_ISREG(f->st.st_mode) && f->own_fd >= 0 && !(f->flags & O_PATH) && f->fdinfo && fstatfs(f->own_fd, &fs) == 0 && fs.f_type == MQUEUE_MAGIC;
}

/* ---- content ---- */

static int content_init(struct content *c, int fd, const struct mq_attr *attr)
{
	*c = (struct content){ .fd = fd, .size = (size_t)attr->mq_msgsize, .room = (size_t)attr->mq_curmsgs };
	c->messages = calloc(c->room + 1, sizeof(*c->messages));
	c->data = mmap(NULL, c->size * (c->room + 1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->data == MAP_FAILED)
		c->data = NULL;
	return c->messages && c->data ? 0 : -ENOMEM;
}

static void content_finish(struct content *c)
{
	if (c->data)
		munmap(c->data, c->size * (c->room + 1));
	free(c->messages);
}

/* In a process apart: from the first one taken to the last one put back nothing may end it. */
static int take_apart(void *argument)
{
	struct content *c = argument;
	int r = 0;

	while (c->count < c->room) {
		struct message *m = &c->messages[c->count];
		ssize_t n = mq_receive(c->fd, c->data + c->count * c->size, c->size, &m->priority);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			r = errno == EAGAIN ? 0 : -errno;
			break;
		}
		m->size = (uint32_t)n;
		c->count++;
	}
	for (size_t i = 0; c->keep && i < c->count; i++)
		while (mq_send(c->fd, c->data + i * c->size, c->messages[i].size, c->messages[i].priority) < 0)
			if (errno != EINTR) {
				r = -errno;
				break;
			}
	return r;
}

/* ---- dump ---- */

/* What it is to bring only the kernel's own memory tells. */
static int read_value(struct dump *d, const struct descriptor *f, uint32_t notify, uint32_t number, uint64_t *ret)
{
	struct kernel *k = dump_kernel(d);
	int inode = k ? kernel_offset(k, "mqueue_inode_info", "vfs_inode") : -1, event = k ? kernel_offset(k, "mqueue_inode_info", "notify") : -1;
	struct {
		uint64_t value;
		uint32_t signal, notify;
	} found;
	uint64_t at;
	int r = inode < 0 || event < 0 ? -ENOTSUP : kernel_file(k, f->own_fd, &at);

	if (!r)
		r = inside_follow(d, &at, "file", "f_inode");
	if (!r)
		r = kernel_read(k, at - (uint64_t)inode + (uint64_t)event, &found, sizeof(found));
	*ret = r ? 0 : found.value;
	return r ? r : found.signal == number && found.notify == notify ? 0 : -EBADMSG;
}

static bool in_tree(const struct dump *d, pid_t pid)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == pid)
			return true;
	return false;
}

/* "QSIZE:0 NOTIFY:0 SIGNO:0 NOTIFY_PID:0". Messages can't be put back without a word to who waits for the first. */
static int take_notification(struct dump *d, struct descriptor *f, int fd, MqueueEntry *e, const struct mq_attr *attr)
{
	char text[128] = "";
	unsigned long size;
	unsigned int notify, number;
	int pid;

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0 || sscanf(text, "QSIZE:%lu NOTIFY:%u SIGNO:%u NOTIFY_PID:%d", &size, &notify, &number, &pid) != 4)
		return fd_error(d, f, -ENOTSUP, "is a message queue that does not tell its state");
	if (!pid)
		return 0;
	if (!in_tree(d, pid))
		return e->content ? fd_error(d, f, -ENOTSUP, "is a message queue that process %d outside the tree is to be notified of (mq_notify); let it withdraw "
					     "that first", pid) : 0;
	if (notify == SIGEV_THREAD)
		return fd_error(d, f, -ENOTSUP, "is a message queue with a thread that is to be notified (mq_notify with SIGEV_THREAD), which is not saved; let the "
				"program withdraw that first");
	if (e->content && attr->mq_curmsgs)
		return fd_error(d, f, -EAGAIN, "is a message queue with messages, that a process is to be notified of (mq_notify); try again when it is empty");
	if (notify == SIGEV_SIGNAL && read_value(d, f, notify, number, &e->notify_value))
		return fd_error(d, f, -ENOTSUP, "is a message queue that process %d is to be notified of (mq_notify), and with what stands in the kernel's memory, which "
				"can't be read here (BTF, BPF); let the program withdraw that first", pid);
	e->has_notify_pid = e->has_notify = e->has_notify_signal = e->has_notify_value = 1;
	e->notify_pid = (uint32_t)pid;
	e->notify = notify;
	e->notify_signal = number;
	return 0;
}

static int write_queue(struct dump *d, struct state *s, MqueueEntry *e, const struct content *c)
{
	int r = s->image ? 0 : image_create(d->dir, IMAGE, IMAGE_MAGIC_MQUEUE, &s->image);

	if (!r)
		r = image_write_message(s->image, &e->base);
	for (size_t i = 0; !r && i < c->count; i++) {
		MqueueMessageEntry m = MQUEUE_MESSAGE_ENTRY__INIT;
		m.priority = c->messages[i].priority;
		m.data = (ProtobufCBinaryData){ c->messages[i].size, (uint8_t *)c->data + i * c->size };
		r = image_write_message(s->image, &m.base);
	}
	return r ? error_errno(d->e, r, "cannot write " IMAGE) : 0;
}

static int capture_queue(struct dump *d, struct descriptor *f, struct state *s, uint32_t id)
{
	MqueueEntry e = MQUEUE_ENTRY__INIT;
	struct content c = {};
	struct mq_attr attr;
	char path[64], *name = f->target;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", f->own_fd);
	_cleanup_close_ int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || mq_getattr(fd, &attr) < 0)
		return fd_errno(d, f, -errno, "is a message queue that can't be opened");
	size_t length = strlen(name), suffix = strlen(" (deleted)");
	e.deleted = f->st.st_nlink == 0;
	_cleanup_free_ char *plain = strndup(name, e.deleted && length > suffix ? length - suffix : length);
	e.id = id;
	e.name = plain;
	e.content = e.deleted || d->request->host_ipc || ns_is_own(d, CLONE_NEWIPC);
	e.mode = f->st.st_mode & 07777;
	e.uid = f->st.st_uid;
	e.gid = f->st.st_gid;
	e.maxmsg = (uint32_t)attr.mq_maxmsg;
	e.msgsize = (uint32_t)attr.mq_msgsize;
	if (!plain)
		return error_set(d->e, -ENOMEM, "out of memory");
	int r = take_notification(d, f, fd, &e, &attr);
	if (r)
		return r;
	if (e.content && !d->obstacles) {
		r = content_init(&c, fd, &attr);
		c.keep = true;
		if (!r && attr.mq_curmsgs)
			r = run_apart(NULL, take_apart, &c);
		e.messages = (uint32_t)c.count;
	}
	r = r ? fd_errno(d, f, r, "is a message queue that can't be read") : write_queue(d, s, &e, &c);
	content_finish(&c);
	return r;
}

/* Captures the queue when it is first seen. */
static int see_queue(struct dump *d, struct descriptor *f, uint32_t *ret_id)
{
	void **at = kind_state(d, &kind_mqueue);
	struct state *s = *at = *at ? *at : calloc(1, sizeof(*s));

	if (!s)
		return error_set(d->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&s->seen, x)
		if (x->dev == f->st.st_dev && x->ino == f->st.st_ino) {
			*ret_id = x->id;
			return 0;
		}
	struct seen *x = VEC_PUSH(&s->seen);
	if (!x)
		return error_set(d->e, -ENOMEM, "out of memory");
	*x = (struct seen){ f->st.st_dev, f->st.st_ino, *ret_id = (uint32_t)s->seen.count };
	return capture_queue(d, f, s, *ret_id);
}

/* In a namespace of the tree's own, those too that nobody has open. Their file system need not be mounted there. */
static int capture_others(struct dump *d)
{
	_cleanup_close_ int fs = (int)syscall(__NR_fsopen, "mqueue", FSOPEN_CLOEXEC);
	int root = fs < 0 || syscall(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0 ? -1 : (int)syscall(__NR_fsmount, fs, FSMOUNT_CLOEXEC, 0);
	const int again = root < 0 ? -1 : openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a mount's descriptor is O_PATH */
	DIR *dir = again < 0 ? NULL : fdopendir(again);
	int r = dir || (fs < 0 && errno == ENODEV) ? 0 : error_errno(d->e, -errno, "cannot list the message queues of its IPC namespace");

	for (struct dirent *entry; !r && dir && (entry = readdir(dir));) {
		struct descriptor f = { .task = d->tasks.data[0], .fd = -1 };
		uint32_t id;
		if (entry->d_name[0] == '.' && (!entry->d_name[1] || entry->d_name[1] == '.'))
			continue;
		snprintf(f.target, sizeof(f.target), "/%s", entry->d_name);
		f.own_fd = openat(root, entry->d_name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		r = f.own_fd < 0 || fstat(f.own_fd, &f.st) < 0 ? fd_errno(d, &f, -errno, "is a message queue that can't be opened") : see_queue(d, &f, &id);
		if (f.own_fd >= 0)
			close(f.own_fd);
	}
	if (dir)
		closedir(dir);
	if (root >= 0)
		close(root);
	return r;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	MqueueFileEntry e = MQUEUE_FILE_ENTRY__INIT;
	uint32_t id;
	int r = see_queue(d, f, &id);

	if (r)
		return r;
	e.id = f->id;
	e.flags = f->flags;
	e.pos = f->pos;
	e.queue = id;
	e.fown = f->fown;
	entry.mqueue = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__FERMATA_MQUEUE);
}

static int finish(struct dump *d, void **at, bool success)
{
	int r = success && ns_is_own(d, CLONE_NEWIPC) ? capture_others(d) : 0;
	struct state *s = *at;

	if (!s)
		return r;
	int closed = s->image ? image_close(s->image) : 0;
	if (!r && closed)
		r = error_errno(d->e, closed, "cannot write " IMAGE);
	VEC_FREE(&s->seen);
	free(s);
	*at = NULL;
	return r;
}

/* ---- restore ---- */

/* The last component, which is the queue's name. */
static const char *queue_name(const MqueueEntry *e)
{
	const char *slash = strrchr(e->name, '/');

	return slash ? slash : "/";
}

static int check_attributes(struct restore *s, const MqueueEntry *e, int fd)
{
	struct mq_attr attr;

	if (mq_getattr(fd, &attr) == 0 && attr.mq_maxmsg == e->maxmsg && attr.mq_msgsize == e->msgsize)
		return fd;
	close(fd);
	return error_set(s->e, -EEXIST, "the message queue %s is another one now", e->name);
}

/* One that is there already is emptied: it is to have what was saved. */
static int empty(struct restore *s, const MqueueEntry *e, int fd)
{
	struct mq_attr attr;
	struct content c;
	int r = mq_getattr(fd, &attr) < 0 ? -errno : content_init(&c, fd, &attr);

	if (r)
		return r;
	r = take_apart(&c);
	content_finish(&c);
	return r;
}

static int make_queue(struct restore *s, const MqueueEntry *e, bool *ret_made)
{
	struct mq_attr attr = { .mq_maxmsg = e->maxmsg, .mq_msgsize = e->msgsize };
	const char *name = queue_name(e);
	char aside[64];
	int fd = mq_open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_CREAT | O_EXCL, 0600, &attr);

	*ret_made = fd >= 0;
	if (fd < 0 && errno == EEXIST && e->deleted) {
		snprintf(aside, sizeof(aside), "/fermata-%d-%u", getpid(), e->id);
		name = aside;
		fd = mq_open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_CREAT | O_EXCL, 0600, &attr);
	} else if (fd < 0 && errno == EEXIST && (fd = mq_open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC)) >= 0) {
		fd = check_attributes(s, e, fd);
		if (fd < 0)
			return fd;
	}
	int r = fd < 0 ? -errno : *ret_made || e->deleted ? 0 : empty(s, e, fd);
	if (e->deleted && fd >= 0) {
		mq_unlink(name);
		*ret_made = false;
	}
	if (!r && (fchown(fd, e->uid, e->gid) < 0 || fchmod(fd, e->mode & 07777) < 0))
		r = -errno;
	if (!r)
		return fd;
	if (fd >= 0)
		close(fd);
	return error_errno(s->e, r, "cannot make the message queue %s (of %u messages of %u bytes; see /proc/sys/fs/mqueue)", e->name, e->maxmsg, e->msgsize);
}

static int fill_queue(struct restore *s, const MqueueEntry *e, int fd, struct image_file *file)
{
	int r = 0;

	for (uint32_t i = 0; !r && i < e->messages; i++) {
		MqueueMessageEntry *m = NULL;
		r = image_read_message(file, &mqueue_message_entry__descriptor, (ProtobufCMessage **)&m);
		if (r != 1)
			return error_set(s->e, r ? r : -EBADMSG, IMAGE " is damaged");
		r = fd < 0 || mq_send(fd, m->data.len ? (char *)m->data.data : "", m->data.len, m->priority) == 0 ? 0 : -errno;
		mqueue_message_entry__free_unpacked(m, NULL);
		if (r)
			return error_errno(s->e, r, "cannot fill the message queue %s", e->name);
	}
	return 0;
}

static bool is_task(const struct restore *s, pid_t pid)
{
	for (size_t i = 0; i < s->tasks.count; i++)
		if (s->tasks.data[i]->pid == pid)
			return true;
	return false;
}

static int open_queue(struct restore *s, const MqueueEntry *e, struct image_file *file, struct held_queue *ret)
{
	bool made = false;
	int fd = -1;

	if (e->maxmsg > MESSAGES_MAX || e->msgsize > SIZE_MAX_OF_MESSAGE || e->messages > e->maxmsg)
		return error_set(s->e, -EBADMSG, IMAGE " has a queue that can't be");
	if (e->has_notify_pid && (!is_task(s, (pid_t)e->notify_pid) || e->notify > SIGEV_NONE || e->notify_signal > 64))
		return error_set(s->e, -EBADMSG, IMAGE " has a queue that tells process %u, which can't be", e->notify_pid);
	ret->notify_pid = (pid_t)e->notify_pid;
	ret->notify = e->notify;
	ret->notify_signal = e->notify_signal;
	ret->notify_value = e->notify_value;
	if (e->content) {
		fd = make_queue(s, e, &made);
		if (made && !(ret->made = strdup(queue_name(e)))) {
			close(fd);
			return error_set(s->e, -ENOMEM, "out of memory");
		}
	} else if ((fd = mq_open(queue_name(e), O_RDONLY | O_NONBLOCK | O_CLOEXEC)) < 0) {
		return error_errno(s->e, -errno, "cannot open the message queue %s (--host-ipc saves it with its messages)", e->name);
	} else {
		fd = check_attributes(s, e, fd);
	}
	if (fd < 0)
		return fd;
	fd = restore_hold(s, fd);
	if (fd < 0)
		return error_errno(s->e, fd, "cannot hold a message queue");
	ret->fd = fd;
	return fill_queue(s, e, e->content ? fd : -1, file);
}

/* All of them, when the first is asked for; s->mqueues has them by number. */
static int open_all(struct restore *s)
{
	struct image_file *file;
	MqueueEntry *e;
	int r = image_open(s->dir, IMAGE, IMAGE_MAGIC_MQUEUE, &file);

	if (r)
		return error_errno(s->e, r, "cannot read " IMAGE);
	while ((r = image_read_message(file, &mqueue_entry__descriptor, (ProtobufCMessage **)&e)) == 1) {
		struct held_queue *slot = VEC_PUSH(&s->mqueues);
		if (slot)
			*slot = (struct held_queue){ .id = e->id, .fd = -1 };
		r = slot ? open_queue(s, e, file, slot) : error_set(s->e, -ENOMEM, "out of memory");
		mqueue_entry__free_unpacked(e, NULL);
		if (r)
			break;
	}
	image_close(file);
	return r == -EBADMSG && !s->e->text[0] ? error_set(s->e, r, IMAGE " is damaged") : r;
}

int mqueues_make(struct restore *s)
{
	return ns_number_saved(s, CLONE_NEWIPC) && image_dir_has(s->dir, IMAGE) ? open_all(s) : 0;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const MqueueFileEntry *e = f->entry->mqueue;
	char path[64] = "";

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int r = s->mqueues.count ? 0 : open_all(s);
	if (r)
		return r;
	VEC_FOREACH(&s->mqueues, q)
		if (q->id == e->queue)
			snprintf(path, sizeof(path), "/proc/self/fd/%d", q->fd);
	if (!path[0])
		return error_set(s->e, -EBADMSG, IMAGE " lacks queue %u", e->queue);
	int fd = open(path, (int)(e->flags & (O_ACCMODE | O_NONBLOCK | O_APPEND)) | O_CLOEXEC);
	if (fd < 0 || (e->pos && lseek(fd, (off_t)e->pos, SEEK_SET) < 0)) {
		r = error_errno(s->e, -errno, "cannot open a message queue");
		if (fd >= 0)
			close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

static const FdinfoEntry *holds(struct restore *s, const struct rtask *t, uint32_t queue)
{
	for (size_t i = 0; i < t->fds.count; i++) {
		const struct file *f = file_find(s, t->fds.data[i]->id);
		if (f && f->kind == &kind_mqueue && f->entry->mqueue->queue == queue)
			return t->fds.data[i];
	}
	return NULL;
}

int mqueues_plan(struct restore *s, struct rtask *t)
{
	struct batch *b = &t->threads.data[0].batch;

	VEC_FOREACH(&s->mqueues, q) {
		if (!q->notify_pid || q->notify_pid != t->pid)
			continue;
		const FdinfoEntry *e = holds(s, t, q->id);
		struct sigevent event = { .sigev_signo = (int)q->notify_signal, .sigev_notify = (int)q->notify };
		memcpy(&event.sigev_value, &q->notify_value, sizeof(event.sigev_value));
		if (!e)
			return error_set(s->e, -EBADMSG, IMAGE " has a queue that tells process %d, which does not hold it", t->pid);
		batch_what(b, "be told of messages in descriptor %u of process %d (mq_notify)", e->fd, t->pid);
		OP(b, __NR_mq_notify, e->fd, arena_place(&s->arena, &event, sizeof(event)));
	}
	return 0;
}

/* With the first of its files: those that were made for a restore that failed go again. */
static void release(struct restore *s, struct file *f)
{
	VEC_FOREACH(&s->mqueues, q) {
		if (!s->succeeded && q->made)
			mq_unlink(q->made);
		free(q->made);
		if (q->fd >= 0)
			close(q->fd);
	}
	VEC_FREE(&s->mqueues);
}

const struct kind kind_mqueue = {
	.name = "a message queue",
	.summary = "POSIX message queues: opened again; with --host-ipc, and unlinked ones, made again with their messages; whom they notify",
	.type = FD_TYPES__FERMATA_MQUEUE,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = create,
	.release = release,
};
