/* What the kernel tells about the unix sockets of this network namespace: sock_diag(7), NETLINK_SOCK_DIAG. */
#pragma once

#include "base/base.h"

struct unix_diag {
	uint32_t ino, type, state;
	uint32_t peer;	     /* inode of the peer */
	bool has_peer;	     /* there is one; with `peer` 0 it has no inode: it has gone, or waits to be accepted */
	uint32_t pending_on; /* the listener that has not accepted this client yet */
	uint32_t shutdown;   /* bit 0 receiving, bit 1 sending */
	uint32_t backlog;
	uint32_t file;	     /* inode of its name's file */
	uint64_t cookie;
	uint32_t *waiting; /* of a listener: the clients that it has not accepted, the first first; 0: has gone */
	size_t n_waiting;
};

struct unix_diags {
	VEC(struct unix_diag) list; /* by inode */
};

int unix_diag_read(struct unix_diags *ret);
const struct unix_diag *unix_diag_find(const struct unix_diags *d, uint32_t ino);
void unix_diag_free(struct unix_diags *d);
