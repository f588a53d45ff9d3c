/* What the kernel keeps of a netlink socket besides what getsockopt(2) tells: it is the audit daemon's, it has a queue of netfilter, it owns tables. */
#pragma once

#include "engine/task/task.h"

/* Whether a socket of that protocol is tied so: 0, or 1 with what is (a literal) in *what, or -errno when the kernel can't be asked. `port`: its
 * own, 0 while it is not bound. The network namespace is the caller's. */
int netlink_ties(const struct dump *d, uint32_t protocol, uint32_t port, const char **what);
