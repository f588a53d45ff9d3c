/* See unix_waiting.h. What is found is compared with what sock_diag(7) tells: how many there are, and who their clients are, by their cookies. */
#include "engine/kinds/unix_waiting.h"

#include "engine/kernel.h"
#include "engine/kinds/unix.h"

#include <poll.h>
#include <sys/socket.h>

#define MESSAGES_MAX 65536U /* of one connection */
#define MESSAGE_MAX (1U << 20)

/* Where the parts are that the kernel keeps them in. */
struct layout {
	int private_data, sk, family, cookie, queue, peer, urgent, maker, cred, euid, egid;
	int next, owner, len, data_len, data, control;
	int pid, uid, gid, files, level, number;
};

static int find_layout(const struct kernel *k, struct layout *l)
{
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->private_data, "file", "private_data" }, { &l->sk, "socket", "sk" }, { &l->family, "sock_common", "skc_family" },
		{ &l->cookie, "sock_common", "skc_cookie" }, { &l->queue, "sock", "sk_receive_queue" }, { &l->peer, "unix_sock", "peer" }, { &l->maker, "sock", "sk_peer_pid" },
		{ &l->cred, "sock", "sk_peer_cred" }, { &l->euid, "cred", "euid" }, { &l->egid, "cred", "egid" }, { &l->next, "sk_buff", "next" },
		{ &l->owner, "sk_buff", "sk" }, { &l->len, "sk_buff", "len" }, { &l->data_len, "sk_buff", "data_len" }, { &l->data, "sk_buff", "data" },
		{ &l->control, "sk_buff", "cb" }, { &l->pid, "unix_skb_parms", "pid" }, { &l->uid, "unix_skb_parms", "uid" },
		{ &l->gid, "unix_skb_parms", "gid" }, { &l->files, "unix_skb_parms", "fp" }, { &l->level, "pid", "level" },
		{ &l->number, "pid", "numbers" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0)
			return -ENOTSUP;
	l->urgent = kernel_offset(k, "unix_sock", "oob_skb"); /* not in every kernel */
	return kernel_offset(k, "sock", "__sk_common") || kernel_offset(k, "upid", "nr") ? -ENOTSUP : 0;
}

static int number_at(struct kernel *k, uint64_t at, int offset, uint32_t *ret)
{
	return kernel_read(k, at + (uint64_t)offset, ret, sizeof(*ret));
}

static int follow(struct kernel *k, uint64_t at, int offset, uint64_t *ret)
{
	return kernel_read(k, at + (uint64_t)offset, ret, sizeof(*ret));
}

/* As the first namespace numbers it, which must be ours. */
static int pid_at(struct kernel *k, const struct layout *l, uint64_t pid, uint32_t *ret)
{
	uint32_t level;
	int r = number_at(k, pid, l->level, &level);

	return r ? r : level ? -ENOTSUP : number_at(k, pid, l->number, ret);
}

/* ---- one message ---- */

static int take_sender(struct kernel *k, const struct layout *l, uint64_t control, SkPacketEntry *e)
{
	uint64_t pid, files;
	int r = follow(k, control, l->files, &files);

	if (!r)
		r = files ? -ENOTSUP : follow(k, control, l->pid, &pid);
	if (r || !pid)
		return r;
	e->has_pid = e->has_uid = e->has_gid = 1;
	r = pid_at(k, l, pid, &e->pid);
	if (!r)
		r = number_at(k, control, l->uid, &e->uid);
	return r ? r : number_at(k, control, l->gid, &e->gid);
}

static int take_message(struct kernel *k, const struct layout *l, uint64_t buffer, struct sock_packets *to, uint32_t place)
{
	struct sock_packet p = {};
	uint32_t len = 0, apart = 0;
	uint64_t data = 0;
	int r = number_at(k, buffer, l->len, &len);

	if (!r)
		r = number_at(k, buffer, l->data_len, &apart);
	if (!r) /* large ones are in pages of their own */
		r = apart || len > MESSAGE_MAX ? -ENOTSUP : follow(k, buffer, l->data, &data);
	sk_packet_entry__init(&p.entry);
	p.entry.length = len;
	p.entry.has_waiting = 1;
	p.entry.waiting = place;
	if (!r)
		r = take_sender(k, l, buffer + (uint64_t)l->control, &p.entry);
	if (!r && !(p.data = pool_take(&to->pool, len + 1UL)))
		r = -ENOMEM;
	for (uint32_t done = 0, n; !r && done < len; done += n) {
		n = MIN(len - done, (uint32_t)PAGE_SIZE);
		r = kernel_read(k, data + done, p.data + done, n);
	}
	struct sock_packet *slot = r ? NULL : VEC_PUSH(&to->list);
	if (slot)
		*slot = p;
	return r ? r : slot ? 0 : -ENOMEM;
}

/* ---- one connection ---- */

static int take_maker(struct kernel *k, const struct layout *l, uint64_t sock, UnixGoneEntry *e)
{
	uint64_t pid, cred;
	int r = follow(k, sock, l->maker, &pid);

	if (!r)
		r = pid ? pid_at(k, l, pid, &e->pid) : -ENOTSUP;
	if (!r)
		r = follow(k, sock, l->cred, &cred);
	if (!r)
		r = number_at(k, cred, l->euid, &e->uid);
	return r ? r : number_at(k, cred, l->egid, &e->gid);
}

