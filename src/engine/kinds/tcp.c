/*
 * TCP connections, dump; see tcp.h, tcp(7) and TCP_REPAIR in linux/tcp.h.
 *
 * Before the first is looked at, the packets of all that the tree has are held back (network_lock.h). A socket is under repair only while a
 * process apart looks at it, which goes on to its end should the coordinator be killed; it is as before when that leaves. When the tree has been
 * saved and ends, its sockets are put under repair for good: one that is closed so tells its peer nothing.
 *
 * Left out: what a peer had sent out of order, which it sends again; whether ECN was agreed on; measurements of the path (round trip time,
 * congestion window), which begin anew; the address of a program for SO_ATTACH_REUSEPORT, which the kernel does not tell.
 */
#include "engine/kinds/tcp.h"

#include "base/apart.h"
#include "engine/kinds/inet_diag.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/tcp_waiting.h"
#include "engine/network_lock.h"
#include "engine/task/task.h"
#include "tcp_stream.pb-c.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#define TRIES 20
#define SLACK 4096
#ifndef TCP_AO_INFO
#define TCP_AO_INFO 40
#endif


struct tcp_table {
	struct network_lock *lock; /* NULL: none was asked for */
	struct inet_diags sockets; /* since they are held back */
	VEC(uint32_t) inodes;	   /* that are held back, sorted up to `swept` */
	size_t swept;
	VEC(int) fds; /* duplicates of all connections, of a dump that will end the tree */
	bool waiting; /* some are in the queue of a listener */
};

/* ---- holding them back ---- */

static int sweep_task(struct tcp_table *t, const struct task *task, const struct inet_diags *sockets)
{
	char path[64], link[64];

	snprintf(path, sizeof(path), "/proc/%d/fd", task->proc);
	DIR *dir = opendir(path);
	const struct dirent *entry;
	int r = dir ? 0 : -errno;
	while (!r && (entry = readdir(dir))) {
		unsigned int ino;
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
		link[MAX(n, 0)] = '\0';
		if (n <= 0 || sscanf(link, "socket:[%u]", &ino) != 1 || !inet_diag_find(sockets, ino))
			continue;
		uint32_t *slot = VEC_PUSH(&t->inodes);
		if (slot)
			*slot = ino;
		else
			r = -ENOMEM;
	}
	if (dir)
		closedir(dir);
	return r;
}

