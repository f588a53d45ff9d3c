/* See tcp_packet.h; RFC 9293. */
#include "engine/kinds/tcp_packet.h"

#include "engine/kinds/loop_packet.h"

#include <linux/tcp.h>

int tcp_packet_send(const struct tcp_packet *p)
{
	struct tcphdr h = {
		.source = htons(p->to.peer_port), .dest = htons(p->to.local_port), .seq = htonl(p->seq), .ack_seq = htonl(p->ack),
		.doff = sizeof(h) / 4, .ack = 1, .fin = p->fin, .rst = p->rst, .window = htons(p->window),
	};

	h.check = loop_packet_checksum(&p->to, IPPROTO_TCP, &h, sizeof(h));
	return loop_packet_send(&p->to, p->scope, IPPROTO_TCP, &h, sizeof(h));
}
