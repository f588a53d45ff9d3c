/* One request to the kernel by netlink(7), and its answers. */
#pragma once

#include "base/base.h"

#include <libmnl/libmnl.h>

/* `request` is complete but for its sequence; with NLM_F_DUMP or NLM_F_ACK all answers are given to `take` (NULL: nobody), with neither until it
 * says MNL_CB_STOP. 0, or -errno: the kernel's own answer too. */
int netlink_ask(int protocol, const struct nlmsghdr *request, mnl_cb_t take, void *data);
/* The same by a socket that is there, and bound. */
int netlink_ask_on(struct mnl_socket *socket, const struct nlmsghdr *request, mnl_cb_t take, void *data);
