/* See tcp_packet.h; RFC 9293. */
#include "engine/kinds/tcp_packet.h"

#include "engine/kinds/loop_packet.h"

#include <linux/tcp.h>

int tcp_packet_send(const struct tcp_packet *p)
{
	const size_t head = sizeof(struct tcphdr) + p->n_options, size = head + p->size;
	char *segment = malloc(size);
	struct tcphdr h = {
		.source = htons(p->to.peer_port), .dest = htons(p->to.local_port), .seq = htonl(p->seq), .ack_seq = htonl(p->ack),
		.doff = (unsigned)(head / 4) & 15, .ack = !p->syn, .psh = p->size != 0, .syn = p->syn, .fin = p->fin, .rst = p->rst, .window = htons(p->window),
	};

	if (!segment)
		return -ENOMEM;
	memcpy(segment, &h, sizeof(h));
	memcpy(segment + sizeof(h), p->options, p->n_options);
	if (p->size)
		memcpy(segment + head, p->data, p->size);
	uint16_t check = loop_packet_checksum(&p->to, IPPROTO_TCP, segment, size);
	memcpy(segment + offsetof(struct tcphdr, check), &check, sizeof(check));
	int r = loop_packet_send(&p->to, p->scope, IPPROTO_TCP, segment, size);
	free(segment);
	return r;
}
