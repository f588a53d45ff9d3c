/* See unix_diag.h. */
#include "engine/kinds/unix_diag.h"

#include "engine/kinds/sock_diag.h"

#include <libmnl/libmnl.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static int take_attribute(const struct nlattr *a, void *to)
{
	struct unix_diag *x = to;
	const void *data = mnl_attr_get_payload(a);
	size_t size = mnl_attr_get_payload_len(a);

	switch (mnl_attr_get_type(a)) {
	case UNIX_DIAG_PEER:
		if (size >= 4) {
			x->has_peer = true;
			memcpy(&x->peer, data, 4);
		}
		break;
	case UNIX_DIAG_SHUTDOWN: x->shutdown = size ? *(const uint8_t *)data : 0; break;
	case UNIX_DIAG_RQLEN:
		if (size >= sizeof(struct unix_diag_rqlen))
			x->backlog = ((const struct unix_diag_rqlen *)data)->udiag_wqueue;
		break;
	case UNIX_DIAG_VFS:
		if (size >= sizeof(struct unix_diag_vfs))
			x->file = ((const struct unix_diag_vfs *)data)->udiag_vfs_ino;
		break;
	case UNIX_DIAG_ICONS:
		x->waiting = size ? malloc(size) : NULL;
		if (x->waiting)
			memcpy(x->waiting, data, size);
		x->n_waiting = x->waiting ? size / 4 : 0;
		break;
	}
	return MNL_CB_OK;
}

static int take_socket(const struct nlmsghdr *h, void *to)
{
	struct unix_diags *d = to;
	const struct unix_diag_msg *m = mnl_nlmsg_get_payload(h);
	struct unix_diag *x = VEC_PUSH(&d->list);

	if (!x)
		return MNL_CB_ERROR;
	x->ino = m->udiag_ino;
	x->type = m->udiag_type;
	x->state = m->udiag_state;
	x->cookie = m->udiag_cookie[0] | (uint64_t)m->udiag_cookie[1] << 32;
	return mnl_attr_parse(h, sizeof(*m), take_attribute, x);
}

static int by_inode(const void *a, const void *b)
{
	const struct unix_diag *x = a, *y = b;

	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

const struct unix_diag *unix_diag_find(const struct unix_diags *d, uint32_t ino)
{
	struct unix_diag key = { .ino = ino };

	return ino && d->list.count ? bsearch(&key, d->list.data, d->list.count, sizeof(key), by_inode) : NULL;
}

static int ask(struct mnl_socket *socket, struct unix_diags *ret)
{
	const struct unix_diag_req request = { .sdiag_family = AF_UNIX, .udiag_states = ~0U, .udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN };

	return sock_diag_dump(socket, &request, sizeof(request), take_socket, ret);
}

int unix_diag_read(struct unix_diags *ret)
{
	struct mnl_socket *socket = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
	int r = socket ? ask(socket, ret) : -errno;

	if (socket)
		mnl_socket_close(socket);
	if (r || !ret->list.count)
		return r;
	qsort(ret->list.data, ret->list.count, sizeof(*ret->list.data), by_inode);
	VEC_FOREACH(&ret->list, x)
		for (size_t i = 0; i < x->n_waiting; i++) {
			struct unix_diag *client = (struct unix_diag *)unix_diag_find(ret, x->waiting[i]);
			if (client)
				client->pending_on = x->ino;
		}
	return 0;
}

void unix_diag_free(struct unix_diags *d)
{
	VEC_FOREACH(&d->list, x)
		free(x->waiting);
	VEC_FREE(&d->list);
}
