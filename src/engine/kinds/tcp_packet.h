/* A packet of TCP that seems to come from the peer, sent to a socket of ours: some of its states are only reached by one. */
#pragma once

#include "engine/network_lock.h"

#include <stdbool.h>

struct tcp_packet {
	struct connection to;
	uint32_t scope; /* of a link-local address, or 0 */
	uint32_t seq, ack;
	uint16_t window; /* as it stands in the packet */
	bool fin, rst, syn; /* syn: without an acknowledgement */
	unsigned char options[40];
	size_t n_options; /* a multiple of 4 */
	const void *data;
	size_t size;
};

/* It passes a network lock and never leaves this machine. */
int tcp_packet_send(const struct tcp_packet *p);
