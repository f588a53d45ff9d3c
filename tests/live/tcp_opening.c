/* Connections under way: the listener's filter lets no packet through, so that none opens before it is taken off. */
#include "tcp.h"
#include <linux/filter.h>
#include <pthread.h>

static union address at[2];
static int caller = -1;

/* One that waits in connect(2). */
static void *call(void *argument)
{
	caller = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(caller >= 0);
	int r = connect(caller, &at[0].any, sizeof at[0]);
	if (r != 0) live_say("not ok: connect: %s", strerror(errno));
	CHECK(r == 0);
	return NULL;
}

static int open_to(const union address *to)
{
	int fd = socket(to->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
	CHECK(fd >= 0 && connect(fd, &to->any, sizeof *to) == -1 && errno == EINPROGRESS && state_of(fd) == TCP_SYN_SENT);
	return fd;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct sock_filter none[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
	struct sock_fprog filter = {1, none};
	int families = has_six() ? 2 : 1, listener[2], client[2];
	union address name[2];
	pthread_t thread;
	for (int i = 0; i < families; i++) {
		listener[i] = listen_at((enum family)i, &at[i]);
		CHECK(setsockopt(listener[i], SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);
		client[i] = open_to(&at[i]);
		name[i] = name_of(client[i], 0);
	}
	CHECK(pthread_create(&thread, NULL, call, NULL) == 0);
	while (caller < 0 || state_of(caller) != TCP_SYN_SENT) usleep(1000);
	wait_go();
	for (int i = 0; i < families; i++) {
		union address now = name_of(client[i], 0);
		CHECK(state_of(client[i]) == TCP_SYN_SENT && memcmp(&now, &name[i], sizeof now) == 0);
		CHECK(fcntl(client[i], F_GETFL) & O_NONBLOCK && !(fcntl(caller, F_GETFL) & O_NONBLOCK));
	}
	for (int i = 0; i < families; i++) {
		char c = 0;
		int error = -1, server;
		socklen_t size = sizeof error;
		CHECK(setsockopt(listener[i], SOL_SOCKET, SO_DETACH_FILTER, &error, sizeof error) == 0);
		struct pollfd p = {.fd = client[i], .events = POLLOUT};
		CHECK(poll(&p, 1, 9000) == 1 && getsockopt(client[i], SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0);
		CHECK(state_of(client[i]) == TCP_ESTABLISHED && send(client[i], "a", 1, 0) == 1);
		union address peer;
		do { /* the other call may be the first to come through */
			CHECK((server = accept(listener[i], NULL, NULL)) >= 0);
			peer = name_of(server, 1);
		} while (memcmp(&peer, &name[i], sizeof peer) != 0);
		CHECK(recv(server, &c, 1, 0) == 1 && c == 'a');
	}
	CHECK(pthread_join(thread, NULL) == 0 && state_of(caller) == TCP_ESTABLISHED);
	return finish();
}
