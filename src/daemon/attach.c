/* See attach.h. */
#include "daemon/attach.h"

#include <fcntl.h>
#include <microhttpd.h>
#include <poll.h>
#include <sys/socket.h>

struct attachment {
	struct daemon *daemon;
	struct MHD_UpgradeResponseHandle *handle;
	int client, supervisor;
};

static bool send_all(int fd, const char *data, size_t size)
{
	while (size) {
		ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN) {
			struct pollfd poller = { .fd = fd, .events = POLLOUT };
			poll(&poller, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data += n;
		size -= (size_t)n;
	}
	return true;
}

/* False: one side has ended. */
static bool pass(int from, int to)
{
	char data[16384];
	ssize_t n = recv(from, data, sizeof(data), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	return n > 0 && send_all(to, data, (size_t)n);
}

static void *run(void *argument)
{
	struct attachment *a = argument;
	struct pollfd polls[2] = { { .fd = a->client, .events = POLLIN }, { .fd = a->supervisor, .events = POLLIN } };

	a->daemon->counters.attached++;
	while (poll(polls, 2, -1) >= 0 || errno == EINTR) {
		if (polls[1].revents && !pass(a->supervisor, a->client))
			break;
		if (polls[0].revents && !pass(a->client, a->supervisor))
			break;
	}
	a->daemon->counters.attached--;
	close(a->supervisor);
	MHD_upgrade_action(a->handle, MHD_UPGRADE_ACTION_CLOSE);
	free(a);
	return NULL;
}

void attach_begin(struct daemon *d, struct MHD_UpgradeResponseHandle *handle, int client, int supervisor, const char *extra, size_t size)
{
	struct attachment *a = malloc(sizeof(*a));
	pthread_attr_t attributes;
	pthread_t thread;
	int r = -1;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, 128UL << 10);
	if (a && send_all(supervisor, extra, size)) {
		*a = (struct attachment){ d, handle, client, supervisor };
		r = pthread_create(&thread, &attributes, run, a);
	}
	pthread_attr_destroy(&attributes);
	if (r) {
		free(a);
		close(supervisor);
		MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
	}
}
