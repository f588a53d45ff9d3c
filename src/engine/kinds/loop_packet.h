/* A packet that seems to come from elsewhere, sent to a socket of this machine: raw(7), ipv6(7). */
#pragma once

#include "engine/network_lock.h"

/* The checksum of a segment (header and data of TCP or UDP, its own field zero), from the peer to us, in network order. */
uint16_t loop_packet_checksum(const struct connection *to, int protocol, const void *segment, size_t size);
/* Puts the header of IP before it. It passes a network lock and never leaves this machine. `scope`: of a link-local address, or 0. */
int loop_packet_send(const struct connection *to, uint32_t scope, int protocol, const void *segment, size_t size);
