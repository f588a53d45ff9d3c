/* See sock_diag.h. */
#include "engine/kinds/sock_diag.h"

#include "engine/kinds/netlink_ask.h"

#include <linux/sock_diag.h>

int sock_diag_dump(struct mnl_socket *socket, const void *request, size_t size, mnl_cb_t take, void *data)
{
	_cleanup_free_ char *buffer = malloc(MNL_NLMSG_HDRLEN + MNL_ALIGN(size));
	struct nlmsghdr *h = buffer ? mnl_nlmsg_put_header(buffer) : NULL;

	if (!h)
		return -ENOMEM;
	h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	memcpy(mnl_nlmsg_put_extra_header(h, size), request, size);
	return netlink_ask_on(socket, h, take, data);
}
