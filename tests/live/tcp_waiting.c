/*
 * TCP connections that the listener has not accepted yet, in their order: with nothing, little and much that was received, one whose client has
 * ended; of IPv4, IPv6 and IPv4 in IPv6; behind one that waits for data. Accepted they are what they would have been.
 */
#include "tcp.h"

enum { COUNT = 5, MUCH = 50000 };
static struct waits { int listener, clients[COUNT]; union address at, names[COUNT]; struct tcp_info info[COUNT]; } all[3], deferred;
static const size_t sizes[COUNT] = {0, 5, MUCH, 0, 700};

static void wait_for_all(int listener, unsigned n)
{
	for (int i = 0; i < 2000 && info_of(listener).tcpi_unacked != n; i++) usleep(1000);
	CHECK(info_of(listener).tcpi_unacked == n);
}

static void make(struct waits *w, enum family family)
{
	w->listener = listen_at(family, &w->at);
	for (int i = 0; i < COUNT; i++) {
		w->clients[i] = socket(w->at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		CHECK(w->clients[i] >= 0 && connect(w->clients[i], &w->at.any, sizeof w->at) == 0);
		w->names[i] = name_of(w->clients[i], 0);
		CHECK(fill_up(w->clients[i], sizes[i], (unsigned)i) == sizes[i]);
		if (i == 4) CHECK(shutdown(w->clients[i], SHUT_WR) == 0);
		for (int k = 0; k < 2000 && queued(w->clients[i], SIOCOUTQ); k++) usleep(1000);
		CHECK(queued(w->clients[i], SIOCOUTQ) == 0);
		w->info[i] = info_of(w->clients[i]);
	}
	wait_for_all(w->listener, COUNT);
}

static void check(struct waits *w)
{
	char got[8];
	CHECK(info_of(w->listener).tcpi_unacked == COUNT && fcntl(w->listener, F_SETFL, O_NONBLOCK) == 0);
	for (int i = 0; i < COUNT; i++) {
		union address peer = {}, own;
		socklen_t size = sizeof peer;
		int server = accept(w->listener, &peer.any, &size);
		CHECK(server >= 0 && memcmp(&peer, &w->names[i], size) == 0);
		own = name_of(server, 0);
		CHECK(memcmp(&own, &w->at, sizeof own) == 0);
		struct tcp_info info = info_of(server);
		CHECK((info.tcpi_options & 7) == (w->info[i].tcpi_options & 7) && info.tcpi_snd_wscale == w->info[i].tcpi_rcv_wscale &&
		      info.tcpi_rcv_wscale == w->info[i].tcpi_snd_wscale);
		CHECK(queued(server, SIOCINQ) == (int)sizes[i]);
		drain(server, sizes[i], (unsigned)i, i == 4);
		CHECK(send(server, "welcome", 7, 0) == 7 && recv(w->clients[i], got, 7, MSG_WAITALL) == 7 && memcmp(got, "welcome", 7) == 0);
		if (i != 4) {
			CHECK(fill_up(w->clients[i], MUCH, 9) > 0);
			drain(server, MUCH, 9, 0);
			CHECK(close(w->clients[i]) == 0 && recv(server, got, 1, 0) == 0);
		} else {
			CHECK(shutdown(server, SHUT_WR) == 0 && recv(w->clients[i], got, 1, 0) == 0);
		}
	}
	CHECK(accept(w->listener, NULL, NULL) == -1 && errno == EAGAIN);
}

static void make_deferred(void)
{
	deferred.listener = listen_at(FOUR, &deferred.at);
	CHECK(setsockopt(deferred.listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &(int){5}, sizeof(int)) == 0);
	deferred.clients[0] = socket(AF_INET, SOCK_STREAM, 0);
	CHECK(connect(deferred.clients[0], &deferred.at.any, sizeof deferred.at) == 0 && send(deferred.clients[0], "now", 3, 0) == 3);
	wait_for_all(deferred.listener, 1);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char got[8];
	int families = has_six() ? 3 : 1, before, after;
	socklen_t size = sizeof before;
	for (int i = 0; i < families; i++) make(&all[i], (enum family)i);
	make_deferred();
	CHECK(getsockopt(deferred.listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &before, &size) == 0);
	wait_go();
	for (int i = 0; i < families; i++) check(&all[i]);
	CHECK(getsockopt(deferred.listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, &after, &size) == 0 && after == before);
	int server = accept(deferred.listener, NULL, NULL);
	CHECK(server >= 0 && recv(server, got, 3, MSG_WAITALL) == 3 && memcmp(got, "now", 3) == 0);
	return finish();
}
