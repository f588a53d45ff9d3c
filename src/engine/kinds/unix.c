/*
 * Unix sockets, dump: names, peers, what is queued with its descriptors and credentials, listeners with those who wait.
 *
 * Both ends of a connection must be in the tree, or the user says that one is outside and gives another at the restore: a connection
 * can't be made again from one side. A datagram socket may have a peer outside that has a name, which is connected to again.
 *
 * Connections that a listener has not accepted are made again, and what was sent through them is sent again, where the kernel lets it be
 * looked at (unix_waiting.h).
 */
#include "engine/kinds/unix.h"

#include "engine/kinds/external.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/unix_diag.h"
#include "engine/kinds/unix_waiting.h"
#include "engine/path.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/un.h>

struct seen {
	uint32_t ino, peer, type, state;
	bool has_peer, named_peer;
	uint32_t *waiting; /* the diag's */
	size_t n_waiting;
	int unread; /* sent by it and not received yet */
	bool looked; /* a listener's connections were looked at */
	pid_t pid;
	int fd;
};

/* A socket whose queue is still to be looked at: it was found in that of another, and may lead to more, to any depth. */
struct waiting_queue {
	struct task *task;
	int own_fd;
	uint32_t id;
};

struct state {
	struct unix_diags diags;
	VEC(struct seen) seen;
	VEC(struct waiting_queue) later;
	bool looking;
};

static bool recognise(const struct descriptor *f)
{
	return sock_is(f, AF_UNIX);
}

static struct state *state_of(struct dump *d, struct descriptor *f)
{
	void **at = kind_state(d, &kind_unix);

	if (*at)
		return *at;
	struct state *s = calloc(1, sizeof(*s));
	int r = s ? unix_diag_read(&s->diags) : -ENOMEM;
	*at = s;
	if (r) {
		fd_errno(d, f, r, "can't be looked up (the kernel lacks CONFIG_UNIX_DIAG?)");
		return NULL;
	}
	return s;
}

/* The name without its family, as it was given to bind(2). */
static int take_name(struct pool *pool, int fd, int (*get)(int, struct sockaddr *, socklen_t *), ProtobufCBinaryData *ret)
{
	struct sockaddr_un address = {};
	socklen_t size = sizeof(address);

	if (get(fd, (struct sockaddr *)&address, &size) < 0)
		return -errno;
	if (size <= offsetof(struct sockaddr_un, sun_path))
		return 0;
	size = MIN(size, (socklen_t)sizeof(address));
	ret->len = size - offsetof(struct sockaddr_un, sun_path);
	ret->data = pool_copy(pool, address.sun_path, ret->len);
	return ret->data ? 0 : -ENOMEM;
}

static int own_name(int fd, struct sockaddr *to, socklen_t *size)
{
	return getsockname(fd, to, size);
}

static int peer_name(int fd, struct sockaddr *to, socklen_t *size)
{
	return getpeername(fd, to, size);
}

/* Where a relative name starts from, when it leads to `real` in the plain way. */
static bool ends_in(const char *real, const char *name, size_t length)
{
	size_t size = strlen(real);

	return name[0] != '/' && length && size > length && real[size - length - 1] == '/' && !memcmp(real + size - length, name, length) &&
	       !memmem(name, length, "./", 2);
}

/* Where the name's file is, and whether it is still there. A name may have led there from another directory or root, through links, or be
 * an old one; then its file's place is kept beside it. */