static int by_number(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static int hold_back(struct dump *d, struct tcp_table *t, const struct inet_diags *sockets, size_t from)
{
	VEC(struct connection) list = {};
	int r = 0;

	for (size_t i = from; !r && i < t->inodes.count; i++) {
		const struct inet_diag *x = inet_diag_find(sockets, t->inodes.data[i]);
		struct connection *c = i > from && t->inodes.data[i] == t->inodes.data[i - 1] ? NULL : VEC_PUSH(&list);
		if (c)
			*c = x->connection;
	}
	r = network_lock_add(t->lock, list.data, list.count, d->e);
	VEC_FREE(&list);
	return r;
}

/* All at once: what is held back at one end of a connection must be at the other. */
static int sweep(struct dump *d, struct tcp_table *t)
{
	struct inet_diags sockets = {};
	int r = inet_diag_read(IPPROTO_TCP, &sockets);

	for (size_t i = 0; !r && i < d->tasks.count; i++)
		if (d->tasks.data[i]->state != TASK_DEAD && !d->tasks.data[i]->refused)
			r = sweep_task(t, d->tasks.data[i], &sockets);
	if (t->inodes.count)
		qsort(t->inodes.data, t->inodes.count, sizeof(*t->inodes.data), by_number);
	t->swept = t->inodes.count;
	r = r ? error_errno(d->e, r, "cannot list the TCP connections") : hold_back(d, t, &sockets, 0);
	inet_diag_free(&sockets);
	return r;
}

static int begin(struct dump *d)
{
	struct tcp_table *t = d->tcp;

	if (t)
		return 0;
	d->tcp = t = calloc(1, sizeof(*t));
	int r = t ? 0 : error_set(d->e, -ENOMEM, "out of memory");
	if (!r && d->request->network_lock != NETWORK_LOCK_SKIP) {
		r = network_lock_new(&t->lock, d->e);
		if (!r)
			network_lock_clean(t->lock);
		/* A check only looks whether it could be done. */
		if (!r && !d->obstacles)
			r = sweep(d, t);
	}
	if (!r && (r = inet_diag_read(IPPROTO_TCP, &t->sockets)))
		r = error_errno(d->e, r, "cannot list the TCP connections");
	return r;
}

int tcp_hold_back(struct dump *d)
{
	return d->request->tcp_established ? begin(d) : 0;
}

/* One that only a queue of another socket has was not seen by the sweep. */
static int hold_one(struct dump *d, uint32_t ino)
{
	struct tcp_table *t = d->tcp;

	if (!t->lock || d->obstacles || !inet_diag_find(&t->sockets, ino) ||
	    bsearch(&ino, t->inodes.data, t->swept, sizeof(ino), by_number))
		return 0;
	for (size_t i = t->swept; i < t->inodes.count; i++)
		if (t->inodes.data[i] == ino)
			return 0;
	uint32_t *slot = VEC_PUSH(&t->inodes);
	if (!slot)
		return error_set(d->e, -ENOMEM, "out of memory");
	*slot = ino;
	return hold_back(d, t, &t->sockets, t->inodes.count - 1);
}

/* ---- looking at one ---- */

struct snapshot {
	int fd;
	char *data[2]; /* of the receiving and the sending queue, of the sizes given */
	size_t room[2], size[2];
	uint32_t seq[2];
	int unread, unacked, unsent; /* a FIN that was sent is counted in the last two */
	uint32_t state, timestamp;
	struct tcp_info info;
	int mss;
	struct tcp_repair_window window;
};

static int set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int get(int fd, int level, int name, void *value, socklen_t size)
{
	return getsockopt(fd, level, name, value, &size) < 0 ? -errno : 0;
}

/* What is told without a repair. As long as no packet comes in, nothing that is sought changes. */
static int look_around(struct snapshot *s)
{
	memset(&s->info, 0, sizeof(s->info));
	int r = get(s->fd, IPPROTO_TCP, TCP_INFO, &s->info, sizeof(s->info));

	s->state = s->info.tcpi_state;
	if (!r && (ioctl(s->fd, SIOCINQ, &s->unread) < 0 || ioctl(s->fd, SIOCOUTQ, &s->unacked) < 0 || ioctl(s->fd, SIOCOUTQNSD, &s->unsent) < 0))
		r = -errno;
	return r ? r : get(s->fd, IPPROTO_TCP, TCP_TIMESTAMP, &s->timestamp, sizeof(s->timestamp));
}

static bool same(const struct snapshot *a, const struct snapshot *b)
{
	return a->state == b->state && a->unread == b->unread && a->unacked == b->unacked && a->unsent == b->unsent &&
	       a->info.tcpi_segs_in == b->info.tcpi_segs_in;
}

/* There is nothing to be had of a connection under way. */
static int look_at_queue(struct snapshot *s, int which)
{
	if (s->state == STATE_SYN_SENT)
		return 0;
	ssize_t n = recv(s->fd, s->data[which], s->room[which], MSG_PEEK | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN)
		return -errno;
	s->size[which] = (size_t)MAX(n, 0);
	return s->size[which] == s->room[which] ? -ENOBUFS : 0;
}

static int look_under_repair(struct snapshot *s)
{
	int r = set(s->fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);

	if (!r)
		r = get(s->fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &s->seq[0], sizeof(s->seq[0]));
	if (!r)
		r = set(s->fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	if (!r)
		r = get(s->fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &s->seq[1], sizeof(s->seq[1]));
	if (!r && s->unacked)
		r = look_at_queue(s, 1);
	if (!r)
		r = get(s->fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &s->window, sizeof(s->window));
	return r ? r : get(s->fd, IPPROTO_TCP, TCP_MAXSEG, &s->mss, sizeof(s->mss));
}

/* Without a window probe, which older kernels (before 4.19) send always. */
static void end_repair(int fd)
{
	if (set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP))
		set(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF);
}

/*
 * No memory is allocated here: a thread of a coordinator that was killed may have held the lock. And no more than a few calls are made under
 * repair, before anything else that wants the processor: when the coordinator is killed the program runs on, and would be told that it can't
 * send or receive. The kernel takes longer to end the coordinator and let go of the program.
 */
static int look_apart(void *argument)
{
	struct snapshot *s = argument;
	struct sched_param first = { 1 };
	int reuse = 0, peek = -1;
	int r = get(s->fd, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));

	get(s->fd, SOL_SOCKET, SO_PEEK_OFF, &peek, sizeof(peek));
	if (peek >= 0)
		set(s->fd, SOL_SOCKET, SO_PEEK_OFF, -1);
	s->size[0] = s->size[1] = 0;
	if (!r && s->unread)
		r = look_at_queue(s, 0);
	sched_setscheduler(0, SCHED_FIFO, &first);
	if (!r)
		r = set(s->fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	if (!r) {
		r = look_under_repair(s);
		end_repair(s->fd);
		set(s->fd, SOL_SOCKET, SO_REUSEADDR, reuse);
	}
	if (peek >= 0)
		set(s->fd, SOL_SOCKET, SO_PEEK_OFF, peek);
	return r;
}

static int reserve(struct snapshot *s)
{
	const int sizes[] = { s->unread, s->unacked };

	for (int i = 0; i < 2; i++) {
		free(s->data[i]);
		s->room[i] = (size_t)MAX(sizes[i], 0) + SLACK;
		s->data[i] = malloc(s->room[i]);
		if (!s->data[i])
			return -ENOMEM;
	}
	return 0;
}

/* A packet that had passed when the lock came may still arrive: until nothing has changed meanwhile. */
static int take_snapshot(struct snapshot *s)
{
	struct timespec pause = { 0, 1000000 };

	for (int i = 0; i < TRIES; i++) {
		struct snapshot after = { .fd = s->fd };
		int r = look_around(s);
		if (!r)
			r = reserve(s);
		if (!r)
			r = run_apart(NULL, look_apart, s);
		if (!r)
			r = look_around(&after);
		if (r && r != -ENOBUFS)
			return r;
		if (!r && same(s, &after))
			return 0;
		nanosleep(&pause, NULL);
	}
	return -EAGAIN;
}

/* ---- the image ---- */

static bool sent_fin(uint32_t state)
{
	return state == STATE_FIN_WAIT1 || state == STATE_CLOSING || state == STATE_LAST_ACK;
}

static int write_stream(struct dump *d, struct descriptor *f, const struct snapshot *s)
{
	TcpStreamEntry e = TCP_STREAM_ENTRY__INIT;
	const struct tcp_info *info = &s->info;
	struct image_file *file;
	char name[40];
	int fin = sent_fin(s->state) && s->unacked, corked = 0, nodelay = 0, r = 0;

	if (s->state != STATE_CLOSE && s->state != STATE_SYN_SENT && s->size[1] != (size_t)(s->unacked - fin))
		return fd_error(d, f, -EIO, "has %d bytes to send, of which only %zu can be read", s->unacked - fin, s->size[1]);
	get(s->fd, IPPROTO_TCP, TCP_CORK, &corked, sizeof(corked));
	get(s->fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof(nodelay));
	e.inq_len = (uint32_t)s->size[0];
	e.inq_seq = s->seq[0];
	e.outq_len = (uint32_t)s->size[1];
	e.outq_seq = s->seq[1];
	e.opt_mask = info->tcpi_options & (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_WSCALE);
	e.snd_wscale = info->tcpi_snd_wscale;
	e.mss_clamp = (uint32_t)s->mss;
	e.has_rcv_wscale = e.has_timestamp = e.has_cork = e.has_nodelay = e.has_unsq_len = 1;
	e.rcv_wscale = info->tcpi_rcv_wscale;
	e.timestamp = s->timestamp;
	e.cork = corked != 0;
	e.nodelay = nodelay != 0;
	e.unsq_len = (uint32_t)MIN((size_t)MAX(s->unsent - fin, 0), s->size[1]);
	e.has_snd_wl1 = e.has_snd_wnd = e.has_max_window = e.has_rcv_wnd = e.has_rcv_wup = 1;
	e.snd_wl1 = s->window.snd_wl1;
	e.snd_wnd = s->window.snd_wnd;
	e.max_window = s->window.max_window;
	e.rcv_wnd = s->window.rcv_wnd;
	e.rcv_wup = s->window.rcv_wup;
	snprintf(name, sizeof(name), "tcp-stream-%x.img", (uint32_t)f->st.st_ino);
	r = image_create(d->dir, name, IMAGE_MAGIC_TCP_STREAM, &file);
	if (r)
		return error_errno(d->e, r, "cannot create %s", name);
	r = image_write_message(file, &e.base);
	for (int i = 0; !r && i < 2; i++)
		r = image_write_bytes(file, s->data[i], s->size[i]);
	int closed = image_close(file);
	r = r ? r : closed;
	return r ? error_errno(d->e, r, "cannot write %s", name) : 0;
}

/* ---- what can be saved ---- */

static int events_of(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN | POLLPRI | POLLRDHUP };

	return poll(&p, 1, 0) > 0 ? p.revents : 0;
}

