/*
 * Unix sockets, dump: names, peers, what is queued with its descriptors and credentials, listeners with those who wait.
 *
 * Both ends of a connection must be in the tree; a datagram socket may have a peer outside that has a name. Data that was sent
 * to a listener which has not accepted yet can't be seen from outside, so it is refused.
 */
#include "engine/kinds/unix.h"

#include "engine/kinds/sock.h"
#include "engine/kinds/unix_diag.h"
#include "engine/task/task.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/un.h>

struct seen {
	uint32_t ino, peer, type, state;
	bool has_peer, named_peer;
	uint32_t *waiting; /* the diag's */
	size_t n_waiting;
	int unread; /* sent by it and not received yet */
	pid_t pid;
	int fd;
};

struct state {
	struct unix_diags diags;
	VEC(struct seen) seen;
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

/* Where the name's file is: the directory that a relative name starts from, and whether it is still there. */
static int take_path(struct dump *d, struct descriptor *f, struct pool *pool, UnixSkEntry *e, FilePermsEntry *perms)
{
	char link[64], real[PATH_MAX + 16];
	_cleanup_close_ int path = ioctl(f->own_fd, SIOCUNIXFILE);
	struct stat st;

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
	e->deleted = 0;
	perms->mode = st.st_mode;
	perms->uid = st.st_uid;
	perms->gid = st.st_gid;
	e->file_perms = perms;
	const char *name = (const char *)e->name.data;
	size_t length = strnlen(name, e->name.len);
	if (name[0] == '/')
		return 0;
	if ((size_t)n <= length || real[n - (ssize_t)length - 1] != '/' || memcmp(real + n - length, name, length))
		return fd_error(d, f, -ENOTSUP, "is bound to the relative name %.*s, which stands for %s: use an absolute one", (int)length, name, real);
	real[(size_t)n - length - 1] = '\0';
	e->name_dir = pool_copy(pool, real[0] ? real : "/", strlen(real) + 2);
	return 0;
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
	int r = sock_peek(f->own_fd, &packets);

	if (r)
		r = fd_errno(d, f, r, "does not show what is queued in it");
	VEC_FOREACH(&packets.list, p)
		r = r ? r : write_packet(d, f, s, pool, p);
	sock_packets_free(&packets);
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
	*x = (struct seen){ diag->ino, diag->peer, diag->type, diag->state, diag->has_peer, e->has_peer_name, diag->waiting, diag->n_waiting,
			    unread, f->task->pid, f->fd };
	return 0;
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
		e->has_peer_name = !named && e->peer_name.len;
	}
	if (r)
		return fd_errno(d, f, r, "does not tell its name");
	if (e->name.len && e->name.data[0] && (r = take_path(d, f, pool, e, perms)))
		return r;
	r = sock_capture_options(d, f, pool, e->opts);
	return r ? r : note(d, f, s, diag, e);
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
	entry.usk = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__UNIXSK);
	if (!r && diag->state != UNIX_LISTEN)
		r = capture_queue(d, f, s, &pool);
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
		const struct seen *client = find_seen(s, listener->waiting[i]);
		const char *why = !listener->waiting[i] ? "by a client that has gone already" :
				  !client		? "by a client outside the tree" :
				  client->unread	? "with data already sent, which can't be seen" :
							  NULL;
		if (why)
			return error_set(d->e, -ENOTSUP, "process %d: descriptor %d is a listening unix socket with a connection not accepted yet, "
					 "made %s; try again once it is accepted", listener->pid, listener->fd, why);
	}
	return 0;
}

/* Once all are known: whether those that they refer to are among them. */
static int check(struct dump *d, const struct state *s)
{
	int r = 0;

	VEC_FOREACH(&s->seen, x) {
		if (!r && x->has_peer && x->peer && !find_seen(s, x->peer) && !(x->type == SOCK_DGRAM && x->named_peer))
			r = dump_part(d, error_set(d->e, -ENOTSUP, "process %d: descriptor %d is a unix socket (inode %u) connected to one outside the tree (inode %u); "
				      "close it, or dump a parent of both", x->pid, x->fd, x->ino, x->peer));
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
	VEC_FREE(&s->seen);
	free(s);
	*at = NULL;
	return r;
}

const struct kind kind_unix = {
	.name = "a unix socket",
	.summary = "Unix sockets: stream, datagram, seqpacket; pairs, connected, listening, with what is queued, descriptors and "
		   "credentials too; not connections that wait to be accepted with data already sent",
	.type = FD_TYPES__UNIXSK,
	.recognise = recognise,
	.capture = capture,
	.finish = finish,
	.create = unix_create,
	.fill = unix_fill,
	.settle = unix_settle,
	.release = unix_release,
};
