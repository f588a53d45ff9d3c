/* What the kernel tells about the internet sockets of this network namespace: sock_diag(7), NETLINK_SOCK_DIAG. */
#pragma once

#include "base/base.h"
#include "engine/network_lock.h"

#include <linux/inet_diag.h>

struct inet_diag {
	uint32_t ino; /* 0: one without a descriptor */
	uint32_t state;
	int family; /* the socket's own, which may be AF_INET6 where that of the connection is AF_INET */
	struct inet_diag_sockid id; /* as the kernel has it */
	struct connection connection;
	uint32_t shutdown; /* bit 0 receiving, bit 1 sending */
	bool secured;	   /* it has keys of TCP-MD5 */
	uint32_t unread;   /* bytes */
	uint8_t options, snd_wscale, rcv_wscale; /* as TCP_INFO has them */
	bool upper;	   /* another protocol stands on it (TLS in the kernel, MPTCP) */
};

struct inet_diags {
	VEC(struct inet_diag) list; /* by inode */
};

/* All of IPv4 and IPv6 that have a connection. */
int inet_diag_read(int protocol, struct inet_diags *ret);
const struct inet_diag *inet_diag_find(const struct inet_diags *d, uint32_t ino);
/* One without a descriptor. */
const struct inet_diag *inet_diag_find_connection(const struct inet_diags *d, const struct connection *c);
/* Ends that connection, if no process has it: the rest of one that was closed, or TIME-WAIT. -EBUSY: somebody has it. -ENOENT: there is
 * none. Linux 4.5 with CONFIG_INET_DIAG_DESTROY; what the kernel sends then is the caller's to hold back. */
int inet_diag_destroy(int protocol, const struct connection *c);
/* Forgets what is left of closed connections of that local port, for the minute in which a port that no process has can't be bound (TIME-WAIT). Nothing is sent.
 * Gives how many there were. */
int inet_diag_forget_closed(int protocol, uint16_t port);
void inet_diag_free(struct inet_diags *d);