static int refuse_connection(struct dump *d, struct descriptor *f, uint32_t state, const struct inet_diag *x)
{
	char name[16] = "";
	int key[16] = {};
	socklen_t size = sizeof(name);

	if (!d->request->tcp_established)
		return fd_error(d, f, -ENOTSUP, "is a TCP connection; use --tcp-established to save it, or --tcp-close to have it closed when it is restored");
	if (state == STATE_SYN_RECV)
		return fd_error(d, f, -ENOTSUP, "is a TCP connection that is being opened with data in its first packet (Fast Open); try again");
	if (!x)
		return fd_error(d, f, -EAGAIN, "is a TCP connection that the kernel does not list; try again");
	if (x->secured || getsockopt(f->own_fd, IPPROTO_TCP, TCP_AO_INFO, key, &(socklen_t){ sizeof(key) }) == 0)
		return fd_error(d, f, -ENOTSUP, "is a TCP connection with signatures (TCP-MD5, TCP-AO), whose keys the kernel does not give; close it first");
	if (x->upper || (getsockopt(f->own_fd, IPPROTO_TCP, TCP_ULP, name, &size) == 0 && size && name[0]))
		return fd_error(d, f, -ENOTSUP, "is a TCP connection with another protocol on it in the kernel (%s); close it first", name[0] ? name : "ULP");
	if (events_of(f->own_fd) & POLLPRI)
		return fd_error(d, f, -ENOTSUP, "has urgent data that was not read yet; try again");
	return 0;
}