static int take_path(struct dump *d, struct descriptor *f, struct pool *pool, UnixSkEntry *e, FilePermsEntry *perms)
{
	char link[64], real[PATH_MAX + 16];
	_cleanup_close_ int path = ioctl(f->own_fd, SIOCUNIXFILE);
	struct stat st, there;

	e->deleted = e->has_deleted = 1;
	if (path < 0) /* the name came with a connection: no file of its own */
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", path);
	ssize_t n = readlink(link, real, sizeof(real) - 1);
	if (n < 0 || fstat(path, &st) < 0)
		return fd_errno(d, f, -errno, "has a name that can't be looked up");
	real[n] = '\0';
	if (!st.st_nlink || (e->state == UNIX_ESTABLISHED && e->type != SOCK_DGRAM))
		return 0;
	if (path_stat(d->root_fd, real, &there) || there.st_ino != st.st_ino || there.st_dev != st.st_dev)
		return fd_error(d, f, -ENOTSUP, "is bound to a name that can't be found any more (%s): it was deleted and has others, or a mount hides it", real);
	e->deleted = 0;
	perms->mode = st.st_mode;
	perms->uid = st.st_uid;
	perms->gid = st.st_gid;
	e->file_perms = perms;
	const char *name = (const char *)e->name.data;
	size_t length = strnlen(name, e->name.len);
	if (length == (size_t)n && !memcmp(name, real, length))
		return 0;
	if (!ends_in(real, name, length)) {
		e->path = pool_copy(pool, real, (size_t)n + 1);
		return e->path ? 0 : error_set(d->e, -ENOMEM, "out of memory");
	}
	real[(size_t)n - length - 1] = '\0';
	e->name_dir = pool_copy(pool, real[0] ? real : "/", strlen(real) + 2);
	return e->name_dir ? 0 : error_set(d->e, -ENOMEM, "out of memory");
}

static int take_credentials(int fd, struct pool *pool, UnixSkEntry *e)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || peer.uid == (uid_t)-1)
		return 0;
	e->has_peer_pid = e->has_peer_uid = e->has_peer_gid = 1;
	e->peer_pid = (uint32_t)peer.pid;
	e->peer_uid = peer.uid;
	e->peer_gid = peer.gid;
	size = 0;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) == 0 || errno != ERANGE)
		return 0;
	e->peer_groups = pool_take(pool, size);
	if (!e->peer_groups)
		return -ENOMEM;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, e->peer_groups, &size) < 0)
		return -errno;
	e->n_peer_groups = size / sizeof(*e->peer_groups);
	return 0;
}

/* ---- what is queued ---- */

static int write_packet(struct dump *d, struct descriptor *f, struct state *s, struct pool *pool, struct sock_packet *p)
{
	ScmEntry scm = SCM_ENTRY__INIT, *list = &scm;
	int r = 0;

	scm.type = SCM_RIGHTS;
	scm.rights = pool_take(pool, (p->n_fds + 1) * sizeof(*scm.rights));
	if (!scm.rights)
		return error_set(d->e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < p->n_fds; i++)
		r = files_capture_flying(d, f->task, p->fds[i], &scm.rights[scm.n_rights++]);
	if (r)
		return r;
	p->entry.id_for = f->id;
	p->entry.scm = &list;
	p->entry.n_scm = p->n_fds != 0;
	return sock_packet_write(d, p);
}

static int capture_queue(struct dump *d, struct descriptor *f, struct state *s, struct pool *pool)
{
	struct sock_packets packets = {};
	struct sock_borders borders = {};
	const bool known = unix_borders_read(d, f->own_fd, &borders) == 0;
	int r = sock_peek(f->own_fd, known ? &borders : NULL, &packets);
	VEC_FREE(&borders.places);

	if (r == -EDOM)
		r = fd_error(d, f, -ENOTSUP, "has urgent data (MSG_OOB) that was not read, which is not saved; try again");
	else if (r)
		r = fd_errno(d, f, r, "does not show what is queued in it");
	VEC_FOREACH(&packets.list, p)
		r = r ? r : write_packet(d, f, s, pool, p);
	sock_packets_free(&packets);
	return r;
}

static int look_later(struct dump *d, struct descriptor *f, struct state *s)
{
	struct waiting_queue *q = VEC_PUSH(&s->later);

	if (!q)
		return error_set(d->e, -ENOMEM, "out of memory");
	*q = (struct waiting_queue){ f->task, fcntl(f->own_fd, F_DUPFD_CLOEXEC, 0), f->id };
	return q->own_fd < 0 ? fd_errno(d, f, -errno, "can't be held") : 0;
}

static int capture_queues(struct dump *d, struct descriptor *f, struct state *s, struct pool *pool)
{
	struct descriptor *other = s->looking ? NULL : calloc(1, sizeof(*other));

	if (s->looking)
		return look_later(d, f, s);
	s->looking = true;
	int r = other ? capture_queue(d, f, s, pool) : error_set(d->e, -ENOMEM, "out of memory");
	while (!r && s->later.count) {
		struct waiting_queue q = s->later.data[--s->later.count];
		*other = (struct descriptor){ .task = q.task, .fd = -1, .own_fd = q.own_fd, .id = q.id, .target = "socket under way in another" };
		r = capture_queue(d, other, s, pool);
		close(q.own_fd);
	}
	s->looking = false;
	free(other);
	return r;
}

