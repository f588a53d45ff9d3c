/*
 * Holding back the packets of certain TCP connections while nobody answers for them: a table of nftables of our own that drops them, so
 * that the peer hears nothing, and no reset. Rules on nft(8): the packets of other connections are never touched.
 *
 * There are two forms. A lock belongs to the process that made it (the flag "owner", Linux 5.12): the kernel removes it when that ends in
 * whatever way. A kept lock stays until somebody removes it by its id.
 */
#pragma once

#include "base/error.h"

#include <netinet/in.h>

/* A connection as this machine sees it: IPv4 or IPv6, never one as the other. */
struct connection {
	int family;
	unsigned char local[16], peer[16];
	uint16_t local_port, peer_port;
};

/* Packets with this mark pass. */
#define NETWORK_LOCK_MARK 0x0fe27a7aU

struct network_lock;
/* A lock on nothing. An error says what is missing, and what would help. */
int network_lock_new(struct network_lock **ret, struct error *e);
int network_lock_add(struct network_lock *lock, const struct connection *list, size_t n, struct error *e);
/* Makes a kept lock on the same connections. `dir`: the checkpoint it is for. */
int network_lock_keep(struct network_lock *lock, uint64_t id, const char *dir, struct error *e);
/* Removes the kept lock; 0 too when there is none. */
int network_lock_remove(struct network_lock *lock, uint64_t id);
/* Ends the lock; a kept one stays. Takes NULL. */
void network_lock_free(struct network_lock *lock);
/* Removes kept locks that nobody will ask for any more: of a connection that is alive here, or of a checkpoint that is gone since a day. */
void network_lock_clean(struct network_lock *lock);
