/* Asking the kernel for all sockets of a kind: sock_diag(7). */
#pragma once

#include "base/base.h"

#include <libmnl/libmnl.h>

/* `request`: of the family's own type. Each answer is given to `take`. */
int sock_diag_dump(struct mnl_socket *socket, const void *request, size_t size, mnl_cb_t take, void *data);