/* ---- the socket ---- */

static int note(struct dump *d, struct descriptor *f, struct state *s, const struct unix_diag *diag, const UnixSkEntry *e)
{
	struct seen *x = VEC_PUSH(&s->seen);
	int unread = 0;

	if (!x)
		return error_set(d->e, -ENOMEM, "out of memory");
	ioctl(f->own_fd, SIOCOUTQ, &unread);
	*x = (struct seen){ diag->ino, e->peer, diag->type, diag->state, diag->has_peer, e->has_peer_name, diag->waiting, diag->n_waiting,
			    unread, false, f->task->pid, f->fd };
	return 0;
}

/* Whether a datagram peer outside is found by its name again: one in the file system may be another's by now, or start from elsewhere. */
static bool is_reachable(const struct state *s, const struct unix_diag *diag, const ProtobufCBinaryData *name)
{
	const struct unix_diag *peer = unix_diag_find(&s->diags, diag->peer);
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1] = "";
	struct stat st;

	if (!name->len || diag->type != SOCK_DGRAM)
		return false;
	if (!name->data[0] || !peer)
		return true;
	memcpy(path, name->data, MIN(name->len, sizeof(path) - 1));
	return path[0] == '/' && stat(path, &st) == 0 && S_ISSOCK(st.st_mode) && (uint32_t)st.st_ino == peer->file;
}

static int describe(struct dump *d, struct descriptor *f, struct state *s, const struct unix_diag *diag, struct pool *pool, UnixSkEntry *e,
		    FilePermsEntry *perms)
{
	static uint8_t nothing[1];

	e->id = f->id;
	e->ino = diag->ino;
	e->type = diag->type;
	e->state = diag->state;
	e->flags = f->flags;
	e->backlog = diag->backlog;
	e->fown = f->fown;
	e->name.data = nothing;
	e->peer = diag->pending_on ? diag->pending_on : diag->peer;
	e->has_peer_gone = e->peer_gone = diag->has_peer && !e->peer;
	e->has_shutdown = diag->shutdown != 0;
	e->shutdown = (SkShutdown)diag->shutdown;
	e->pending = diag->waiting;
	e->n_pending = diag->n_waiting;
	int r = take_credentials(f->own_fd, pool, e);
	if (!r)
		r = take_name(pool, f->own_fd, own_name, &e->name);
	if (!r && diag->has_peer) {
		int named = take_name(pool, f->own_fd, peer_name, &e->peer_name);
		e->has_peer_name = !named && e->peer_name.len && (!e->peer || is_reachable(s, diag, &e->peer_name));
	}
	if (r)
		return fd_errno(d, f, r, "does not tell its name");
	if (e->name.len && e->name.data[0] && (r = take_path(d, f, pool, e, perms)))
		return r;
	r = sock_capture_options(d, f, pool, e->opts);
	return r ? r : note(d, f, s, diag, e);
}

/* Where it can't be done check_waiting refuses, once it is known which clients are in the tree. */
static int look_at_waiting(struct dump *d, struct descriptor *f, struct state *s, const struct unix_diag *diag, struct pool *pool, UnixSkEntry *e)
{
	struct sock_packets packets = {};
	int r = 0;

	if (diag->state != UNIX_LISTEN || !diag->n_waiting)
		return 0;
	if (unix_waiting_read(f->own_fd, diag, &s->diags, pool, &packets, e) == 0) {
		s->seen.data[s->seen.count - 1].looked = true;
		VEC_FOREACH(&packets.list, p) {
			p->entry.id_for = f->id;
			r = r ? r : sock_packet_write(d, p);
		}
	} else {
		e->n_gone = 0;
	}
	sock_packets_free(&packets);
	return r;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	UnixSkEntry e = UNIX_SK_ENTRY__INIT;
	SkOptsEntry options = SK_OPTS_ENTRY__INIT;
	FilePermsEntry perms = FILE_PERMS_ENTRY__INIT;
	struct state *s = state_of(d, f);
	struct pool pool = {};

	if (!s)
		return d->e->code;
	const struct unix_diag *diag = unix_diag_find(&s->diags, (uint32_t)f->st.st_ino);
	if (!diag)
		return fd_error(d, f, -ENOTSUP, "is of another network namespace, which is not saved yet");
	e.opts = &options;
	int r = describe(d, f, s, diag, &pool, &e, &perms);
	if (!r)
		r = look_at_waiting(d, f, s, diag, &pool, &e);
	entry.usk = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__UNIXSK);
	if (!r && diag->state != UNIX_LISTEN)
		r = capture_queues(d, f, s, &pool);
	pool_free(&pool);
	return r;
}