static int listener(struct dump *d, struct descriptor *f, const struct tcp_info *info, InetSkEntry *e)
{
	e->backlog = info->tcpi_sacked;
	if (!info->tcpi_unacked || d->request->skip_in_flight)
		return 0;
	if (!d->request->tcp_established || e->proto == IPPROTO_MPTCP)
		return fd_error(d, f, -ENOTSUP, "has %u connections not accepted yet; try again, or use %s--skip-in-flight to drop them", info->tcpi_unacked,
				e->proto == IPPROTO_MPTCP ? "" : "--tcp-established to save or ");
	int r = begin(d);
	if (r)
		return r;
	d->tcp->waiting = true;
	return tcp_waiting_capture(d, f, e->opts, d->tcp->lock, info->tcpi_unacked);
}

/* Options of a connection that are about its beginning, that are told otherwise than they are set, or that can't be set. */
static void drop_options(SkOptsEntry *o)
{
	size_t n = 0;

	for (size_t i = 0; i < o->n_more; i++) {
		const SockOptEntry *m = o->more[i];
		bool beginning = m->level == IPPROTO_TCP && (m->name == TCP_MAXSEG || m->name == TCP_FASTOPEN_CONNECT);
		bool multicast = m->level == IPPROTO_IP ? m->name == IP_MULTICAST_TTL || m->name == IP_MULTICAST_IF || m->name == IP_MULTICAST_LOOP :
				 m->level == IPPROTO_IPV6 && (m->name == IPV6_MULTICAST_HOPS || m->name == IPV6_MULTICAST_IF || m->name == IPV6_MULTICAST_LOOP);
		if (!beginning && !multicast)
			o->more[n++] = o->more[i];
	}
	o->n_more = n;
}

/* One that has been connected and no longer is may have something to read, and then says that it has ended. */
static int closed(struct dump *d, struct descriptor *f, InetSkEntry *e)
{
	struct snapshot s = { .fd = f->own_fd };
	int events = events_of(f->own_fd), size = 0;

	if (events & POLLERR)
		return fd_error(d, f, -ENOTSUP, "is a TCP socket with an error that the program was not told of yet; try again");
	if (!(events & POLLRDHUP))
		return 0;
	e->has_shutdown = 1;
	e->shutdown = SK_SHUTDOWN__BOTH;
	drop_options(e->opts);
	if (ioctl(f->own_fd, SIOCINQ, &size) < 0 || !size)
		return 0;
	int r = take_snapshot(&s);
	r = r ? fd_errno(d, f, r, "does not tell what it has to be read") : d->obstacles ? 0 : write_stream(d, f, &s);
	free(s.data[0]);
	free(s.data[1]);
	return r;
}

static int take_peer(InetSkEntry *e, const struct connection *c, struct pool *pool)
{
	size_t at = e->family == AF_INET6 && c->family == AF_INET ? 12 : 0;
	unsigned char *address = pool_take(pool, 16);

	if (!address)
		return -ENOMEM;
	if (at)
		address[10] = address[11] = 0xff;
	memcpy(address + at, c->peer, c->family == AF_INET ? 4 : 16);
	e->dst_port = c->peer_port;
	e->dst_addr = (uint32_t *)address;
	return 0;
}

