/* See netlink_ask.h. */
#include "engine/kinds/netlink_ask.h"

#define ANSWER_SIZE 32768 /* more than the kernel puts into one message of a dump */

int netlink_ask_on(struct mnl_socket *socket, const struct nlmsghdr *request, mnl_cb_t take, void *data)
{
	_cleanup_free_ char *answer = malloc(ANSWER_SIZE);
	int r = MNL_CB_OK;

	if (!answer)
		return -ENOMEM;
	if (mnl_socket_sendto(socket, request, request->nlmsg_len) < 0)
		return -errno;
	while (r > MNL_CB_STOP) {
		ssize_t n = mnl_socket_recvfrom(socket, answer, ANSWER_SIZE);
		r = n < 0 ? MNL_CB_ERROR : mnl_cb_run(answer, (size_t)n, 0, 0, take, data);
	}
	return r < 0 ? -errno : 0;
}

int netlink_ask(int protocol, const struct nlmsghdr *request, mnl_cb_t take, void *data)
{
	struct mnl_socket *socket = mnl_socket_open(protocol);

	if (!socket)
		return -errno;
	int r = mnl_socket_bind(socket, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno : netlink_ask_on(socket, request, take, data);
	mnl_socket_close(socket);
	return r;
}