static const struct seen *find_seen(const struct state *s, uint32_t ino)
{
	VEC_FOREACH(&s->seen, x)
		if (x->ino == ino)
			return x;
	return NULL;
}

static int check_waiting(struct dump *d, const struct state *s, const struct seen *listener)
{
	for (size_t i = 0; i < listener->n_waiting; i++) {
		uint32_t ino = listener->waiting[i];
		const struct seen *client = find_seen(s, ino);
		if (!ino && !listener->looked)
			return error_set(d->e, -ENOTSUP, "process %d: descriptor %d is a listening unix socket with a connection not accepted yet, made by a client "
					 "that has gone already, so that what it sent can't be known (it takes BTF, BPF and CAP_BPF); try again once it is accepted", listener->pid, listener->fd);
		if (ino && !client && !d->request->skip_in_flight && !external_is(d->request, "unix", ino) && !external_is(d->request, "unix", listener->ino))
			return error_set(d->e, -ENOTSUP, "process %d: descriptor %d is a listening unix socket with a connection not accepted yet, "
					 "made by a client outside the tree; try again once it is accepted, or drop it with --skip-in-flight",
					 listener->pid, listener->fd);
		if (client && client->unread && !listener->looked)
			return error_set(d->e, -ENOTSUP, "process %d: descriptor %d is a listening unix socket with a connection not accepted yet, "
					 "with data already sent that can't be looked at (it takes BTF, BPF and CAP_BPF; descriptors can't be); try again once it is accepted",
					 listener->pid, listener->fd);
	}
	return 0;
}

static int check_peer(struct dump *d, const struct state *s, const struct seen *x)
{
	bool named = external_is(d->request, "unix", x->ino) || (x->peer && external_is(d->request, "unix", x->peer));

	if (!x->has_peer || !x->peer || find_seen(s, x->peer) || x->named_peer || named || (d->request->ext_unix_sk && x->type == SOCK_DGRAM))
		return 0;
	return error_set(d->e, -ENOTSUP, "process %d: descriptor %d is a unix socket (inode %u) connected to one outside the tree (inode %u), which can't be "
			 "connected to again from one side; dump a parent of both, or use --external 'unix[%u]' and give restore another",
			 x->pid, x->fd, x->ino, x->peer, x->ino);
}

/* Once all are known: whether those that they refer to are among them. */
static int check(struct dump *d, const struct state *s)
{
	int r = 0;

	VEC_FOREACH(&s->seen, x) {
		if (!r)
			r = dump_part(d, check_peer(d, s, x));
		if (!r)
			r = dump_part(d, check_waiting(d, s, x));
	}
	return r;
}

static int finish(struct dump *d, void **at, bool success)
{
	struct state *s = *at;

	if (!s)
		return 0;
	int r = success ? check(d, s) : 0;
	unix_diag_free(&s->diags);
	VEC_FOREACH(&s->later, q)
		close(q->own_fd);
	VEC_FREE(&s->later);
	VEC_FREE(&s->seen);
	free(s);
	*at = NULL;
	return r;
}

const struct kind kind_unix = {
	.name = "a unix socket",
	.summary = "Unix sockets: stream, datagram, seqpacket; pairs, connected, listening (also with connections that were not accepted and what they have sent), with what is queued, descriptors and "
		   "credentials too; a peer outside the tree by its name (datagrams), or with --external and --inherit-fd; the pidfd that "
		   "SO_PEERPIDFD gives of an old connection is of a process that has ended",
	.type = FD_TYPES__UNIXSK,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = unix_create,
	.fill = unix_fill,
	.settle = unix_settle,
	.release = unix_release,
};
