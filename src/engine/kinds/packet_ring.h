/*
 * The rings of a packet socket, packet(7) and Documentation/networking/packet_mmap.rst: memory that the kernel shares with the program, where
 * packets are put (PACKET_RX_RING) or fetched from (PACKET_TX_RING).
 *
 * Sizes come from sock_diag(7). How far the kernel is it tells nobody: that is read in its own memory (engine/kernel.h). Packets go on coming
 * while the program stands still: those from the moment on at which the place was read are taken out of the copy, as if they had been lost.
 */
#pragma once

#include "engine/kinds/kind.h"

#include <linux/packet_diag.h>

/* What sock_diag(7) tells: whether there is one. */
struct packet_rings {
	bool has_rx, has_tx; /* the latter is not told with TPACKET_V3 */
	struct packet_diag_ring rx, tx;
};

/* Bytes of the mapping that has both, the first for what is received. */
size_t packet_ring_size(const PacketRing *r);
size_t packet_rings_size(const PacketSockEntry *e);

struct pool;
/* Adds them to `e`, in `pool`, and writes what is in them. */
int packet_ring_capture(struct dump *d, struct descriptor *f, const struct packet_rings *told, struct pool *pool, PacketSockEntry *e);
/* The id of the socket whose ring is mapped at vma; 0: it is none that was captured. */
uint32_t packet_ring_find(struct dump *d, const struct proc_vma *vma);
void packet_ring_finish(void **state);
/* Makes them on a socket that is bound to nothing and has no filter; leaves one that lets nothing pass. */
int packet_ring_restore(struct restore *s, const PacketSockEntry *e, int fd);
