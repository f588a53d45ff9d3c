/* TCP connections: their state and what is queued, taken and made again by TCP_REPAIR. The sockets themselves are inet.c's. */
#pragma once

#include "base/pool.h"
#include "engine/kinds/kind.h"

#include <netinet/in.h>

/* States, as TCP_INFO and the images have them. netinet/tcp.h, which names them, does not go together with linux/tcp.h. */
enum {
	STATE_ESTABLISHED = 1, STATE_SYN_SENT, STATE_SYN_RECV, STATE_FIN_WAIT1, STATE_FIN_WAIT2, STATE_TIME_WAIT, STATE_CLOSE, STATE_CLOSE_WAIT,
	STATE_LAST_ACK, STATE_LISTEN, STATE_CLOSING,
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* Port and address as the images have them: host order, network order. */
void inet_split(const union address *a, uint32_t *port, uint32_t *addr, uint32_t *scope);
/* Its size. */
socklen_t inet_join(const InetSkEntry *e, uint32_t port, const uint32_t *addr, size_t n, union address *to);
/* Binds it where it was; made, its early options set. */
int inet_bind(struct restore *s, const InetSkEntry *e, int fd);
int inet_failed(struct restore *s, const InetSkEntry *e, int r, const char *what, const union address *at, uint32_t port);

/* ---- dump ---- */

/* Adds state, peer and what was shut down, whose arrays are the pool's; writes tcp-stream-INO.img for a connection. */
int tcp_capture(struct dump *d, struct descriptor *f, struct pool *pool, InetSkEntry *e);
/* Holds back the packets of all connections of the tree, where --tcp-established asks for them: once, before what is not stopped is looked at. */
int tcp_hold_back(struct dump *d);
/* The checkpoint stands and the tree is about to be ended: nothing is sent for its connections from now on. Kills the processes itself,
 * so that whoever is killed meanwhile, all of it or nothing is done. */
int tcp_end_tree(struct dump *d);
/* The connections may go on, where they have not ended. */
void tcp_release(struct dump *d);

/* ---- restore ---- */

struct tcp_restore;
/* Reads and checks what the images have of connections. */
int tcp_load(struct restore *s);
/* Brings a socket that was just made to where `f` was; for all but listeners and those that never had a connection. */
bool tcp_has_state(const struct restore *s, const struct file *f);
int tcp_build(struct restore *s, struct file *f, int fd);
/* What listeners had not accepted, once all sockets are there. */
int tcp_build_waiting(struct restore *s);
/* All is there. They may be closed now, which the peer is not told as long as it is held back. */
void tcp_end_repair(struct restore *s);
/* The tree is about to run, whatever becomes of us: they go on, and nothing is held back any more. It is done by a process apart. */
bool tcp_must_resume(const struct restore *s);
void tcp_resume(struct restore *s);
void tcp_restore_release(struct restore *s);
