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
	uint32_t queued;     /* bytes to be read; of a listener: connections */
	uint32_t file, file_dev; /* inode and device (the kernel's encoding) of its name's file */
	char name[108];
	size_t name_size;
	uint32_t *waiting; /* of a listener: the clients that it has not accepted, the first first; 0: has gone */
	size_t n_waiting;
};

struct unix_diags {
	VEC(struct unix_diag) list; /* by inode */
};

int unix_diag_read(struct unix_diags *ret);
/* Bytes that wait in the connections which a listener has not accepted; the kernel shows how many, and nothing of them. */
uint64_t unix_diag_unaccepted(const struct unix_diags *d, const struct unix_diag *listener);
const struct unix_diag *unix_diag_find(const struct unix_diags *d, uint32_t ino);
void unix_diag_free(struct unix_diags *d);
