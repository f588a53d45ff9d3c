/* Probes of what TCP connections are saved with. */
#include "engine/kinds/inet_diag.h"
#include "engine/network_lock.h"
#include "engine/probe/probe.h"

#include <linux/tcp.h>
#include <sys/socket.h>

/* A socket that repair connects to itself, as it were: no packet is sent. */
int probe_tcp_repair(struct probe_ground *g)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct tcp_repair_window window;
	socklen_t size = sizeof(window);
	int on = TCP_REPAIR_ON;

	if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
		return -errno;
	at.sin_port = htons(9);
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || getsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, &size) < 0)
		return -errno;
	return 0;
}

int probe_tcp_diag(struct probe_ground *g)
{
	struct inet_diags all = {};
	int r = inet_diag_read(IPPROTO_TCP, &all);

	inet_diag_free(&all);
	return r;
}

/* A lock on nothing, for a moment. */
int probe_nftables(struct probe_ground *g)
{
	struct network_lock *lock;
	int r = network_lock_new(&lock, g->e);

	network_lock_free(lock);
	return r;
}
