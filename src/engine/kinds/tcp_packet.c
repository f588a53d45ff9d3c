/*
 * See tcp_packet.h; raw(7), ipv6(7), RFC 9293. A packet that is sent to an address of this machine goes by way of the loopback device, to
 * which the socket is bound, and is not asked for where it comes from.
 */
#include "engine/kinds/tcp_packet.h"

#include <linux/tcp.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <sys/socket.h>

#define HOPS 64

static uint32_t sum_of(const void *data, size_t size, uint32_t sum)
{
	const unsigned char *p = data;

	for (size_t i = 0; i + 1 < size; i += 2)
		sum += (uint32_t)p[i] << 8 | p[i + 1];
	return sum;
}

/* With the pseudo header: both addresses, length, protocol. */
static uint16_t checksum(const struct tcp_packet *p, const struct tcphdr *h)
{
	size_t size = p->to.family == AF_INET ? 4 : 16;
	uint32_t sum = sum_of(p->to.local, size, sum_of(p->to.peer, size, IPPROTO_TCP + sizeof(*h)));

	sum = sum_of(h, sizeof(*h), sum);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static void fill(const struct tcp_packet *p, struct tcphdr *h)
{
	*h = (struct tcphdr){
		.source = htons(p->to.peer_port), .dest = htons(p->to.local_port), .seq = htonl(p->seq), .ack_seq = htonl(p->ack),
		.doff = sizeof(*h) / 4, .ack = 1, .fin = p->fin, .rst = p->rst, .window = htons(p->window),
	};
	h->check = checksum(p, h);
}

static int send_from(const struct tcp_packet *p, const void *data, size_t size, const struct sockaddr *to, socklen_t to_size)
{
	_cleanup_close_ int fd = socket(p->to.family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	uint32_t mark = NETWORK_LOCK_MARK;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
		return -errno;
	if (!p->scope && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0)
		return -errno;
	return sendto(fd, data, size, 0, to, to_size) < 0 ? -errno : 0;
}

static int send_four(const struct tcp_packet *p)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} packet = { .ip = { .version = 4, .ihl = 5, .ttl = HOPS, .protocol = IPPROTO_TCP, .tot_len = htons(sizeof(packet)) } };
	struct sockaddr_in to = { .sin_family = AF_INET };

	memcpy(&packet.ip.saddr, p->to.peer, 4);
	memcpy(&packet.ip.daddr, p->to.local, 4);
	memcpy(&to.sin_addr, p->to.local, 4);
	fill(p, &packet.tcp);
	return send_from(p, &packet, sizeof(packet), (struct sockaddr *)&to, sizeof(to));
}

static int send_six(const struct tcp_packet *p)
{
	struct {
		struct ip6_hdr ip;
		struct tcphdr tcp;
	} packet = {};
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_scope_id = p->scope };

	packet.ip.ip6_flow = htonl(6U << 28);
	packet.ip.ip6_plen = htons(sizeof(packet.tcp));
	packet.ip.ip6_nxt = IPPROTO_TCP;
	packet.ip.ip6_hlim = HOPS;
	memcpy(&packet.ip.ip6_src, p->to.peer, 16);
	memcpy(&packet.ip.ip6_dst, p->to.local, 16);
	memcpy(&to.sin6_addr, p->to.local, 16);
	fill(p, &packet.tcp);
	return send_from(p, &packet, sizeof(packet), (struct sockaddr *)&to, sizeof(to));
}

int tcp_packet_send(const struct tcp_packet *p)
{
	return p->to.family == AF_INET ? send_four(p) : send_six(p);
}
