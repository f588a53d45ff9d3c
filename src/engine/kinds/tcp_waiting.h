/*
 * TCP connections that a listener has not accepted. No call tells of them but accept(2), which can't be undone; so they are looked at where the
 * kernel keeps them (engine/kernel.h), while their packets are held back.
 *
 * On restore they must stand in the listener's queue again, where nothing but a handshake puts them, in which the kernel chooses its own first number.
 * There is one case in which it does not: a new connection in place of one in TIME-WAIT goes on 65537 behind that one's last number
 * (RFC 6191, tcp_timewait_state_process). So such a one is made with TCP_REPAIR, and the handshake and what the peer had sent are sent again
 * (tcp_packet.h), without the peer hearing of it.
 *
 * Timestamps (RFC 7323) go on from the same clock only as long as the machine has not been booted. Refused: listeners with SO_REUSEPORT, which
 * share out what comes; those bound to a device; link-local addresses.
 */
#pragma once

#include "engine/kinds/kind.h"
#include "engine/network_lock.h"

#define TCP_WAITING_OPTIONS 7U /* of those that TCP_INFO has: timestamps, SACK, window scaling */

struct tcp_waiting;

/* Dump. `n`: how many there are, for what is said. They are held back by `lock`, which may be NULL, and written. */
int tcp_waiting_capture(struct dump *d, struct descriptor *f, const SkOptsEntry *options, struct network_lock *lock, unsigned int n);

/* Restore: reads and checks the image of the listener `f`; *ret NULL: there is none. The next of the list is the caller's. */
int tcp_waiting_load(struct restore *s, struct file *f, struct tcp_waiting **ret);
/* Adds their connections, to be held back, and gives how many there are. */
size_t tcp_waiting_count(const struct tcp_waiting *w);
const struct connection *tcp_waiting_at(const struct tcp_waiting *w, size_t i);
/* The listener is there and held back is what comes for them. */
int tcp_waiting_build(struct restore *s, struct tcp_waiting *w);
void tcp_waiting_free(struct tcp_waiting *w);
