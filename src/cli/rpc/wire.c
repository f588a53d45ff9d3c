/* Packets of the RPC. See rpc.h. */
#include "cli/rpc/rpc.h"

#include <sys/socket.h>

#define REQUEST_MAX (1u << 20)

int rpc_send(int sk, const CriuResp *resp)
{
	const size_t size = criu_resp__get_packed_size(resp);
	_cleanup_free_ uint8_t *packet = malloc(size);
	ssize_t n;

	if (!packet)
		return -ENOMEM;
	criu_resp__pack(resp, packet);
	do
		n = send(sk, packet, size, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static ssize_t receive(int sk, void *to, size_t size, int flags)
{
	ssize_t n;

	do
		n = recv(sk, to, size, flags);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int rpc_receive(int sk, CriuReq **ret)
{
	/* A packet of nothing and the end of the connection look the same, and neither is a request. */
	ssize_t size = receive(sk, NULL, 0, MSG_PEEK | MSG_TRUNC);

	if (size <= 0)
		return size ? (int)size : -ENODATA;
	if (size > (ssize_t)REQUEST_MAX)
		return -EMSGSIZE;
	_cleanup_free_ uint8_t *packet = malloc((size_t)size);
	if (!packet)
		return -ENOMEM;
	ssize_t n = receive(sk, packet, (size_t)size, 0);
	if (n != size)
		return n < 0 ? (int)n : -EBADMSG;
	*ret = criu_req__unpack(NULL, (size_t)n, packet);
	return *ret ? 0 : -EBADMSG;
}
