/*
 * Pipes and named FIFOs, with what is in them. The content is copied out with tee(2), which leaves it where it is; packets
 * (O_DIRECT) keep their boundaries.
 *
 * A pipe of which the tree holds one end only, while someone outside holds the other, is saved as external where the user permits it:
 * restore takes a pipe of the caller's. What is in it goes there if the tree is to read it; what the tree has written is for the one
 * outside. Pages that were put in with vmsplice(2) are saved as they are at the dump, and are the pipe's own afterwards.
 */
#include "engine/kinds/external.h"
#include "engine/kinds/regfile.h"
#include "engine/task/task.h"
#include "pipe_data.pb-c.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>

#define PIPE_SIZE_MAX (64U << 20)
#define PACKETS_MAX 65536
#define KERNEL_LARGEFILE 0100000U /* O_LARGEFILE, which the C library has as 0 */

struct seen_pipe {
	uint64_t ino;
	dev_t dev;
	bool reads, writes;    /* ends in the tree */
	bool others;	       /* the end that is not in the tree is held by someone */
	char target[64];
	pid_t pid;
	int fd;
};

struct state {
	VEC(struct seen_pipe) pipes;
	struct image_file *data;
};

extern const struct kind kind_pipe, kind_fifo;

static struct state *state_of(struct dump *d, const struct kind *kind)
{
	void **at = kind_state(d, kind);

	if (!*at)
		*at = calloc(1, sizeof(struct state));
	return *at;
}

/*
 * Whether the last of the messages, of `size` bytes, is a packet: what a reader leaves of that is dropped. Of one byte nothing can be
 * left, so that it makes no difference.
 */
static int ends_with_packet(int from, const int copy[2], const uint32_t *packets, size_t n_packets, char *buffer, bool *ret)
{
	char left;

	*ret = false;
	if (!n_packets || packets[n_packets - 1] < 2)
		return 0;
	if (tee(from, copy[1], INT32_MAX, SPLICE_F_NONBLOCK) < 0)
		return -errno;
	for (size_t i = 0; i < n_packets; i++) {
		size_t size = packets[i] - (i == n_packets - 1);
		if (read(copy[0], buffer, size) != (ssize_t)size)
			return -EIO;
	}
	*ret = read(copy[0], &left, 1) < 0;
	return 0;
}

