/*
 * Unix sockets, restore; see unix(7). All are made when the first is asked for, in prepare(): connections by socketpair(2), or
 * through a listener of their own where an end has a name; then those that stand alone. What is queued is sent once every
 * descriptor that may travel with it exists, or, with credentials and what tasks make for themselves, once the processes do.
 *
 * SO_PEERCRED shows who made the call, so that is made by a process apart that looks like them (base/apart.h). That process has ended
 * when the tree runs, which the pidfd of SO_PEERPIDFD tells. A name whose file is gone is bound in an empty root directory of its own, and
 * its socket reached through /proc/self/fd; the file of a name that does not lead to it any more is moved from there to its place.
 *
 * A socket whose peer was outside and has no name is the caller's: what was given for it takes its place as it is.
 */
#include "engine/kinds/unix.h"

#include "base/apart.h"
#include "engine/kinds/external.h"
#include "engine/kinds/in_task.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/uring.h"

#include <fcntl.h>
#include <sched.h>
#include <linux/sockios.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/un.h>

#define CHUNK (64UL << 10)
#define MUCH (256 << 20)

struct end {
	struct file *file; /* NULL: one that has gone */
	UnixSkEntry *e;
	int fd;		    /* the file's, once it is made */
	struct end *peer;   /* in the tree */
	struct end *ghost;  /* a peer that has gone, until the queue is filled */
	bool waits;	    /* to be accepted by its peer */
	bool joined;	    /* it has its peer */
	bool sized;	    /* its send buffer was enlarged */
	bool given;	    /* it is the caller's */
	struct end **clients; /* of a listener: those that wait, as its `pending` has them; NULL: dropped */
	UnixSkEntry own;    /* of a ghost */
};

struct unix_table {
	VEC(struct end) ends;
	VEC(struct end *) ghosts;
	VEC(int) senders; /* sockets that only sent what is queued, and what was only sent */
	struct sock_queue *queues;
	char dir[64]; /* an empty directory; "" until it is needed */
	bool settles, filled; /* settles: what is queued needs processes that are there */
};

static struct end *end_of(struct unix_table *t, const struct file *f)
{
	VEC_FOREACH(&t->ends, x)
		if (x->file == f)
			return x;
	return NULL;
}

static int failed(struct restore *s, const struct end *x, int r, const char *what)
{
	const ProtobufCBinaryData *name = &x->e->name;
	bool abstract = name->len && !name->data[0];

	return error_errno(s->e, r, "cannot %s unix socket %u%s%s%.*s", what, x->e->ino, name->len ? " of the name " : "", abstract ? "@" : "",
			   (int)name->len - abstract, name->len ? (const char *)name->data + abstract : "");
}

/* ---- names ---- */

struct bind_job {
	int fd;
	const char *root; /* an empty directory: the file is thrown away; NULL: it stays */
	int tree; /* the root of the tree, where names begin; 0: it is ours */
	const char *dir;  /* where a relative name starts from */
	const UnixSkEntry *e;
	struct sockaddr_un address;
	socklen_t size;
};

static int to_address(const ProtobufCBinaryData *name, struct sockaddr_un *to, socklen_t *size)
{
	if (name->len > sizeof(to->sun_path))
		return -EBADMSG;
	*to = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (name->len)
		memcpy(to->sun_path, name->data, name->len);
	*size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + name->len);
	return 0;
}

/* Makes or removes the directories above the last part of `path`. */
static void each_dir(char *path, bool make)
{
	if (make) {
		for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
			*p = '\0';
			mkdir(path, 0700);
			*p = '/';
		}
		return;
	}
	for (char *p; (p = strrchr(path, '/')) && p > path;) {
		*p = '\0';
		rmdir(path);
	}
}

