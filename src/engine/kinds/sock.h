/* What sockets of all families have in common: options, and packets that wait to be received (sk-queues.img). */
#pragma once

#include "base/pool.h"
#include "engine/kinds/kind.h"
#include "sk_packet.pb-c.h"

#include <sys/socket.h>

/* Whether the descriptor is a socket of that family. */
bool sock_is(const struct descriptor *f, int family);
/* Its options, in `pool`. */
int sock_capture_options(struct dump *d, struct descriptor *f, struct pool *pool, SkOptsEntry *o);
/* Those that matter before bind(2): device, and that an address may be used again. */
int sock_set_early(struct restore *s, int fd, const SkOptsEntry *o);
int sock_set_buffers(struct restore *s, int fd, const SkOptsEntry *o);
/* All of them; after data is queued, as buffer sizes are among them. */
int sock_set_options(struct restore *s, int fd, const SkOptsEntry *o);

/* A message that waits in a socket. */
struct sock_packet {
	SkPacketEntry entry; /* dump: its arrays are the pool's */
	char *data;
	int *fds; /* dump: the descriptors that travel with it, in the coordinator */
	size_t n_fds;
};
struct sock_packets {
	VEC(struct sock_packet) list;
	struct pool pool;
};

/* Where, in what waits in a stream, messages with descriptors begin: bytes from the start, in ascending order. */
struct sock_borders {
	VEC(size_t) places;
};

/* Looks at all that waits in a unix or UDP socket and takes nothing out. `borders`, of a unix stream, may be NULL: then descriptors come with the
 * first byte that is not parted from theirs by other descriptors. The fds are the caller's. -EDOM: there is urgent data (MSG_OOB),
 * whose place among the others does not show. */
int sock_peek(int fd, const struct sock_borders *borders, struct sock_packets *ret);
/* Refuses one that has packets to be read or an error, where the kernel shows them only to who takes them; --skip-in-flight lets them go. */
int sock_refuse_waiting(struct dump *d, struct descriptor *f);
void sock_packets_free(struct sock_packets *p);
/* Adds it to sk-queues.img, which sock_packets_finish ends. */
int sock_packet_write(struct dump *d, const struct sock_packet *p);
int sock_packets_finish(struct dump *d);

/* The packets of sk-queues.img, by the id of the file they wait in. */
struct sock_queue {
	SkPacketEntry *entry;
	char *data;
	struct sock_queue *next;
};
int sock_queues_load(struct restore *s, struct sock_queue **ret);
void sock_queues_free(struct sock_queue *q);