/* The bytes in a pipe, left in it. *ret_packets: how many packets they begin with; bytes may follow that are none. */
static int peek_pipe(int fd, int size, char *buffer, uint32_t *ret_bytes, uint32_t *packets, size_t *ret_packets)
{
	char path[64];
	int copy[2];
	ssize_t n;

	*ret_bytes = 0;
	*ret_packets = 0;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	_cleanup_close_ int from = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (from < 0 || pipe2(copy, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	int r = fcntl(copy[1], F_SETPIPE_SZ, size) < 0 && fcntl(copy[1], F_GETPIPE_SZ) < size ? -errno : 0;
	if (!r && tee(from, copy[1], INT32_MAX, SPLICE_F_NONBLOCK) < 0 && errno != EAGAIN)
		r = -errno;
	while (!r && *ret_packets < PACKETS_MAX && (n = read(copy[0], buffer + *ret_bytes, (size_t)size - *ret_bytes)) > 0) {
		packets[(*ret_packets)++] = (uint32_t)n;
		*ret_bytes += (uint32_t)n;
		if (*ret_bytes == (uint32_t)size)
			break;
	}
	bool packet = false;
	_cleanup_free_ char *again = r ? NULL : malloc((size_t)size);
	if (!r)
		r = again ? ends_with_packet(from, copy, packets, *ret_packets, again, &packet) : -ENOMEM;
	if (*ret_packets && !packet)
		--*ret_packets;
	close(copy[0]);
	close(copy[1]);
	return r;
}

static int write_data(struct dump *d, struct descriptor *f, struct state *s, const char *image, uint32_t magic)
{
	PipeDataEntry entry = PIPE_DATA_ENTRY__INIT;
	int size = fcntl(f->own_fd, F_GETPIPE_SZ);
	_cleanup_free_ char *buffer = malloc(size > 0 ? (size_t)size : 1);
	_cleanup_free_ uint32_t *packets = calloc(PACKETS_MAX, sizeof(*packets));

	if (size < 0 || !buffer || !packets)
		return fd_errno(d, f, size < 0 ? -errno : -ENOMEM, "can't be examined");
	entry.pipe_id = (uint32_t)f->st.st_ino;
	int r = peek_pipe(f->own_fd, size, buffer, &entry.bytes, packets, &entry.n_packets);
	if (r)
		return fd_errno(d, f, r, "can't be read");
	entry.packets = packets;
	entry.has_size = 1;
	entry.size = (uint32_t)size;
	if (!s->data)
		r = image_create(d->dir, image, magic, &s->data);
	if (!r)
		r = image_write_message(s->data, &entry.base);
	if (!r)
		r = image_write_bytes(s->data, buffer, entry.bytes);
	return r ? error_errno(d->e, r, "cannot write %s", image) : 0;
}

/* Notes the end; gives the pipe's record. The content is saved with the first one. */
static int note(struct dump *d, struct descriptor *f, const struct kind *kind, const char *image, uint32_t magic)
{
	struct state *s = state_of(d, kind);
	struct seen_pipe *p = NULL;
	int mode = (int)f->flags & O_ACCMODE, r;
	struct pollfd poll_fd = { .fd = f->own_fd, .events = mode == O_WRONLY ? POLLOUT : POLLIN };

	if (!s)
		return error_set(d->e, -ENOMEM, "out of memory");
	VEC_FOREACH(&s->pipes, x)
		if (x->ino == f->st.st_ino && x->dev == f->st.st_dev)
			p = x;
	if (!p) {
		p = VEC_PUSH(&s->pipes);
		if (!p)
			return error_set(d->e, -ENOMEM, "out of memory");
		*p = (struct seen_pipe){ .ino = f->st.st_ino, .dev = f->st.st_dev, .pid = f->task->pid, .fd = f->fd };
		snprintf(p->target, sizeof(p->target), "%.60s", f->target);
		if (mode != O_RDWR && poll(&poll_fd, 1, 0) >= 0)
			p->others = !(poll_fd.revents & (mode == O_WRONLY ? POLLERR : POLLHUP));
		if ((r = write_data(d, f, s, image, magic)))
			return r;
	}
	p->reads |= mode != O_WRONLY;
	p->writes |= mode != O_RDONLY;
	return 0;
}

static bool recognise_pipe(const struct descriptor *f)
{
	return S_ISFIFO(f->st.st_mode) && !strncmp(f->target, "pipe:[", 6);
}

static int capture_pipe(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	PipeEntry e = PIPE_ENTRY__INIT;
	int r = note(d, f, &kind_pipe, "pipes-data.img", IMAGE_MAGIC_PIPES_DATA);

	if (r)
		return r;
	e.id = f->id;
	e.pipe_id = (uint32_t)f->st.st_ino;
	e.flags = f->flags;
	e.fown = f->fown;
	entry.pipe = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__PIPE);
}

static bool recognise_fifo(const struct descriptor *f)
{
	return S_ISFIFO(f->st.st_mode) && f->target[0] == '/' && !(f->flags & O_PATH);
}

static int capture_fifo(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	FifoEntry e = FIFO_ENTRY__INIT;
	int r = note(d, f, &kind_fifo, "fifo-data.img", IMAGE_MAGIC_FIFO_DATA);

	if (r)
		return r;
	e.id = f->id;
	e.pipe_id = (uint32_t)f->st.st_ino;
	e.has_regf_id = 1;
	e.regf_id = f->id = ++d->next_file_id;
	r = regfile_capture(d, f);
	f->id = e.id;
	if (r)
		return r;
	entry.fifo = &e;
	return file_entry_write(d, &entry, f, FD_TYPES__FIFO);
}

/* The tree has one end, someone outside the other. */
static int finish_outside(struct dump *d, struct state *s, const struct seen_pipe *p)
{
	PipeDataEntry entry = PIPE_DATA_ENTRY__INIT;
	bool fifo = strncmp(p->target, "pipe:", 5);

	if (!fifo && !d->request->pipes_outside && !external_is(d->request, "pipe", p->ino))
		return dump_part(d, error_set(d->e, -ENOTSUP,
				 "process %d: descriptor %d (%s) is a pipe whose other end is held by a process outside the tree; "
				 "redirect it to a file, dump a parent that holds both, or use --external 'pipe[%llu]' and give restore another",
				 p->pid, p->fd, p->target, (unsigned long long)p->ino));
	entry.pipe_id = (uint32_t)p->ino;
	entry.has_external = entry.external = 1;
	int r = image_write_message(s->data, &entry.base);
	return r ? error_errno(d->e, r, "cannot write the content of pipes") : 0;
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;
	int r = 0;

	if (!s)
		return 0;
	VEC_FOREACH(&s->pipes, p)
		if (success && !r && p->others && p->reads != p->writes)
			r = finish_outside(d, s, p);
	if (s->data) {
		int closed = image_close(s->data);
		if (!r && closed)
			r = error_errno(d->e, closed, "cannot write the content of pipes");
	}
	VEC_FREE(&s->pipes);
	free(s);
	*at = NULL;
	return r;
}

/* ---- restore ---- */

struct pipe_content {
	PipeDataEntry *entry;
	char *bytes;
};

struct made_pipe {
	uint32_t id;
	bool fifo;
	int end[2];	 /* held until all is made; -1: the caller's takes their place */
	bool used[2]; /* an end that a description has taken as its own */
	int given;	 /* the caller's, or -1 */
};

struct pipes {
	bool loaded[2];
	VEC(struct pipe_content) content[2]; /* of pipes, of FIFOs */
	VEC(struct made_pipe) made;
};

static int load_content(struct restore *s, bool fifo)
{
	const char *name = fifo ? "fifo-data.img" : "pipes-data.img";
	struct image_file *file;
	PipeDataEntry *entry;

	if (!s->pipes && !(s->pipes = calloc(1, sizeof(*s->pipes))))
		return error_set(s->e, -ENOMEM, "out of memory");
	if (s->pipes->loaded[fifo])
		return 0;
	s->pipes->loaded[fifo] = true;
	int r = image_open(s->dir, name, fifo ? IMAGE_MAGIC_FIFO_DATA : IMAGE_MAGIC_PIPES_DATA, &file);
	if (r)
		return r == -ENOENT ? 0 : error_errno(s->e, r, "cannot read %s", name);
	while (!r && (r = image_read_message(file, &pipe_data_entry__descriptor, (ProtobufCMessage **)&entry)) == 1) {
		struct pipe_content *c = VEC_PUSH(&s->pipes->content[fifo]);
		if (!c || entry->bytes > PIPE_SIZE_MAX) {
			pipe_data_entry__free_unpacked(entry, NULL);
			r = c ? -EBADMSG : -ENOMEM;
			break;
		}
		c->entry = entry;
		c->bytes = malloc(entry->bytes + 1UL);
		r = c->bytes ? image_read_bytes(file, c->bytes, entry->bytes) : -ENOMEM;
	}
	image_close(file);
	return r ? error_errno(s->e, r, "cannot read %s", name) : 0;
}

static int fill(int fd, const struct pipe_content *c)
{
	const PipeDataEntry *e = c->entry;
	uint32_t at = 0;

	if (e->has_size && e->size && e->size <= PIPE_SIZE_MAX && fcntl(fd, F_SETPIPE_SZ, (int)e->size) < 0)
		return -errno;
	int flags = fcntl(fd, F_GETFL);
	if (fcntl(fd, F_SETFL, O_NONBLOCK | (e->n_packets ? O_DIRECT : 0)) < 0)
		return -errno;
	for (size_t i = 0; i < e->n_packets; i++) {
		if (e->packets[i] > e->bytes - at)
			return -EBADMSG;
		if (write(fd, c->bytes + at, e->packets[i]) != (ssize_t)e->packets[i])
			return -errno;
		at += e->packets[i];
	}
	if (e->n_packets && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	if (at < e->bytes && write(fd, c->bytes + at, e->bytes - at) != (ssize_t)(e->bytes - at))
		return -errno;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

/* It must be one: what was in it is written there. */
static int open_fifo(struct restore *s, struct file *f, int flags)
{
	struct stat st;
	int fd = regfile_open(s, f, flags);

	if (fd < 0 || (fstat(fd, &st) == 0 && S_ISFIFO(st.st_mode)))
		return fd;
	close(fd);
	return error_set(s->e, -ESTALE, "%s is no FIFO any more", f->entry->reg->name);
}

static bool is_outside(struct restore *s, uint32_t id, bool fifo)
{
	VEC_FOREACH(&s->pipes->content[fifo], c)
		if (c->entry->pipe_id == id && c->entry->external)
			return true;
	return false;
}

/* Whether some description of the tree reads from it. */
static bool is_read(struct restore *s, uint32_t id, bool fifo)
{
	VEC_FOREACH(&s->files, f) {
		const PipeEntry *p = f->entry->pipe;
		const FifoEntry *e = f->entry->fifo;
		struct file *reg = e && e->has_regf_id ? file_find(s, e->regf_id) : NULL;
		if (!fifo && p && p->pipe_id == id && (p->flags & (uint32_t)O_ACCMODE) != O_WRONLY)
			return true;
		if (fifo && e && e->pipe_id == id && reg && reg->entry->reg && (reg->entry->reg->flags & (uint32_t)O_ACCMODE) != O_WRONLY)
			return true;
	}
	return false;
}

/*
 * What was in it goes in again, through an end that can be written to; not what is there already, in a FIFO or pipe that someone
 * outside has kept open, and not what someone outside was to read.
 */
static int fill_again(struct restore *s, uint32_t id, bool fifo, int fd, bool outside)
{
	int waiting = 0, r = 0;

	if (outside && (!is_read(s, id, fifo) || (ioctl(fd, FIONREAD, &waiting) == 0 && waiting)))
		return 0;
	VEC_FOREACH(&s->pipes->content[fifo], c)
		if (!r && c->entry->pipe_id == id && !c->entry->external)
			r = fill(fd, c);
	return r;
}

/* The caller's, in place of the one that had an end outside. */
static int take_given(struct restore *s, uint32_t id, int given)
{
	struct stat st;
	char path[64];
	bool content = false;
	int waiting = 0;

	if (fstat(given, &st) < 0)
		return error_errno(s->e, -errno, "cannot examine descriptor %d, given for pipe %u", given, id);
	if (S_ISFIFO(st.st_mode) && (uint32_t)st.st_ino == id) /* the same one, kept open, with all that is in it */
		return 0;
	VEC_FOREACH(&s->pipes->content[0], c)
		content |= c->entry->pipe_id == id && c->entry->bytes;
	if (!content || !is_read(s, id, false))
		return 0;
	if (!S_ISFIFO(st.st_mode))
		return error_set(s->e, -ENOTSUP, "pipe %u has data that the tree has not read, and descriptor %d, given for it, is no pipe; give one", id, given);
	if (ioctl(given, FIONREAD, &waiting) == 0 && waiting)
		return error_set(s->e, -EBUSY, "pipe %u has data that the tree has not read, and the one given for it (descriptor %d) has others already; give an empty one",
				 id, given);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", given);
	_cleanup_close_ int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int r = fd < 0 ? -errno : fill_again(s, id, false, fd, false);
	return r ? error_errno(s->e, r, "cannot put what was unread into descriptor %d, given for pipe %u", given, id) : 0;
}

static int add_given(struct restore *s, uint32_t id, int given, struct made_pipe **ret)
{
	int r = take_given(s, id, given);
	struct made_pipe *p = r ? NULL : VEC_PUSH(&s->pipes->made);

	if (!p)
		return r ? r : error_set(s->e, -ENOMEM, "out of memory");
	*p = (struct made_pipe){ .id = id, .end = { -1, -1 }, .given = given };
	*ret = p;
	return 0;
}

/* The pipe with that id, made and filled when it is first asked for. `fifo`: its file. */
static int find_pipe(struct restore *s, uint32_t id, struct file *fifo, struct made_pipe **ret)
{
	int r = load_content(s, fifo), end[2] = { -1, -1 }, given = fifo ? -1 : external_given(s->request, "pipe", id);

	if (r)
		return r;
	VEC_FOREACH(&s->pipes->made, p)
		if (p->id == id && p->fifo == !!fifo) {
			*ret = p;
			return 0;
		}
	if (given >= 0)
		return add_given(s, id, given, ret);
	if (!fifo && is_outside(s, id, false))
		return error_set(s->e, -ENOTCONN, "pipe %u had its other end outside the tree; give the tree another with --inherit-fd 'fd[N]:pipe[%u]'", id, id);
	if (fifo) { /* both ways, which never blocks */
		for (int i = 0; i < 2; i++)
			if ((end[i] = open_fifo(s, fifo, O_RDWR | O_NONBLOCK)) < 0) {
				if (i)
					close(end[0]);
				return end[i];
			}
	} else {
		r = pipe2(end, O_CLOEXEC) < 0 ? -errno : 0;
	}
	if (!r)
		r = fill_again(s, id, fifo, end[1], fifo && is_outside(s, id, true));
	for (int i = 0; !r && i < 2; i++)
		if ((end[i] = restore_hold(s, end[i])) < 0)
			r = end[i];
	struct made_pipe *p = r ? NULL : VEC_PUSH(&s->pipes->made);
	for (int i = 0; !p && i < 2; i++)
		if (end[i] >= 0)
			close(end[i]);
	if (!p)
		return error_errno(s->e, r ? r : -ENOMEM, "cannot make %s again", fifo ? fifo->entry->reg->name : "a pipe");
	*p = (struct made_pipe){ .id = id, .fifo = fifo, .end = { end[0], end[1] }, .given = -1 };
	*ret = p;
	return 0;
}

static int reopen(struct restore *s, int from, uint32_t flags, int *ret_fd)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", from);
	int fd = open(path, (int)(flags & (uint32_t)O_ACCMODE) | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot open the end of a pipe");
	*ret_fd = fd;
	return 0;
}

static int set_flags(struct restore *s, int fd, uint32_t flags)
{
	if (fcntl(fd, F_SETFL, (int)flags & (O_NONBLOCK | O_DIRECT | O_APPEND)) == 0)
		return 0;
	return error_errno(s->e, -errno, "cannot set the flags of a pipe");
}

static int create_pipe(struct restore *s, struct file *f, int *ret_fd)
{
	const PipeEntry *e = f->entry->pipe;
	struct made_pipe *p;

	if (!e)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	int r = find_pipe(s, e->pipe_id, NULL, &p), end = (e->flags & (uint32_t)O_ACCMODE) == O_WRONLY;
	if (r)
		return r;
	if (p->given >= 0) {
		char what[32];
		snprintf(what, sizeof(what), "pipe %u", e->pipe_id);
		*ret_fd = external_open(s, p->given, (int)e->flags, what);
		return *ret_fd < 0 ? *ret_fd : set_flags(s, *ret_fd, e->flags);
	}
	/* An end that was opened again through /proc shows it by O_LARGEFILE. */
	if ((e->flags & (uint32_t)O_ACCMODE) == O_RDWR || e->flags & KERNEL_LARGEFILE || p->used[end]) {
		r = reopen(s, p->end[end], e->flags, ret_fd);
	} else {
		p->used[end] = true;
		*ret_fd = fcntl(p->end[end], F_DUPFD_CLOEXEC, s->fd_base);
		r = *ret_fd < 0 ? error_errno(s->e, -errno, "cannot hold the end of a pipe") : 0;
	}
	return r ? r : set_flags(s, *ret_fd, e->flags);
}

static int create_fifo(struct restore *s, struct file *f, int *ret_fd)
{
	const FifoEntry *e = f->entry->fifo;
	struct file *reg = e && e->has_regf_id ? file_find(s, e->regf_id) : NULL;
	struct made_pipe *p;

	if (!reg || !reg->entry->reg)
		return error_set(s->e, -EBADMSG, "FIFO %u has no file", f->id);
	const RegFileEntry *r_entry = reg->entry->reg;
	int r = find_pipe(s, e->pipe_id, reg, &p);
	int fd = r ? r : open_fifo(s, reg, (int)(r_entry->flags & (uint32_t)O_ACCMODE) | O_NONBLOCK);
	if (fd < 0)
		return fd;
	*ret_fd = fd;
	return set_flags(s, fd, r_entry->flags);
}

/* Once, with the first file of either kind. */
static void release(struct restore *s, struct file *f)
{
	struct pipes *p = s->pipes;

	if (!p)
		return;
	for (int i = 0; i < 2; i++) {
		VEC_FOREACH(&p->content[i], c) {
			pipe_data_entry__free_unpacked(c->entry, NULL);
			free(c->bytes);
		}
		VEC_FREE(&p->content[i]);
	}
	VEC_FOREACH(&p->made, m) {
		for (int i = 0; i < 2 && m->end[i] >= 0; i++)
			close(m->end[i]);
	}
	VEC_FREE(&p->made);
	free(p);
	s->pipes = NULL;
}

const struct kind kind_pipe = {
	.name = "a pipe",
	.summary = "Pipes: content, size, packet mode, ends that were closed; an end outside the tree with --external and --inherit-fd",
	.type = FD_TYPES__PIPE,
	.recognise = recognise_pipe,
	.capture = capture_pipe,
	.finish = finish,
	.create = create_pipe,
	.release = release,
};

const struct kind kind_fifo = {
	.name = "a FIFO",
	.summary = "FIFOs (named pipes), deleted ones too: content, size, packets",
	.type = FD_TYPES__FIFO,
	.recognise = recognise_fifo,
	.capture = capture_fifo,
	.finish = finish,
	.create = create_fifo,
	.release = release,
};