/* A socket's file that nobody serves any more makes place. */
static int make_place(const struct bind_job *job, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct stat st;
	_cleanup_close_ int there = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (there < 0 || fstat(there, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	if (job->tree && strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	if (job->tree) /* there may be no /proc */
		memcpy(address.sun_path, path, strlen(path) + 1);
	else
		snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", there);
	_cleanup_close_ int probe = socket(AF_UNIX, (int)job->e->type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (connect(probe, (const struct sockaddr *)&address, sizeof(address)) == 0 || errno != ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(path) < 0 ? -errno : 0;
}

static int set_perms(int dir, const char *path, const FilePermsEntry *perms)
{
	if (perms && (fchownat(dir, path, perms->uid, perms->gid, 0) < 0 || fchmodat(dir, path, perms->mode & 07777, 0) < 0))
		return -errno;
	return 0;
}

static int bind_here(struct bind_job *job)
{
	return bind(job->fd, (struct sockaddr *)&job->address, job->size) < 0 ? -errno : 0;
}

/* Who may not do it may in a user namespace of their own; the process ends soon. */
static int change_root(const char *root)
{
	if (chroot(root) < 0 && (errno != EPERM || unshare(CLONE_NEWUSER) < 0 || chroot(root) < 0))
		return -EPERM;
	return chdir("/") < 0 ? -errno : 0;
}

/* In an empty root directory, so that any name can be had. */
static int bind_thrown_away(struct bind_job *job, char *name)
{
	int r = change_root(job->root);
	if (r)
		return r;
	each_dir(name, true);
	r = bind_here(job);
	unlink(name);
	each_dir(name, false);
	return r;
}

/* The same, in a directory beside the place where the file belongs, to which it goes. */
static int bind_elsewhere(struct bind_job *job, char *name)
{
	char own[32], real[PATH_MAX];
	int r = make_place(job, job->e->path);

	snprintf(own, sizeof(own), ".fermata-%u", job->e->ino);
	snprintf(real, sizeof(real), "%s", job->e->path);
	char *slash = strrchr(real, '/');
	*slash = '\0';
	_cleanup_close_ int dir = r ? -1 : open(real[0] ? real : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || mkdirat(dir, own, 0700) < 0)
		return r ? r : -errno;
	r = fchdir(dir) < 0 ? -errno : change_root(own);
	if (!r) {
		each_dir(name, true);
		r = bind_here(job);
		if (!r && renameat(AT_FDCWD, name, dir, slash + 1) < 0) {
			r = -errno;
			unlink(name);
		}
		each_dir(name, false);
	}
	if (!r)
		r = set_perms(dir, slash + 1, job->e->file_perms);
	unlinkat(dir, own, AT_REMOVEDIR);
	return r;
}

static int bind_apart(void *argument)
{
	struct bind_job *job = argument;
	char path[sizeof(job->address.sun_path) + 1] = "";

	memcpy(path, job->address.sun_path, sizeof(job->address.sun_path));
	if (job->root)
		return bind_thrown_away(job, path);
	if (job->tree && (fchdir(job->tree) < 0 || chroot(".") < 0))
		return -errno;
	if (job->e->path)
		return bind_elsewhere(job, path);
	if (job->dir && chdir(job->dir) < 0)
		return -errno;
	int r = make_place(job, path);
	if (!r)
		r = bind_here(job);
	return r ? r : set_perms(AT_FDCWD, path, job->e->file_perms);
}

static int empty_dir(struct restore *s)
{
	struct unix_table *t = s->unix_sockets;

	if (t->dir[0])
		return 0;
	snprintf(t->dir, sizeof(t->dir), "/tmp/fermata-XXXXXX");
	if (mkdtemp(t->dir))
		return 0;
	t->dir[0] = '\0';
	return error_errno(s->e, -errno, "cannot make a directory in /tmp");
}

static int bind_name(struct restore *s, struct end *x, int fd)
{
	struct bind_job job = { .fd = fd, .tree = s->root_fd, .e = x->e };
	int r = to_address(&x->e->name, &job.address, &job.size), tries = 0;

	if (r || !x->e->name.len)
		return r ? failed(s, x, r, "bind") : 0;
	if (!x->e->name.data[0]) {
		do
			r = bind(fd, (struct sockaddr *)&job.address, job.size) < 0 ? -errno : 0;
		while (r == -EADDRINUSE && uring_wait_for_old(s, &tries));
		return r ? failed(s, x, r, "bind") : 0;
	}
	if (!x->file || x->e->deleted) {
		if ((r = empty_dir(s)))
			return r;
		job.root = s->unix_sockets->dir;
	} else {
		job.dir = x->e->name_dir && x->e->name_dir[0] ? x->e->name_dir : NULL;
	}
	do
		r = run_apart(NULL, bind_apart, &job);
	while (r == -EADDRINUSE && uring_wait_for_old(s, &tries));
	if (r == -EADDRINUSE)
		return error_set(s->e, r, "cannot bind a unix socket to %.*s: another process serves it; end that first", (int)x->e->name.len,
				 (const char *)x->e->name.data);
	return r ? failed(s, x, r, "bind") : 0;
}

/* How to reach the socket at `fd`, whatever became of its file. *path_fd is to be closed by the caller. */
static int reach(int fd, struct sockaddr_un *to, socklen_t *size, int *path_fd)
{
	*size = sizeof(*to);
	if (getsockname(fd, (struct sockaddr *)to, size) < 0)
		return -errno;
	if (*size <= offsetof(struct sockaddr_un, sun_path))
		return -EDESTADDRREQ;
	if (!to->sun_path[0])
		return 0;
	*path_fd = ioctl(fd, SIOCUNIXFILE);
	if (*path_fd < 0)
		return -errno;
	snprintf(to->sun_path, sizeof(to->sun_path), "/proc/self/fd/%d", *path_fd);
	*size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(to->sun_path) + 1);
	return 0;
}

/* ---- calls that are made as someone else ---- */

struct call {
	int fd[2], type, backlog;
	struct sockaddr_un address;
	socklen_t size;
};

static int call_pair(void *argument)
{
	struct call *c = argument;

	return socketpair(AF_UNIX, c->type | SOCK_CLOEXEC, 0, c->fd) < 0 ? -errno : 0;
}

static int call_listen(void *argument)
{
	struct call *c = argument;

	return listen(c->fd[0], c->backlog) < 0 ? -errno : 0;
}

static int call_connect(void *argument)
{
	struct call *c = argument;

	return connect(c->fd[0], (struct sockaddr *)&c->address, c->size) < 0 ? -errno : 0;
}

/* As whoever SO_PEERCRED is to show at `x`. */
static int call_as(const struct end *x, int (*fn)(void *), struct call *c)
{
	struct apart_as as = { .pid = (pid_t)x->e->peer_pid, .euid = x->e->peer_uid, .egid = x->e->peer_gid,
			       .groups = x->e->peer_groups, .n_groups = x->e->n_peer_groups };

	gid_t own[64];
	int n = getgroups(ARRAY_SIZE(own), own);

	if (!x->e->has_peer_pid)
		return run_apart(NULL, fn, c);
	bool same_groups = n >= 0 && (size_t)n == as.n_groups && !memcmp(own, as.groups ? as.groups : own, (size_t)n * sizeof(*own));
	as.credentials = as.euid != geteuid() || as.egid != getegid() || !same_groups;
	return run_apart(&as, fn, c);
}

static int connect_to(const struct end *shown, int fd, int to)
{
	struct call c = { .fd = { fd } };
	_cleanup_close_ int path_fd = -1;
	int r = reach(to, &c.address, &c.size, &path_fd);

	return r ? r : call_as(shown, call_connect, &c);
}

/* ---- making them ---- */

static int take(struct restore *s, struct end *x, int fd)
{
	x->fd = restore_hold(s, fd);
	return x->fd < 0 ? failed(s, x, x->fd, "hold") : 0;
}

static int make_socket(struct restore *s, struct end *x)
{
	int fd = socket(AF_UNIX, (int)x->e->type | SOCK_CLOEXEC, 0);

	return fd < 0 ? failed(s, x, -errno, "make") : take(s, x, fd);
}

/* The other end of a connection of `x` that is in the tree no more. */
static struct end *add_ghost(struct restore *s, struct end *x)
{
	struct end *g = calloc(1, sizeof(*g)), **slot = g ? VEC_PUSH(&s->unix_sockets->ghosts) : NULL;

	if (!slot) {
		free(g);
		return NULL;
	}
	*slot = g;
	unix_sk_entry__init(&g->own);
	g->own.type = x->e->type;
	g->own.ino = x->e->ino;
	if (x->e->has_peer_name)
		g->own.name = x->e->peer_name;
	g->e = &g->own;
	g->fd = -1;
	x->ghost = g;
	return g;
}

static int pair_up(struct restore *s, struct end *x, struct end *y)
{
	struct call c = { .type = (int)x->e->type };
	int r = call_as(x, call_pair, &c);

	if (r)
		return failed(s, x, r, "make");
	r = take(s, x, c.fd[0]);
	int last = take(s, y, c.fd[1]);
	x->joined = y->joined = true;
	return r ? r : last;
}

/* `server` has a name, which a listener of that name passes on to it. */
static int connect_through(struct restore *s, struct end *client, struct end *server)
{
	struct end nowhere = { .e = server->e }; /* as a ghost: its file is thrown away */
	_cleanup_close_ int listener = socket(AF_UNIX, (int)server->e->type | SOCK_CLOEXEC, 0);
	struct call c = { .fd = { listener }, .backlog = 1 };
	int r = listener < 0 ? failed(s, server, -errno, "make") : bind_name(s, &nowhere, listener);

	if (!r && (r = call_as(client, call_listen, &c)))
		r = failed(s, server, r, "listen with");
	if (!r)
		r = make_socket(s, client);
	if (!r) {
		struct end as_ghost = { .e = client->e };
		r = bind_name(s, &as_ghost, client->fd);
	}
	if (!r && (r = connect_to(server, client->fd, listener)))
		r = failed(s, client, r, "connect");
	int fd = r ? -1 : accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (!r)
		r = fd < 0 ? failed(s, server, -errno, "accept") : take(s, server, fd);
	client->joined = server->joined = true;
	return r;
}

static int join(struct restore *s, struct end *x, struct end *y)
{
	if (!x->e->name.len && !y->e->name.len)
		return pair_up(s, x, y);
	/* The accepted end bears the name of its listener. */
	return y->e->name.len ? connect_through(s, x, y) : connect_through(s, y, x);
}

static bool is_dgram(const struct end *x)
{
	return x->e->type == SOCK_DGRAM;
}

/* Connections of streams; and datagram pairs without names, which only socketpair(2) can make. */
static int make_joined(struct restore *s, struct end *x)
{
	struct end *y = x->peer;

	if (x->fd >= 0 || x->waits || x->e->state == UNIX_LISTEN)
		return 0;
	if (is_dgram(x)) {
		if (y && y != x && y->peer == x && !y->e->name.len && y->fd < 0 && !x->e->name.len)
			return pair_up(s, x, y);
		if (!x->e->peer_gone || x->e->has_peer_name || x->e->name.len)
			return 0;
	} else if (x->e->state != UNIX_ESTABLISHED) {
		return 0;
	}
	if (y)
		return join(s, x, y);
	struct end *g = add_ghost(s, x);
	return g ? join(s, x, g) : error_set(s->e, -ENOMEM, "out of memory");
}

static int make_alone(struct restore *s, struct end *x)
{
	struct call c = { .backlog = (int)x->e->backlog };

	if (x->fd >= 0)
		return 0;
	int r = make_socket(s, x);
	if (!r)
		r = bind_name(s, x, x->fd);
	if (r || x->e->state != UNIX_LISTEN)
		return r;
	c.fd[0] = x->fd;
	r = call_as(x, call_listen, &c);
	return r ? failed(s, x, r, "listen with") : 0;
}

/* Whom the accepting end will take for its peer: whoever has the client now, or had it. */
static void show_client(const struct end *client, const UnixGoneEntry *gone, UnixSkEntry *shown)
{
	const struct rtask *owner = client->file ? client->file->owner : NULL;

	if (gone) {
		shown->has_peer_pid = 1;
		shown->peer_pid = gone->pid;
		shown->peer_uid = gone->uid;
		shown->peer_gid = gone->gid;
	} else if (owner && owner->core->thread_core && owner->core->thread_core->creds) {
		shown->has_peer_pid = 1;
		shown->peer_pid = (uint32_t)owner->pid;
		shown->peer_uid = owner->core->thread_core->creds->euid;
		shown->peer_gid = owner->core->thread_core->creds->egid;
		shown->n_peer_groups = owner->core->thread_core->creds->n_groups;
		shown->peer_groups = owner->core->thread_core->creds->groups;
	}
}

static const UnixGoneEntry *gone_at(const struct end *listener, size_t i)
{
	for (size_t k = 0; k < listener->e->n_gone; k++)
		if (listener->e->gone[k]->waiting == i + 1)
			return listener->e->gone[k];
	return NULL;
}

/* *ret NULL: outside, and dropped, as the user permitted. One that has gone is there until it has sent what it had sent. */
static int find_client(struct restore *s, struct unix_table *t, struct end *listener, size_t i, struct end **ret)
{
	*ret = NULL;
	if (listener->e->pending[i]) {
		VEC_FOREACH(&t->ends, x)
			if (x->e->ino == listener->e->pending[i])
				*ret = x;
		if (*ret && !(*ret)->waits)
			return error_set(s->e, -EBADMSG, "unix socket %u waits for another than unix socket %u", (*ret)->e->ino, listener->e->ino);
		return 0;
	}
	if (!gone_at(listener, i))
		return error_set(s->e, -EBADMSG, "unix socket %u has a client that nothing is known of", listener->e->ino);
	struct end *before = listener->ghost;
	*ret = add_ghost(s, listener);
	listener->ghost = before;
	return *ret ? make_socket(s, *ret) : error_set(s->e, -ENOMEM, "out of memory");
}

static int connect_waiting(struct restore *s, struct unix_table *t, struct end *listener)
{
	if (!listener->e->n_pending)
		return 0;
	if (listener->e->state != UNIX_LISTEN || !(listener->clients = calloc(listener->e->n_pending, sizeof(*listener->clients))))
		return error_set(s->e, listener->e->state != UNIX_LISTEN ? -EBADMSG : -ENOMEM, "unix socket %u can't have clients", listener->e->ino);
	/* The accepting end has its listener's options, as they are when it is connected to. */
	int set = sock_set_options(s, listener->fd, listener->e->opts);
	if (set)
		return set;
	for (size_t i = 0; i < listener->e->n_pending; i++) {
		struct end *client;
		UnixSkEntry shown = UNIX_SK_ENTRY__INIT;
		struct end as = { .e = &shown };
		int found = find_client(s, t, listener, i, &client);
		if (found || !client) {
			if (found)
				return found;
			continue;
		}
		listener->clients[i] = client;
		show_client(client, gone_at(listener, i), &shown);
		/* More than the backlog takes fail, not wait for ever; unix_create sets the flags that it had. */
		int r = fcntl(client->fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : connect_to(&as, client->fd, listener->fd);
		if (r)
			return failed(s, client, r, "connect");
	}
	return 0;
}

static int build_table(struct restore *s, struct unix_table *t)
{
	VEC_FOREACH(&s->files, f) {
		if (!f->entry->usk)
			continue;
		struct end *x = VEC_PUSH(&t->ends);
		if (!x)
			return error_set(s->e, -ENOMEM, "out of memory");
		*x = (struct end){ .file = f, .e = f->entry->usk, .fd = -1 };
		if (x->e->path && (x->e->path[0] != '/' || strlen(x->e->path) >= PATH_MAX || strstr(x->e->path, "/../")))
			return error_set(s->e, -EBADMSG, "unix socket %u has a place that can't be", x->e->ino);
		if (!x->e->opts || (x->e->type != SOCK_STREAM && x->e->type != SOCK_DGRAM && x->e->type != SOCK_SEQPACKET))
			return error_set(s->e, -EBADMSG, "unix socket %u lacks its type or options", x->e->ino);
	}
	VEC_FOREACH(&t->ends, x)
		VEC_FOREACH(&t->ends, y)
			if (x->e->peer && x->e->peer == y->e->ino) {
				x->peer = y;
				x->waits = y->e->state == UNIX_LISTEN;
			}
	/* A connection has two ends that know each other. */
	VEC_FOREACH(&t->ends, x)
		if (x->peer && !x->waits && !is_dgram(x) && (x->peer == x || x->peer->peer != x))
			return error_set(s->e, -EBADMSG, "unix socket %u has a peer that is another's", x->e->ino);
	/* The owner decides who a waiting client is taken for. */
	for (size_t i = 0; i < s->tasks.count; i++)
		for (size_t k = 0; k < s->tasks.data[i]->fds.count; k++) {
			struct file *f = file_find(s, s->tasks.data[i]->fds.data[k]->id);
			if (f && f->entry->usk && !f->owner)
				f->owner = s->tasks.data[i];
		}
	return 0;
}

/* ---- what lies outside ---- */

/* The caller's: by the socket's own number, or by that of the peer that it had outside. */
static int given_for(struct restore *s, const struct end *x)
{
	int fd = external_given(s->request, "socket", x->e->ino);

	if (fd < 0)
		fd = external_given(s->request, "unix", x->e->ino);
	if (fd < 0 && x->e->peer && !x->peer)
		fd = external_given(s->request, "socket", x->e->peer);
	return fd;
}

static bool is_outside(const struct end *x)
{
	return x->e->peer && !x->peer && !(is_dgram(x) && x->e->has_peer_name);
}

static int take_given(struct restore *s, struct end *x)
{
	int given = given_for(s, x), domain = 0, type = 0;
	socklen_t size = sizeof(int);
	struct stat st;

	if (given < 0 && is_outside(x))
		return error_set(s->e, -ENOTCONN, "unix socket %u was connected to one outside the tree (%u), and can't be connected to again from one side; "
				 "give the tree another with --inherit-fd 'fd[N]:socket[%u]'", x->e->ino, x->e->peer, x->e->ino);
	if (given < 0)
		return 0;
	if (x->peer)
		return error_set(s->e, -EINVAL, "unix socket %u, that descriptor %d was given for, is connected to another of the tree", x->e->ino, given);
	if (fstat(given, &st) < 0 || getsockopt(given, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0 || getsockopt(given, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
	    domain != AF_UNIX || type != (int)x->e->type)
		return error_set(s->e, -EINVAL, "descriptor %d, given for unix socket %u, is no unix socket of the same type", given, x->e->ino);
	for (const struct sock_queue *q = s->unix_sockets->queues; q; q = q->next)
		if (q->entry->id_for == x->file->id && (uint32_t)st.st_ino != x->e->ino)
			return error_set(s->e, -ENOTSUP, "unix socket %u has data that the tree has not read, which can't be put into another (descriptor %d); "
					 "give the same one, kept open", x->e->ino, given);
	int fd = fcntl(given, F_DUPFD_CLOEXEC, s->fd_base);
	if (fd < 0)
		return failed(s, x, -errno, "hold what was given for");
	x->fd = fd;
	x->given = x->joined = true;
	return 0;
}

/* What is under way in sockets: made now, as others are, and before anything is sent. */
static int make_flying(struct restore *s, struct unix_table *t)
{
	for (const struct sock_queue *q = t->queues; q; q = q->next)
		for (size_t i = 0; q->entry->n_scm == 1 && i < q->entry->scm[0]->n_rights; i++) {
			int fd = file_fd(s, q->entry->scm[0]->rights[i]);
			if (fd < 0 && fd != FILE_IN_TASK)
				return fd;
			t->settles |= fd == FILE_IN_TASK;
		}
	return 0;
}

static int prepare(struct restore *s)
{
	struct unix_table *t = s->unix_sockets = calloc(1, sizeof(*t));
	int r = t ? build_table(s, t) : error_set(s->e, -ENOMEM, "out of memory");

	if (!r)
		r = sock_queues_load(s, &t->queues);
	for (struct sock_queue *q = r ? NULL : t->queues; q; q = q->next)
		t->settles |= q->entry->pid != 0;
	for (size_t i = 0; !r && i < t->ends.count; i++)
		r = take_given(s, &t->ends.data[i]);
	for (size_t i = 0; !r && i < t->ends.count; i++)
		r = make_joined(s, &t->ends.data[i]);
	for (size_t i = 0; !r && i < t->ends.count; i++)
		r = make_alone(s, &t->ends.data[i]);
	for (size_t i = 0; !r && i < t->ends.count; i++)
		r = connect_waiting(s, t, &t->ends.data[i]);
	return r ? r : make_flying(s, t);
}

int unix_create(struct restore *s, struct file *f, int *ret_fd)
{
	if (!f->entry->usk)
		return error_set(s->e, -EBADMSG, "file %u lacks its entry", f->id);
	if (!s->unix_sockets) {
		int r = prepare(s);
		if (r)
			return r;
	}
	struct end *x = end_of(s->unix_sockets, f);
	if (!x || x->fd < 0)
		return error_set(s->e, -EBADMSG, "unix socket %u has no peer", f->entry->usk->ino);
	if (fcntl(x->fd, F_SETFL, (int)x->e->flags & O_NONBLOCK) < 0)
		return failed(s, x, -errno, "set the flags of");
	*ret_fd = x->fd;
	return 0;
}

/* ---- what is queued ---- */

struct send_job {
	int fd;
	struct msghdr m;
	ssize_t sent;
};

static int send_apart(void *argument)
{
	struct send_job *job = argument;

	job->sent = sendmsg(job->fd, &job->m, MSG_DONTWAIT | MSG_NOSIGNAL);
	return job->sent < 0 ? -errno : 0;
}

/* Who sent it must be there, or someone who looks like them. */
static int send_one(struct restore *s, struct send_job *job, pid_t sender)
{
	struct apart_as as = { .pid = sender };

	if (sender > 0 && kill(sender, 0) < 0)
		return run_apart(&as, send_apart, job);
	return send_apart(job);
}

static int send_all(struct restore *s, struct send_job *job, pid_t sender, bool *sized)
{
	struct iovec *v = job->m.msg_iov;

	do {
		size_t whole = v->iov_len;
		int much = MUCH;
		int r = send_one(s, job, sender);
		if (r == -EAGAIN && !*sized) {
			*sized = true;
			if (setsockopt(job->fd, SOL_SOCKET, SO_SNDBUFFORCE, &much, sizeof(much)) < 0)
				setsockopt(job->fd, SOL_SOCKET, SO_SNDBUF, &much, sizeof(much));
			continue;
		}
		if (r)
			return r;
		v->iov_base = (char *)v->iov_base + job->sent;
		v->iov_len = whole - (size_t)job->sent;
		job->m.msg_control = NULL; /* goes with the first byte */
		job->m.msg_controllen = 0;
		if (!v->iov_len)
			return 0;
	} while (true);
}

static bool same_name(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	return a->len == b->len && (!a->len || !memcmp(a->data, b->data, a->len));
}

/* The socket to send a datagram to `x` from. */
static int find_sender(struct restore *s, struct end *x, const SkPacketEntry *p, struct end *made, struct end **ret)
{
	struct unix_table *t = s->unix_sockets;

	if (p->has_addr) {
		VEC_FOREACH(&t->ends, y)
			if (is_dgram(y) && same_name(&y->e->name, &p->addr)) {
				*ret = y;
				return 0;
			}
	} else if (x->ghost) {
		*ret = x->ghost;
		return 0;
	} else if (x->joined && x->peer) {
		*ret = x->peer;
		return 0;
	}
	unix_sk_entry__init(&made->own);
	made->own.type = SOCK_DGRAM;
	made->e = &made->own;
	if (p->has_addr)
		made->own.name = p->addr;
	int r = make_socket(s, made);
	int *slot = r ? NULL : VEC_PUSH(&t->senders);
	if (r || !slot)
		return r ? r : error_set(s->e, -ENOMEM, "out of memory");
	*slot = made->fd;
	*ret = made;
	return bind_name(s, made, made->fd);
}

/* From the task that has made it, for the time that things are sent. */
static int fetch(struct restore *s, uint32_t id)
{
	int fd, r = in_task_fetch(s, file_find(s, id), &fd), *slot = r ? NULL : VEC_PUSH(&s->unix_sockets->senders);

	if (r || !slot)
		return r ? r : error_set(s->e, -ENOMEM, "out of memory");
	return *slot = fd;
}

static int add_control(struct restore *s, const SkPacketEntry *p, struct msghdr *m, struct pool *pool)
{
	size_t n = p->n_scm ? p->scm[0]->n_rights : 0, size = 0;
	struct ucred sender = { (pid_t)p->pid, p->uid, p->gid };

	if (n > 253 || p->n_scm > 1)
		return error_set(s->e, -EBADMSG, "sk-queues.img has too many descriptors in a message");
	size = (n ? CMSG_SPACE(n * sizeof(int)) : 0) + (p->pid ? CMSG_SPACE(sizeof(sender)) : 0);
	if (!size)
		return 0;
	m->msg_control = pool_take(pool, size);
	m->msg_controllen = size;
	if (!m->msg_control)
		return error_set(s->e, -ENOMEM, "out of memory");
	struct cmsghdr *c = CMSG_FIRSTHDR(m);
	if (n) {
		*c = (struct cmsghdr){ CMSG_LEN(n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
		for (size_t i = 0; i < n; i++) {
			int fd = file_fd(s, p->scm[0]->rights[i]);
			if (fd == FILE_IN_TASK)
				fd = fetch(s, p->scm[0]->rights[i]);
			if (fd < 0)
				return fd;
			memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(fd));
		}
		c = (struct cmsghdr *)((char *)c + CMSG_SPACE(n * sizeof(int)));
	}
	if (p->pid) {
		*c = (struct cmsghdr){ CMSG_LEN(sizeof(sender)), SOL_SOCKET, SCM_CREDENTIALS };
		memcpy(CMSG_DATA(c), &sender, sizeof(sender));
	}
	return 0;
}

/* Through a connection that was not accepted. */
static int fill_waiting(struct restore *s, const struct end *listener, const struct sock_queue *q)
{
	struct iovec v = { q->data, q->entry->length };
	struct send_job job = { .m = { .msg_iov = &v, .msg_iovlen = 1 } };
	size_t place = q->entry->waiting - 1;
	struct pool pool = {};

	if (!listener->clients || place >= listener->e->n_pending || q->entry->n_scm)
		return error_set(s->e, -EBADMSG, "unix socket %u has data of a client that can't be", listener->e->ino);
	struct end *from = listener->clients[place];
	if (!from)
		return 0;
	job.fd = from->fd;
	int r = add_control(s, q->entry, &job.m, &pool);
	if (!r && (r = send_all(s, &job, (pid_t)q->entry->pid, &from->sized)))
		r = failed(s, listener, r, "fill the queue of a client of");
	pool_free(&pool);
	return r;
}

static int fill_one(struct restore *s, struct end *x, const struct sock_queue *q)
{
	struct end made = {}, *from = x->peer && x->joined ? x->peer : x->ghost;
	struct iovec v = { q->data, q->entry->length };
	struct send_job job = { .m = { .msg_iov = &v, .msg_iovlen = 1 } };
	struct sockaddr_un address;
	_cleanup_close_ int path_fd = -1;
	struct pool pool = {};
	int r = is_dgram(x) ? find_sender(s, x, q->entry, &made, &from) : 0;

	if (r || !from || from->fd < 0)
		return r ? r : error_set(s->e, -EBADMSG, "unix socket %u has data and no peer", x->e->ino);
	if (is_dgram(x) && !(x->joined && (from == x->peer || from == x->ghost))) {
		r = reach(x->fd, &address, &job.m.msg_namelen, &path_fd);
		job.m.msg_name = &address;
		if (r)
			return failed(s, x, r, "reach");
	}
	job.fd = from->fd;
	r = add_control(s, q->entry, &job.m, &pool);
	if (!r && (r = send_all(s, &job, (pid_t)q->entry->pid, &from->sized)))
		r = failed(s, x, r, "fill the queue of");
	pool_free(&pool);
	return r;
}

/* Datagram sockets refuse others than their peer: whoever has to reach `x` goes first. */
static bool is_awaited(const struct unix_table *t, const struct end *x)
{
	VEC_FOREACH(&t->ends, y)
		if (is_dgram(y) && y->peer == x && !y->joined && x->peer != y)
			return true;
	return false;
}

static int connect_dgram(struct restore *s, struct end *x)
{
	struct sockaddr_un address;
	socklen_t size;
	_cleanup_close_ int path_fd = -1;
	struct end *g;
	int r;

	x->joined = true;
	if (x->peer) {
		r = reach(x->peer->fd, &address, &size, &path_fd);
	} else if (x->e->peer_gone) {
		g = add_ghost(s, x);
		r = g ? make_socket(s, g) : error_set(s->e, -ENOMEM, "out of memory");
		if (!r)
			r = bind_name(s, g, g->fd);
		if (r)
			return r;
		r = reach(g->fd, &address, &size, &path_fd);
	} else {
		r = to_address(&x->e->peer_name, &address, &size);
	}
	if (!r && connect(x->fd, (struct sockaddr *)&address, size) < 0)
		r = -errno;
	return r ? failed(s, x, r, "connect the peer of") : 0;
}

static int connect_dgrams(struct restore *s, struct unix_table *t)
{
	int r = 0;

	for (bool again = true, force = false; !r && again;) {
		bool progress = again = false;
		for (size_t i = 0; !r && i < t->ends.count; i++) {
			struct end *x = &t->ends.data[i];
			if (!is_dgram(x) || x->joined || (!x->peer && !x->e->has_peer_name && !x->e->peer_gone))
				continue;
			again = true;
			if (!force && is_awaited(t, x))
				continue;
			progress = true;
			r = connect_dgram(s, x);
		}
		force = !progress;
	}
	return r;
}

static int finish_end(struct restore *s, struct end *x)
{
	static const int how[] = { -1, SHUT_RD, SHUT_WR, SHUT_RDWR };
	int shut = x->e->has_shutdown ? (int)x->e->shutdown & 3 : 0;

	if (shut && (x->e->state == UNIX_ESTABLISHED || is_dgram(x)) && shutdown(x->fd, how[shut]) < 0 && errno != ENOTCONN)
		return failed(s, x, -errno, "shut down");
	return sock_set_options(s, x->fd, x->e->opts);
}

static int fill_all(struct restore *s, bool settling)
{
	struct unix_table *t = s->unix_sockets;
	int r = 0;

	if (!t || t->filled || (t->settles && !settling))
		return 0;
	t->filled = true;
	for (size_t i = 0; !r && i < t->ends.count; i++)
		r = sock_set_buffers(s, t->ends.data[i].fd, t->ends.data[i].e->opts);
	for (const struct sock_queue *q = t->queues; q && !r; q = q->next)
		VEC_FOREACH(&t->ends, x)
			if (!r && x->file->id == q->entry->id_for && !x->given)
				r = q->entry->has_waiting ? fill_waiting(s, x, q) : fill_one(s, x, q);
	if (!r)
		r = connect_dgrams(s, t);
	for (size_t i = 0; !r && i < t->ends.count; i++)
		r = finish_end(s, &t->ends.data[i]);
	for (size_t i = 0; i < t->ghosts.count; i++)
		if (t->ghosts.data[i]->fd >= 0) {
			close(t->ghosts.data[i]->fd);
			t->ghosts.data[i]->fd = -1;
		}
	return r;
}

int unix_fill(struct restore *s, struct file *f)
{
	return fill_all(s, false);
}

int unix_settle(struct restore *s, struct file *f)
{
	return fill_all(s, true);
}

void unix_release(struct restore *s, struct file *f)
{
	struct unix_table *t = s->unix_sockets;

	if (!t)
		return;
	s->unix_sockets = NULL;
	VEC_FOREACH(&t->ends, x) {
		if (x->fd >= 0 && x->file->fd < 0)
			close(x->fd);
		free(x->clients);
	}
	for (size_t i = 0; i < t->ghosts.count; i++) {
		if (t->ghosts.data[i]->fd >= 0)
			close(t->ghosts.data[i]->fd);
		free(t->ghosts.data[i]);
	}
	VEC_FOREACH(&t->senders, fd)
		close(*fd);
	if (t->dir[0])
		rmdir(t->dir);
	sock_queues_free(t->queues);
	VEC_FREE(&t->ends);
	VEC_FREE(&t->ghosts);
	VEC_FREE(&t->senders);
	free(t);
}
