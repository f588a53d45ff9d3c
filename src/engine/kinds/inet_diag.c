/* See inet_diag.h. */
#include "engine/kinds/inet_diag.h"

#include "engine/kinds/sock_diag.h"

#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static int take_attribute(const struct nlattr *a, void *to)
{
	struct inet_diag *x = to;

	struct tcp_info info = {};

	switch (mnl_attr_get_type(a)) {
	case INET_DIAG_INFO:
		memcpy(&info, mnl_attr_get_payload(a), MIN((size_t)mnl_attr_get_payload_len(a), sizeof(info)));
		x->options = info.tcpi_options;
		x->snd_wscale = info.tcpi_snd_wscale;
		x->rcv_wscale = info.tcpi_rcv_wscale;
		break;
	case INET_DIAG_SHUTDOWN: x->shutdown = mnl_attr_get_payload_len(a) ? mnl_attr_get_u8(a) : 0; break;
	case INET_DIAG_MD5SIG: x->secured = true; break;
	case INET_DIAG_ULP_INFO: x->upper = true; break;
	}
	return MNL_CB_OK;
}

static bool is_mapped(const void *address)
{
	static const unsigned char prefix[12] = { [10] = 0xff, [11] = 0xff };

	return !memcmp(address, prefix, sizeof(prefix));
}

static int take_socket(const struct nlmsghdr *h, void *to)
{
	struct inet_diags *d = to;
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(h);
	struct inet_diag *x = VEC_PUSH(&d->list);

	if (!x)
		return MNL_CB_ERROR;
	bool mapped = m->idiag_family == AF_INET6 && is_mapped(m->id.idiag_src);
	size_t skip = mapped ? 12 : 0, size = m->idiag_family == AF_INET || mapped ? 4 : 16;
	x->ino = m->idiag_inode;
	x->state = m->idiag_state;
	x->family = m->idiag_family;
	x->unread = m->idiag_rqueue;
	x->id = m->id;
	x->connection.family = size == 4 ? AF_INET : AF_INET6;
	memcpy(x->connection.local, (const char *)m->id.idiag_src + skip, size);
	memcpy(x->connection.peer, (const char *)m->id.idiag_dst + skip, size);
	x->connection.local_port = ntohs(m->id.idiag_sport);
	x->connection.peer_port = ntohs(m->id.idiag_dport);
	return mnl_attr_parse(h, sizeof(*m), take_attribute, x);
}

static int ask(struct mnl_socket *socket, int family, int protocol, uint32_t states, struct inet_diags *ret)
{
	const struct inet_diag_req_v2 request = { .sdiag_family = (uint8_t)family, .sdiag_protocol = (uint8_t)protocol,
						    .idiag_ext = 1U << (INET_DIAG_INFO - 1), .idiag_states = states };

	return sock_diag_dump(socket, &request, sizeof(request), take_socket, ret);
}

static int by_inode(const void *a, const void *b)
{
	const struct inet_diag *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

const struct inet_diag *inet_diag_find(const struct inet_diags *d, uint32_t ino)
{
	struct inet_diag key = { .ino = ino };

	return ino && d->list.count ? bsearch(&key, d->list.data, d->list.count, sizeof(key), by_inode) : NULL;
}

const struct inet_diag *inet_diag_find_connection(const struct inet_diags *d, const struct connection *c)
{
	VEC_FOREACH(&d->list, x)
		if (!x->ino && !memcmp(&x->connection, c, sizeof(*c)))
			return x;
	return NULL;
}

static int read_states(int protocol, uint32_t states, struct inet_diags *ret)
{
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	int r = socket ? ask(socket, AF_INET, protocol, states, ret) : -errno;

	if (!r)
		r = ask(socket, AF_INET6, protocol, states, ret);
	if (r == -ENOENT || r == -EAFNOSUPPORT) /* no IPv6 here */
		r = ret->list.count ? 0 : r;
	if (socket)
		mnl_socket_close(socket);
	if (!r && ret->list.count)
		qsort(ret->list.data, ret->list.count, sizeof(*ret->list.data), by_inode);
	return r;
}

int inet_diag_read(int protocol, struct inet_diags *ret)
{
	return read_states(protocol, ~(1U << TCP_LISTEN | 1U << TCP_TIME_WAIT | 1U << TCP_CLOSE), ret);
}

static int destroy(int protocol, const struct inet_diag *x)
{
	char buffer[512];
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
	int r = socket ? 0 : -errno;

	h->nlmsg_type = SOCK_DESTROY;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	struct inet_diag_req_v2 *request = mnl_nlmsg_put_extra_header(h, sizeof(*request));
	*request = (struct inet_diag_req_v2){ .sdiag_family = (uint8_t)x->family, .sdiag_protocol = (uint8_t)protocol, .idiag_states = ~0U, .id = x->id };
	if (!r && mnl_socket_sendto(socket, h, h->nlmsg_len) < 0)
		r = -errno;
	ssize_t n = r ? 0 : mnl_socket_recvfrom(socket, buffer, sizeof(buffer));
	if (!r && (n < 0 || mnl_cb_run(buffer, (size_t)n, 0, 0, NULL, NULL) < 0))
		r = -errno;
	if (socket)
		mnl_socket_close(socket);
	return r;
}

int inet_diag_destroy(int protocol, const struct connection *c)
{
	struct inet_diags all = {};
	int r = read_states(protocol, ~(1U << TCP_LISTEN), &all);
	bool found = false;

	VEC_FOREACH(&all.list, x)
		if (!r && !memcmp(&x->connection, c, sizeof(*c))) {
			found = true;
			r = x->ino ? -EBUSY : destroy(protocol, x);
		}
	inet_diag_free(&all);
	return r ? r : found ? 0 : -ENOENT;
}

int inet_diag_forget_closed(int protocol, uint16_t port)
{
	struct inet_diags all = {};
	int forgotten = 0;

	/* FIN-WAIT2 without a descriptor is a stage of TIME-WAIT, in the kernel. */
	if (!read_states(protocol, 1U << TCP_TIME_WAIT | 1U << TCP_FIN_WAIT2, &all))
		VEC_FOREACH(&all.list, x)
			forgotten += !x->ino && x->connection.local_port == port && !destroy(protocol, x);
	inet_diag_free(&all);
	return forgotten;
}

void inet_diag_free(struct inet_diags *d)
{
	VEC_FREE(&d->list);
}
