/*
 * See loop_packet.h; RFC 791, RFC 8200, RFC 1071. A packet that is sent to an address of this machine goes by way of the loopback device, to
 * which the socket is bound, and is not asked for where it comes from.
 */
#include "engine/kinds/loop_packet.h"

#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <sys/socket.h>

#define HOPS 64

static uint32_t sum_of(const void *data, size_t size, uint32_t sum)
{
	const unsigned char *p = data;

	for (size_t i = 0; i < size; i++)
		sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
	return sum;
}

/* With the pseudo header: both addresses, length, protocol. */
uint16_t loop_packet_checksum(const struct connection *to, int protocol, const void *segment, size_t size)
{
	size_t address = to->family == AF_INET ? 4 : 16;
	uint32_t sum = sum_of(to->local, address, sum_of(to->peer, address, (uint32_t)protocol + (uint32_t)size));

	sum = sum_of(segment, size, sum);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static int send_with(int family, uint32_t scope, struct iovec *v, const struct sockaddr *to, socklen_t to_size)
{
	_cleanup_close_ int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	struct msghdr m = { .msg_name = (void *)to, .msg_namelen = to_size, .msg_iov = v, .msg_iovlen = 2 };
	uint32_t mark = NETWORK_LOCK_MARK;

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0)
		return -errno;
	if (!scope && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 3) < 0)
		return -errno;
	return sendmsg(fd, &m, 0) < 0 ? -errno : 0;
}

static int send_four(const struct connection *c, int protocol, struct iovec *v)
{
	struct iphdr ip = { .version = 4, .ihl = 5, .ttl = HOPS, .protocol = (uint8_t)protocol };
	struct sockaddr_in to = { .sin_family = AF_INET };

	ip.tot_len = htons((uint16_t)(sizeof(ip) + v[1].iov_len));
	memcpy(&ip.saddr, c->peer, 4);
	memcpy(&ip.daddr, c->local, 4);
	memcpy(&to.sin_addr, c->local, 4);
	v[0] = (struct iovec){ &ip, sizeof(ip) };
	return send_with(AF_INET, 0, v, (struct sockaddr *)&to, sizeof(to));
}

static int send_six(const struct connection *c, uint32_t scope, int protocol, struct iovec *v)
{
	struct ip6_hdr ip = {};
	struct sockaddr_in6 to = { .sin6_family = AF_INET6, .sin6_scope_id = scope };

	ip.ip6_flow = htonl(6U << 28);
	ip.ip6_plen = htons((uint16_t)v[1].iov_len);
	ip.ip6_nxt = (uint8_t)protocol;
	ip.ip6_hlim = HOPS;
	memcpy(&ip.ip6_src, c->peer, 16);
	memcpy(&ip.ip6_dst, c->local, 16);
	memcpy(&to.sin6_addr, c->local, 16);
	v[0] = (struct iovec){ &ip, sizeof(ip) };
	return send_with(AF_INET6, scope, v, (struct sockaddr *)&to, sizeof(to));
}

int loop_packet_send(const struct connection *to, uint32_t scope, int protocol, const void *segment, size_t size)
{
	struct iovec v[2] = { [1] = { (void *)segment, size } };

	return to->family == AF_INET ? send_four(to, protocol, v) : send_six(to, scope, protocol, v);
}