static int add_gone(struct kernel *k, const struct layout *l, uint64_t sock, uint32_t place, struct pool *pool, UnixSkEntry *e)
{
	UnixGoneEntry *g = pool_take(pool, sizeof(*g));

	if (!g)
		return -ENOMEM;
	unix_gone_entry__init(g);
	g->waiting = place;
	e->gone[e->n_gone++] = g;
	return take_maker(k, l, sock, g);
}

/* Whether the client is the one that the kernel says it is. */
static int check_client(struct kernel *k, const struct layout *l, uint64_t sock, const struct unix_diag *client)
{
	uint64_t at, cookie = 0;
	int r = client ? follow(k, sock, l->peer, &at) : -EAGAIN;

	if (!r)
		r = follow(k, at, l->cookie, &cookie);
	return r ? r : cookie == client->cookie ? 0 : -EAGAIN;
}

static int take_messages(struct kernel *k, const struct layout *l, uint64_t sock, uint32_t place, struct sock_packets *to)
{
	const uint64_t head = sock + (uint64_t)l->queue;
	uint64_t at, urgent = 0;
	uint32_t messages = 0;
	int r = 0;

	if (l->urgent >= 0)
		r = follow(k, sock, l->urgent, &urgent);
	if (!r)
		r = urgent ? -ENOTSUP : follow(k, head, 0, &at);
	while (!r && at != head) {
		r = ++messages > MESSAGES_MAX ? -ENOTSUP : take_message(k, l, at, to, place);
		if (!r)
			r = follow(k, at, l->next, &at);
	}
	return r;
}

/* In the order in which they would be accepted, which is that of diag->waiting. */
static int take_all(struct kernel *k, const struct layout *l, uint64_t listener, const struct unix_diag *diag, const struct unix_diags *all,
		    struct pool *pool, struct sock_packets *packets, UnixSkEntry *e)
{
	const uint64_t head = listener + (uint64_t)l->queue;
	uint64_t at, sock;
	size_t n = 0;
	int r = follow(k, head, 0, &at);

	for (; !r && at != head; n++) {
		if (n >= diag->n_waiting)
			return -EAGAIN;
		r = follow(k, at, l->owner, &sock);
		if (!r)
			r = diag->waiting[n] ? check_client(k, l, sock, unix_diag_find(all, diag->waiting[n])) :
					       add_gone(k, l, sock, (uint32_t)n + 1, pool, e);
		if (!r)
			r = take_messages(k, l, sock, (uint32_t)n + 1, packets);
		if (!r)
			r = follow(k, at, l->next, &at);
	}
	return r ? r : n == diag->n_waiting ? 0 : -EAGAIN;
}

static int find_sock(struct kernel *k, const struct layout *l, int fd, uint64_t *ret)
{
	uint16_t family = 0;
	int r = kernel_file(k, fd, ret);

	if (!r)
		r = follow(k, *ret, l->private_data, ret);
	if (!r)
		r = follow(k, *ret, l->sk, ret);
	if (!r)
		r = kernel_read(k, *ret + (uint64_t)l->family, &family, sizeof(family));
	return r ? r : family == AF_UNIX ? 0 : -ENOTSUP;
}

int unix_waiting_read(int listener, const struct unix_diag *diag, const struct unix_diags *all, struct pool *pool, struct sock_packets *packets,
		      UnixSkEntry *e)
{
	struct kernel *k;
	struct layout l;
	uint64_t at;

	e->gone = pool_take(pool, (diag->n_waiting + 1) * sizeof(*e->gone));
	int r = e->gone ? kernel_open(&k) : -ENOMEM;
	if (r)
		return r;
	r = find_layout(k, &l);
	if (!r)
		r = find_sock(k, &l, listener, &at);
	if (!r)
		r = take_all(k, &l, at, diag, all, pool, packets, e);
	kernel_close(k);
	return r;
}

/* The messages of a stream, whose first may have been read in part. */
static int add_borders(struct kernel *k, const struct layout *l, uint64_t sock, int consumed_at, struct sock_borders *ret)
{
	const uint64_t head = sock + (uint64_t)l->queue;
	uint64_t at, files;
	size_t place = 0;
	int r = follow(k, head, 0, &at);

	for (uint32_t messages = 0; !r && at != head; messages++) {
		uint32_t len = 0, consumed = 0;
		r = messages > MESSAGES_MAX ? -ENOTSUP : number_at(k, at, l->len, &len);
		if (!r)
			r = number_at(k, at + (uint64_t)l->control, consumed_at, &consumed);
		if (!r)
			r = follow(k, at + (uint64_t)l->control, l->files, &files);
		size_t *slot = !r && files ? VEC_PUSH(&ret->places) : NULL;
		if (slot)
			*slot = place;
		else if (!r && files)
			r = -ENOMEM;
		place += len - consumed;
		if (!r)
			r = follow(k, at, l->next, &at);
	}
	return r;
}

int unix_borders_read(struct dump *d, int fd, struct sock_borders *ret)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int type = 0;
	socklen_t size = sizeof(type);
	const bool waits = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM && poll(&p, 1, 0) > 0 && p.revents & POLLIN;
	struct kernel *k = waits ? dump_kernel(d) : NULL;
	const int consumed = k ? kernel_offset(k, "unix_skb_parms", "consumed") : -1;
	struct layout l;
	uint64_t sock;
	int r = consumed < 0 ? -ENOTSUP : find_layout(k, &l);

	if (!r)
		r = find_sock(k, &l, fd, &sock);
	return r ? r : add_borders(k, &l, sock, consumed, ret);
}
