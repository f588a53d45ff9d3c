/* See sock_diag.h. */
#include "engine/kinds/sock_diag.h"

#include <linux/sock_diag.h>

int sock_diag_dump(struct mnl_socket *socket, const void *request, size_t size, mnl_cb_t take, void *data)
{
	const size_t room = MNL_SOCKET_BUFFER_SIZE * 4UL;
	_cleanup_free_ char *buffer = malloc(room);
	struct nlmsghdr *h = buffer ? mnl_nlmsg_put_header(buffer) : NULL;
	int r = MNL_CB_OK;

	if (!h)
		return -ENOMEM;
	h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	memcpy(mnl_nlmsg_put_extra_header(h, size), request, size);
	if (mnl_socket_sendto(socket, h, h->nlmsg_len) < 0)
		return -errno;
	while (r > MNL_CB_STOP) {
		ssize_t n = mnl_socket_recvfrom(socket, buffer, room);
		r = n < 0 ? MNL_CB_ERROR : mnl_cb_run(buffer, (size_t)n, 0, 0, take, data);
	}
	return r < 0 ? -errno : 0;
}