static int hold_for_end(struct dump *d, const struct descriptor *f)
{
	if (d->obstacles || d->request->leave_running || d->request->leave_stopped)
		return 0;
	int fd = fcntl(f->own_fd, F_DUPFD_CLOEXEC, 0), *slot = fd < 0 ? NULL : VEC_PUSH(&d->tcp->fds);

	if (slot) {
		*slot = fd;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	return error_errno(d->e, fd < 0 ? -errno : -ENOMEM, "cannot hold a TCP connection");
}

static int connection(struct dump *d, struct descriptor *f, uint32_t state, struct pool *pool, InetSkEntry *e)
{
	struct snapshot s = { .fd = f->own_fd };
	uint32_t ino = (uint32_t)f->st.st_ino;
	int r = tcp_hold_back(d);
	const struct inet_diag *x = r || !d->tcp ? NULL : inet_diag_find(&d->tcp->sockets, ino);

	if (!r)
		r = refuse_connection(d, f, state, x);
	if (!r)
		r = hold_one(d, ino);
	if (!r && (r = take_snapshot(&s)))
		r = fd_errno(d, f, r, "is a TCP connection that can't be examined");
	if (!r && s.state == STATE_CLOSE)
		r = fd_error(d, f, -EAGAIN, "is a TCP connection that has just ended; try again");
	if (!r && (r = take_peer(e, &x->connection, pool)))
		r = error_set(d->e, r, "out of memory");
	if (!r) {
		e->state = s.state;
		e->has_shutdown = x->shutdown != 0;
		e->shutdown = (SkShutdown)(x->shutdown & 3);
		drop_options(e->opts);
		r = d->obstacles ? 0 : write_stream(d, f, &s);
	}
	if (!r)
		r = hold_for_end(d, f);
	free(s.data[0]);
	free(s.data[1]);
	return r;
}

/* Neither its sequence numbers nor its keys can be had: there is no TCP_REPAIR for it. */
static int refuse_multipath(struct dump *d, struct descriptor *f)
{
	return fd_error(d, f, -ENOTSUP, "is a connection of Multipath TCP, which the kernel has no TCP_REPAIR for; close it first, or let the program do "
			"without (IPPROTO_TCP; for Go GODEBUG=multipathtcp=0)");
}

int tcp_capture(struct dump *d, struct descriptor *f, struct pool *pool, InetSkEntry *e)
{
	struct tcp_info info = {};
	int r = get(f->own_fd, IPPROTO_TCP, TCP_INFO, &info, sizeof(info));

	if (r)
		return fd_errno(d, f, r, "does not tell its state");
	e->state = info.tcpi_state;
	if (info.tcpi_state == STATE_LISTEN)
		return listener(d, f, &info, e);
	if (e->proto == IPPROTO_MPTCP && (info.tcpi_state != STATE_CLOSE || events_of(f->own_fd) & POLLRDHUP))
		return refuse_multipath(d, f);
	if (info.tcpi_state == STATE_CLOSE)
		return closed(d, f, e);
	if (!d->request->tcp_close)
		return connection(d, f, info.tcpi_state, pool, e);
	e->state = STATE_CLOSE;
	e->src_port = 0;
	e->n_src_addr = 0;
	e->has_shutdown = 1;
	e->shutdown = SK_SHUTDOWN__BOTH;
	drop_options(e->opts);
	return 0;
}

/* ---- the end ---- */

static int end_apart(void *argument)
{
	struct dump *d = argument;
	struct tcp_table *t = d->tcp;
	int r = t->lock ? network_lock_keep(t->lock, d->network_lock_id, d->request->images_dir, d->e) : 0;

	if (r)
		return r;
	VEC_FOREACH(&t->fds, fd)
		set(*fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	for (size_t i = d->tasks.count; i-- > 0;)
		if (d->tasks.data[i]->state != TASK_DEAD)
			syscall(__NR_pidfd_send_signal, d->tasks.data[i]->pidfd, SIGKILL, NULL, 0);
	return 0;
}

int tcp_end_tree(struct dump *d)
{
	return d->tcp && (d->tcp->fds.count || d->tcp->waiting) ? run_apart(NULL, end_apart, d) : 0;
}

void tcp_release(struct dump *d)
{
	struct tcp_table *t = TAKE_PTR(d->tcp);

	if (!t)
		return;
	VEC_FOREACH(&t->fds, fd)
		close(*fd);
	VEC_FREE(&t->fds);
	VEC_FREE(&t->inodes);
	inet_diag_free(&t->sockets);
	network_lock_free(t->lock);
	free(t);
}
